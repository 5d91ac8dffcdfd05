"""What int8 arithmetic costs: the CPU backend's distributions beside llama.cpp's, both from the exact ones.

    pip install llama-cpp-python gguf
    python scripts/make_golden.py --random 200 --seed 7 --out FOLDER    # random models and llama.cpp's divergences
    python benchmarks/accuracy.py FOLDER

For each quantised model of the folder: the mean Kullback-Leibler divergence, in nats, of the next token's distribution
from that of the dequantised weights in float32 (the numpy backend's). Tokens at which a router's choice is nearly tied
are left out, as any rounding may swap the two. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from stride import ops
from stride.bench.statistics import divergences, summarize
from stride.models import load_model, logits
from stride.ops.api import Routing
from stride.ops.numpy import NumpyBackend, routing_scores

TIE = 0.02
"""Scores of the last expert chosen and the first left out that are so close are a tie."""


class NumpyWithMargins(NumpyBackend):
    """Notes for each token how far the last expert chosen is ahead of the first one left out, in the closest router."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.margins = np.ones(n_tokens)

    def route(self, x: Any, router: Any, bias: Any, routing: Routing) -> Any:
        if routing.top_k < router.shape[0]:
            choice = routing_scores(x, router, routing) + (0 if bias is None else bias)
            ranked = np.sort(choice, axis=-1)[:, ::-1]
            margins = ranked[:, routing.top_k - 1] - ranked[:, routing.top_k]
            self.margins = np.minimum(self.margins, margins)
        return super().route(x, router, bias, routing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="that scripts/make_golden.py wrote")
    folder: Path = parser.parse_args().folder
    cases = json.loads((folder / "index.json").read_text())["cases"]
    rows = []
    for case in cases:
        if "llama_kl" not in case:
            continue
        with np.load(folder / f"{case['name']}.npz") as arrays:
            tokens, peer = arrays["tokens"].tolist(), arrays["llama_kl"]
        exact_backend = NumpyWithMargins(len(tokens))
        exact = logits(load_model(folder / case["file"], exact_backend), tokens, kind="f32")
        clear = exact_backend.margins > TIE
        found = divergences(exact, logits(load_model(folder / case["file"], ops.load("cpu")), tokens, kind="f32"))
        if np.any(clear):
            rows.append((case["name"], float(found[clear].mean()), float(peer[clear].mean()), int(clear.sum())))
    if not rows:
        parser.error(f"{folder} has no quantised model")
    print("| model | tokens | stride | llama.cpp | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    for name, own, peer, n in rows:
        print(f"| {name} | {n} | {own:.2e} | {peer:.2e} | {own / peer:.2f} |")
    own, peer = (statistics.fmean(row[i] for row in rows) for i in (1, 2))
    ratio = summarize([row[1] / row[2] for row in rows])
    assert ratio is not None
    print(f"\n{len(rows)} models: mean {own:.2e} and {peer:.2e} nats; median ratio {ratio.median:.2f}", end=" ")
    print(f"[{ratio.low:.2f}, {ratio.high:.2f}]; Stride is nearer in {sum(row[1] <= row[2] for row in rows)}")
    fields = ("name", "stride", "llama_cpp", "tokens")
    print(json.dumps({"benchmark": "accuracy", "models": [dict(zip(fields, row, strict=True)) for row in rows]}))


if __name__ == "__main__":
    main()
