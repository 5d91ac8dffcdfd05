"""The demo model in PyTorch is the model that its file is: the same logits, of the trunk and of every draft head."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

import build  # noqa: E402
import config  # noqa: E402
import model as training  # noqa: E402

from stride import ops  # noqa: E402
from stride.models import load_model  # noqa: E402
from stride.models.decoder import Decoder  # noqa: E402
from stride.ops.api import PAGE_TOKENS, Batch  # noqa: E402


def test_logits_of_the_exported_file_are_those_of_the_trained_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = training.Model().eval()
    for block in trained.blocks:
        if isinstance(block.ffn, training.Experts):
            block.ffn.bias += 0.2 * torch.randn(config.N_EXPERTS)
    n = 2 * config.WINDOW
    tokens = torch.randint(3, config.N_VOCAB, (1, n + config.N_DRAFT))
    layout = training.Layout(torch.zeros((1, n), dtype=torch.long), torch.float32)
    with torch.no_grad():
        hidden = trained.hidden(tokens[:, :n], layout, torch.float32)
        wanted = [trained.logits(hidden)]
        for index in range(config.N_DRAFT):
            hidden, logits = trained.draft(index, tokens[:, index + 1 : n + index + 1], hidden, layout)
            wanted.append(logits)

    path, _ = build.build(training.tensors(trained), "a test", tmp_path, build.exact)
    decoder = load_model(path, ops.load("numpy"))
    found = all_logits(decoder, tokens[0].numpy(), n)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs[0].numpy(), atol=1e-3)


def all_logits(decoder: Decoder, tokens: np.ndarray, n: int) -> list[np.ndarray]:
    """Of the trunk and of each head, chained: [n, vocabulary] each."""
    n_pages = -(-n // PAGE_TOKENS)
    cache = decoder.new_cache([n_pages] * len(decoder.windows), "f32")
    tables = (np.arange(n_pages, dtype=np.int32)[None],) * len(decoder.windows)
    every = np.arange(n, dtype=np.int32)

    def batch(first: int) -> Batch:
        ids = tokens[first : first + n].astype(np.int32)
        return Batch(ids, every, np.array([0, n], np.int32), tables, every)

    hidden = decoder.hidden(batch(0), cache)
    state, logits = decoder.residual(hidden, every), decoder.logits(hidden, every)
    found = [logits]
    for index in range(config.N_DRAFT):
        state, logits = decoder.draft(index, state, batch(index + 1), cache)
        found.append(logits)
    return found
