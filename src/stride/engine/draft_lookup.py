"""Drafts from the text so far: what followed when the last few tokens stood there before (prompt lookup)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stride.engine.request import Request
from stride.engine.scheduler import Row
from stride.ops.api import FloatArray, IntArray

LEAST, MOST = 2, 16
"""Tokens that have to be alike for a draft, and those that are compared at most."""


class LookupDrafter:
    """A `Drafter` that needs no model: good where a text repeats itself, or its prompt."""

    n_most = 16
    reach = 0
    probe_every = 1  # looking costs nearly nothing

    def computed(self, row: Row, states: FloatArray) -> None:
        """See `Drafter`."""

    def propose(self, lengths: Mapping[Request, int]) -> None:
        """See `Drafter`."""
        for request, length in lengths.items():
            if length:
                for token_id in continuation(request.token_ids[: request.n_tokens], length).tolist():
                    request.add_draft(token_id)


def continuation(tokens: IntArray, n: int) -> IntArray:
    """The n tokens to follow, going by the latest of the places that are longest like the end; none, if none is.

    A place so near that its continuation reaches the end is taken to go round in a circle.
    """
    ends = np.flatnonzero(tokens[:-1] == tokens[-1])
    n_alike = min(1, len(ends))
    while n_alike and n_alike < MOST:
        longer = ends[ends >= n_alike]
        longer = longer[tokens[longer - n_alike] == tokens[-1 - n_alike]]
        if not len(longer):
            break
        ends, n_alike = longer, n_alike + 1
    if n_alike < LEAST:
        return tokens[:0]
    return np.resize(tokens[ends[-1] + 1 :], n)
