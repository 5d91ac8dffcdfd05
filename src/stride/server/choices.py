"""Several continuations of one request: the same prompt, other random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from stride.stream import Stream
from stride.types import SamplingParams


def start_all(starts: Iterable[Callable[[SamplingParams], Stream]], params: SamplingParams, n: int) -> list[Stream]:
    """``n`` streams of each start, in this order; all of them, or none. A seed is the first one's, and counts up.

    Raises:
        StrideError: one of them was refused.
    """
    streams: list[Stream] = []
    try:
        for start in starts:
            for i in range(n):
                seed = None if params.seed is None else params.seed + i
                streams.append(start(replace(params, seed=seed)))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return streams
