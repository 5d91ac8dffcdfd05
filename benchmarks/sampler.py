"""Time to choose one token from a vocabulary of 128,896, per sampler configuration. Ends in one JSON line."""

from __future__ import annotations

import json
import time
import timeit
from typing import Any

import numpy as np

from stride.engine.sampler import Sampler
from stride.engine.sampler_logprobs import logprobs_of
from stride.types import SamplingParams, TokenSet

N_VOCAB = 128_896
REPEATS = 200
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "default": {},
    "default+penalties": {"repeat_penalty": 1.1, "presence_penalty": 0.5},
    "default+bias": {"logit_bias": dict.fromkeys(range(100), 1.0)},
    "default+mask": {},
    "default+free text": {},
    "top_k=1000": {**OFF, "top_k": 1000},
    "no filter": OFF,
    "min_p=0.05": {**OFF, "min_p": 0.05},
    "top_p=0.95": {**OFF, "top_p": 0.95},
    "top_p=0.95 min_p=0.05": {**OFF, "top_p": 0.95, "min_p": 0.05},
    "typical_p=0.9": {**OFF, "typical_p": 0.9},
    "default+dry, all tokens": {"dry_multiplier": 0.8, "dry_penalty_last_n": -1},
    "default+xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.01},
    "default+dynatemp": {"dynatemp_range": 0.5},
    "top_n_sigma=1": {**OFF, "top_n_sigma": 1.0},
    "mirostat": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "all, top_k=0": {"top_k": 0, "typical_p": 0.9, "repeat_penalty": 1.1},
}


def median_us(sampler: Sampler, logits: np.ndarray, allowed: TokenSet | None) -> float:
    """Median of REPEATS draws, each from other logits, as in generation."""
    times = []
    for i in range(REPEATS):
        row = logits[i % len(logits)]
        start = time.perf_counter()
        sampler.accept(sampler.sample(row, allowed))
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


def logprobs_us(logits: np.ndarray, n_top: int) -> float:
    """Median time of the log probabilities of a token and the likeliest."""
    return 1e6 * float(np.median(timeit.repeat(lambda: logprobs_of(logits, 5, n_top), number=1, repeat=REPEATS)))


def main() -> None:
    random = np.random.default_rng(0)
    noise = random.standard_normal((16, N_VOCAB))
    peaked = 2 * noise
    peaked[:, :20] += 12
    # Flat: nucleus of about 110,000 tokens, the worst case. Peaked: of a few tens, as in text.
    shapes = {"flat": noise.astype(np.float32), "peaked": peaked.astype(np.float32)}
    allowed = TokenSet.of(random.random(N_VOCAB) < 0.2)
    free = TokenSet(np.arange(1000), excluded=True)
    masks = {"default+mask": allowed, "default+free text": free}
    prompt = random.integers(0, N_VOCAB, 1000)
    result: dict[str, dict[str, float]] = {}
    print(f"{'median µs per token':24s}" + "".join(f"{shape:>10s}" for shape in shapes))
    for name, options in CONFIGURATIONS.items():
        result[name] = {}
        for shape, logits in shapes.items():
            sampler = Sampler(SamplingParams(seed=0, **options), prompt, N_VOCAB)
            result[name][shape] = round(median_us(sampler, logits, masks.get(name)), 1)
        print(f"{name:24s}" + "".join(f"{value:10.1f}" for value in result[name].values()))
    for n_top in (0, 20):
        name = f"logprobs, {n_top} top"
        result[name] = {shape: round(logprobs_us(logits[0], n_top), 1) for shape, logits in shapes.items()}
        print(f"{name:24s}" + "".join(f"{value:10.1f}" for value in result[name].values()))
    print(json.dumps({"benchmark": "sampler", "n_vocab": N_VOCAB, "numpy": np.__version__, "median_us": result}))


if __name__ == "__main__":
    main()
