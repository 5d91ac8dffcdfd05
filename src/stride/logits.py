"""Logits after each token of a text: a request like others, which are computed beside it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from stride.engine import Engine, Failed, Finished, Output, Request
from stride.ops.api import FloatArray
from stride.types import SamplingParams

_PARAMS = SamplingParams(max_tokens=0, cache_prompt=False)


def prompt_logits(engine: Engine, token_ids: Sequence[int], cache_scope: str = "") -> FloatArray:
    """float32 [n_tokens, n_vocab]; waits for them.

    Raises:
        StrideError: the engine refuses the request, or fails it.
    """
    parts: list[FloatArray] = []
    done: Future[None] = Future()

    def deliver(output: Output) -> None:
        match output:
            case Failed(error):
                done.set_exception(error)
            case Finished():
                done.set_result(None)

    request = Request(token_ids, _PARAMS, deliver, prompt_logits=parts.append, cache_scope=cache_scope)
    engine.submit(request)
    try:
        done.result()
    except BaseException:
        engine.cancel(request)
        raise
    return np.concatenate(parts)
