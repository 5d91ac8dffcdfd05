"""The demo model that ships inside the package, and the script that builds it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stride import demo, ops
from stride.chat.template import builtin
from stride.chat.tokenizer import Tokenizer
from stride.gguf import QuantType, open_gguf
from stride.models import load_model, logits, read_config
from stride.models.config import MoeConfig

ROOT = Path(__file__).parents[1]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_file_is_the_one_that_the_readme_names() -> None:
    (named,) = re.findall(r"[0-9a-f]{64}", (ROOT / "demo" / "README.md").read_text(encoding="utf-8"))
    assert sha256(demo.path()) == named
    assert demo.path().stat().st_size <= 16_000_000


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "demo.gguf"
    subprocess.run([sys.executable, ROOT / "demo" / "build.py", "--out", out], check=True, capture_output=True)
    assert sha256(out) == sha256(demo.path())


def test_it_has_every_feature_of_the_architecture() -> None:
    with open_gguf(demo.path()) as file:
        config, tensors, metadata = read_config(file), file.tensors, file.metadata
        assert metadata.string("tokenizer.chat_template") == builtin("step35")
        assert (tensors["rope_freqs.weight"].dequantize() > 1).any()
    assert [layer.window is None for layer in config.layers] == [True, False, False, False] * 2 + [True]
    assert config.layers[0].n_heads < config.layers[1].n_heads
    assert len(config.draft_layers) == 3
    assert all(layer.window for layer in config.draft_layers)
    assert config.layers[0].rope.dims == config.layers[1].rope.dims // 2
    experts = [layer.ffn for layer in config.layers if isinstance(layer.ffn, MoeConfig)]
    assert len(experts) == len(config.layers) - 2
    assert [ffn.limit for ffn in experts][-3:] == [0, 7, 7]
    assert [ffn.shared_limit for ffn in experts][-2:] == [0, 16]
    assert all("_exps" in name for name, tensor in tensors.items() if tensor.type is QuantType.IQ4_XS)
    assert {tensor.type for tensor in tensors.values()} == {QuantType.F32, QuantType.Q8_0, QuantType.IQ4_XS}


@pytest.mark.parametrize("text", ["Hello, world!\n", "def f(x: int) -> int:\n    return x * 128", "日本語, Ärger 🙂"])
def test_its_tokenizer_keeps_any_text(text: str) -> None:
    with open_gguf(demo.path()) as file:
        tokenizer = Tokenizer.from_metadata(file.metadata)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_its_logits_are_tame() -> None:
    model = load_model(demo.path(), ops.load("numpy"))
    found = logits(model, [0, *range(300, 330)])
    assert np.isfinite(found).all()
    assert 0.2 < found.std() < 5
