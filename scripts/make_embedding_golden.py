#!/usr/bin/env python3
"""Make ``tests/golden/embeddings.npz``: vectors that llama.cpp computes with models of ``tests/golden``.

    pip install numpy gguf llama-cpp-python
    python scripts/make_embedding_golden.py

The arrays, for each model NAME of `MODELS`:

    tokens           int32 [longest], of which a text is the first so many
    lengths          int32 [texts], how many
    NAME.POOLING     float32 [texts, embedding], mean, cls or last, as llama.cpp gives it with ``pooling_type`` set: not
                     normalised

llama.cpp runs with an F32 cache, no flash attention and each text as one batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import llama_cpp
import numpy as np
from golden_model import N_VOCAB
from golden_reference import Reference

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
MODELS = {
    "qwen2": "biases on q, k and v",
    "llama-factors": "llama3 rope factors",
    "step35-clamps": "experts, full and sliding layers",
    "step35-long": "a window of 64, which the longest texts leave",
    "step35-iq4_xs": "quantised experts",
    "llama-q4_k-q6_k": "quantised weights",
}
POOLINGS = {
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
}
LENGTHS = (1, 2, 31, 33, 100, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GOLDEN / "embeddings.npz", help="file to write")
    arguments = parser.parse_args()
    tokens = np.random.default_rng(41).integers(0, N_VOCAB, max(LENGTHS), dtype=np.int32)
    arrays = {"tokens": tokens, "lengths": np.array(LENGTHS, np.int32)}
    for name in MODELS:
        with Reference(GOLDEN / f"{name}.gguf") as reference:
            for pooling, number in POOLINGS.items():
                vectors = [reference.embedding(tokens[:length], number) for length in LENGTHS]
                arrays[f"{name}.{pooling}"] = np.array(vectors)
    np.savez_compressed(arguments.out, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, {len(MODELS)} models, {len(LENGTHS)} texts")


if __name__ == "__main__":
    main()
