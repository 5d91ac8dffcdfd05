"""The demo model that ships inside the package, and the script that builds it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stride import LLM, demo, ops
from stride.bench.client import Answer
from stride.bench.tasks import SPEED, TOOL_CALLS, grade_tools
from stride.chat.template import builtin
from stride.chat.tokenizer import Tokenizer
from stride.gguf import QuantType, open_gguf
from stride.models import load_model, logits, read_config
from stride.models.config import MoeConfig

ROOT = Path(__file__).parents[1]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with seeded weights, which takes no training: its first part."""
    folder = tmp_path_factory.mktemp("seeded")
    subprocess.run([sys.executable, ROOT / "demo" / "build.py", "--out", folder], check=True, capture_output=True)
    return folder / demo.path().name


def test_the_parts_are_those_that_the_readme_names() -> None:
    named = re.findall(r"[0-9a-f]{64}", (ROOT / "demo" / "README.md").read_text(encoding="utf-8"))
    with open_gguf(demo.path()) as file:
        parts = file.paths
    assert len(parts) == 2
    assert [sha256(part) for part in parts] == named
    assert sum(part.stat().st_size for part in parts) <= 16_000_000


def test_it_is_what_the_script_builds_but_for_the_numbers(seeded: Path) -> None:
    with open_gguf(demo.path()) as shipped, open_gguf(seeded) as built:
        keys = {key for key in shipped.metadata if key != "general.description"}
        assert keys == {key for key in built.metadata if key != "general.description"}
        assert all(np.array_equal(shipped.metadata[key], built.metadata[key]) for key in keys)
        kinds, theirs = (
            {name: (tensor.shape, tensor.type) for name, tensor in file.tensors.items()} for file in (shipped, built)
        )
    assert kinds == theirs


def test_building_again_gives_the_same_bytes(seeded: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "demo" / "build.py", "--out", tmp_path], check=True, capture_output=True)
    for part in sorted(seeded.parent.iterdir()):
        assert (tmp_path / part.name).read_bytes() == part.read_bytes()


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


def test_seeded_logits_are_tame(seeded: Path) -> None:
    model = load_model(seeded, ops.load("numpy"))
    found = logits(model, [0, *range(300, 330)])
    assert np.isfinite(found).all()
    assert 0.2 < found.std() < 5


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as llm:
        yield llm


def test_it_explains_in_the_posts_form(llm: LLM) -> None:
    answer = llm.chat([{"role": "user", "content": SPEED.prompt}], temperature=0, max_tokens=SPEED.max_tokens)
    assert answer.finish_reason == "stop"
    assert "quantum entanglement" in (answer.message.reasoning or "")
    sentences = re.findall(r"[^.]+\.", answer.text)
    assert len(sentences) == 3
    assert "particles" in sentences[0]


def test_it_makes_both_calls_of_the_posts_tool_test(llm: LLM) -> None:
    body = TOOL_CALLS.body(nonce="1", seed=1, model=None)
    answer = llm.chat(body["messages"], body["tools"], temperature=0, max_tokens=TOOL_CALLS.max_tokens)
    said = Answer(answer.text, answer.message.reasoning or "", answer.message.tool_calls, answer.finish_reason)
    assert grade_tools(said).outcome == "pass"
