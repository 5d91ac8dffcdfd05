"""Traces: small ones that hypothesis draws, and a long one whose routing is skewed and repeats itself."""

import numpy as np
from hypothesis import strategies as st

from stride.experts.trace import Record, Shape, Trace


@st.composite
def traces(draw, least_steps=0):
    """A few layers and experts; steps of one token, of some, and of many."""
    n_layers, n_experts = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    shape = Shape("tiny", n_layers, n_experts, draw(st.integers(1, n_experts)))
    seed = draw(st.integers(0, 2**32 - 1))
    sizes = draw(st.lists(st.sampled_from([1, 1, 1, 2, 8, 20]), min_size=least_steps, max_size=least_steps + 12))
    rng = np.random.default_rng(seed)

    def chosen(n):
        return np.stack([rng.permutation(n_experts)[: shape.top_k] for _ in range(n)]).astype("<u2")

    records = [Record(layer, chosen(n)) for n in sizes for layer in range(n_layers)]
    return Trace(shape, records)


def skewed(n_steps=200, n_layers=4, n_experts=32, top_k=4, seed=0):
    """Half of a token's experts are those of the token before, the rest by a power law: like what models do."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, n_experts + 1)
    orders = [rng.permutation(n_experts) for _ in range(n_layers)]
    last = [rng.permutation(n_experts)[:top_k] for _ in range(n_layers)]
    trace = Trace(Shape("skewed", n_layers, n_experts, top_k))
    for _ in range(n_steps):
        for layer in range(n_layers):
            kept = rng.permutation(last[layer])[: top_k // 2]
            others = rng.choice(n_experts, n_experts, replace=False, p=weights / weights.sum())
            fresh = [e for e in orders[layer][others] if e not in kept][: top_k - len(kept)]
            last[layer] = np.array([*kept, *fresh])
            trace.records.append(Record(layer, last[layer].astype("<u2")[None]))
    return trace
