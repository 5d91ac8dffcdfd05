"""How a model routes, as far as it matters for a cache: is the work shared out evenly, does it repeat itself?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stride.experts.trace import Record, Trace

BUSIEST = (0.05, 0.1, 0.25, 0.5)
"""Shares of the experts whose part of all uses is told."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Of all uses of experts: ``busiest[i]`` falls to the busiest `BUSIEST` ``[i]`` of each layer's experts.

    ``overlap`` is the share of a token's experts that the token before it used too, in the same layer;
    ``overlap_by_chance`` what it would be if all experts were equally likely. None where no two tokens follow each
    other.
    """

    n_steps: int
    n_tokens: int
    n_generated: int
    busiest: tuple[float, ...]
    unused: float
    overlap: float | None
    overlap_by_chance: float


def describe(trace: Trace, most_generated: int) -> Routing:
    """Figures of a trace; steps of ``most_generated`` tokens at most count as generated.

    Tokens that follow each other are those of one step, and of two where both have one.
    """
    shape, steps = trace.shape, list(trace.steps())
    counts = np.zeros((shape.n_layers, shape.n_experts), np.int64)
    shared = compared = 0
    last: dict[int, Record] = {}
    for record in trace.records:
        np.add.at(counts[record.layer], record.ids.ravel(), 1)
        ids, before = record.ids, last.get(record.layer)
        if before is not None and len(before.ids) == len(ids) == 1:
            ids = np.concatenate([before.ids, ids])
        last[record.layer] = record
        if len(ids) > 1:
            same = ids[1:, :, None] == ids[:-1, None, :]
            shared += int(same.any(-1).sum())
            compared += ids[1:].size
    falling = -np.sort(-counts, axis=1)
    n_uses = counts.sum()
    part = falling.cumsum(axis=1).sum(axis=0) / max(1, n_uses)
    return Routing(
        n_steps=len(steps),
        n_tokens=sum(len(step[0].ids) for step in steps),
        n_generated=sum(len(step[0].ids) for step in steps if len(step[0].ids) <= most_generated),
        busiest=tuple(float(part[max(1, round(share * shape.n_experts)) - 1]) for share in BUSIEST),
        unused=float((counts == 0).mean()),
        overlap=shared / compared if compared else None,
        overlap_by_chance=shape.top_k / shape.n_experts,
    )
