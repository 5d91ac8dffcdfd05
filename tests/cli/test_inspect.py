"""`stride inspect`: figures of known files, as tables and as JSON; bad numbers by place."""

import json

import numpy as np
import pytest

from stride.gguf import QuantType, open_gguf
from stride.gguf.quants import quantize
from stride.gguf.writer import write_gguf

N_VOCAB, N_EMBD, N_EXPERTS, TOP_K, FF = 64, 64, 8, 2, 32


def metadata(**changes):
    return {
        "general.architecture": "step35",
        "general.name": "tiny",
        "step35.context_length": 1024,
        "step35.embedding_length": N_EMBD,
        "step35.block_count": 2,
        "step35.feed_forward_length": 96,
        "step35.attention.head_count": [4, 6],
        "step35.attention.head_count_kv": 2,
        "step35.attention.key_length": 16,
        "step35.attention.value_length": 16,
        "step35.attention.layer_norm_rms_epsilon": 1e-5,
        "step35.attention.sliding_window": 32,
        "step35.attention.sliding_window_pattern": [False, True],
        "step35.rope.dimension_count": 16,
        "step35.expert_count": N_EXPERTS,
        "step35.expert_used_count": TOP_K,
        "step35.expert_feed_forward_length": FF,
        "tokenizer.ggml.tokens": [f"<{i}>" for i in range(N_VOCAB)],
        **changes,
    }


def tensors():
    rng = np.random.default_rng(0)

    def blocks(*shape):
        return quantize(rng.standard_normal(shape), QuantType.Q8_0), QuantType.Q8_0

    return {
        "token_embd.weight": blocks(N_VOCAB, N_EMBD),
        "output_norm.weight": np.ones(N_EMBD, np.float32),
        "output.weight": blocks(N_VOCAB, N_EMBD),
        "blk.0.attn_q.weight": blocks(64, N_EMBD),
        "blk.0.ffn_up.weight": blocks(96, N_EMBD),
        "blk.1.ffn_gate_inp.weight": np.ones((N_EXPERTS, N_EMBD), np.float32),
        "blk.1.ffn_up_exps.weight": blocks(N_EXPERTS, FF, N_EMBD),
    }


@pytest.fixture
def path(tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", metadata(), tensors().items())[0]


def facts(stride, *args):
    result = stride("inspect", *args, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_figures_of_a_known_file(stride, path):
    found = facts(stride, path, "-c", 100, "--no-probe")
    row = N_EMBD // 32 * 34
    assert found["total"]["tensors"] == 7
    assert found["file_bytes"] == path.stat().st_size
    roles = {group["label"]: group["bytes"] for group in found["roles"]}
    assert roles == {
        "token embedding": 64 * row,
        "output head": 64 * row,
        "attention": 64 * row,
        "dense feed-forward": 96 * row,
        "routed experts": N_EXPERTS * FF * row,
        "router": N_EXPERTS * N_EMBD * 4,
        "norms": N_EMBD * 4,
    }
    assert {group["label"]: group["tensors"] for group in found["types"]} == {"Q8_0": 5, "F32": 2}
    assert found["types"][0]["bits_per_weight"] == 8.5
    memory = found["memory"]
    whole_pages = 128 * 2 * (16 + 16) * 2
    assert memory["cache_full_layers"] == whole_pages
    assert memory["cache_window_layers"] == whole_pages  # a step's tokens and the window are more than these
    unused = 63 * row + (N_EXPERTS - TOP_K) * FF * row
    assert memory["read_per_token"] == found["total"]["bytes"] - unused
    assert memory["fits"] is True
    assert "speed" not in found


def test_a_tied_embedding_is_read_whole(stride, tmp_path):
    rest = {name: data for name, data in tensors().items() if name != "output.weight"}
    (path,) = write_gguf(tmp_path / "tied.gguf", metadata(), rest.items())
    found = facts(stride, path, "--no-probe")
    unused = (N_EXPERTS - TOP_K) * FF * (N_EMBD // 32 * 34)
    assert found["memory"]["read_per_token"] == found["total"]["bytes"] - unused


def test_the_expected_speed_is_bandwidth_over_bytes(stride, path):
    found = facts(stride, path)
    speed, memory = found["speed"], found["memory"]
    assert speed["bandwidth"] > 1e9
    assert speed["tokens_per_second_at_most"] == pytest.approx(speed["bandwidth"] / memory["read_per_token"], rel=1e-3)
    assert speed["tokens_per_second_at_most_full_context"] < speed["tokens_per_second_at_most"]


def test_tables_fit_80_columns_and_say_what_matters(stride, path):
    result = stride("inspect", path, "--tensors", COLUMNS="80")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if str(path) not in line)
    for text in ("Q8_0", "routed experts", "blk.1.ffn_up_exps.weight", "8 × 32 × 64", "It fits here", "at most"):
        assert text in result.stdout
    assert "<7>, … 56 more" in " ".join(result.stdout.split())


def test_all_metadata(stride, path):
    shortened = facts(stride, path, "--no-probe")["metadata"]["tokenizer.ggml.tokens"]
    assert shortened[-1] == "… 56 more"
    assert len(facts(stride, path, "--no-probe", "--metadata")["metadata"]["tokenizer.ggml.tokens"]) == N_VOCAB


def test_the_parts_of_a_split_model(stride, tmp_path):
    parts = write_gguf(tmp_path / "m.gguf", metadata(), tensors().items(), split_max_tensors=4)
    found = facts(stride, tmp_path, "--no-probe", "--tensors")
    assert found["files"] == [str(part) for part in parts]
    assert found["total"]["tensors"] == 7
    assert found["tensors"][-1]["file"] == parts[1].name


def test_a_model_that_does_not_run_is_shown_all_the_same(stride, tmp_path):
    (path,) = write_gguf(tmp_path / "m.gguf", {"general.architecture": "mamba"}, tensors().items())
    result = stride("inspect", path)
    assert result.returncode == 0, result.stderr
    assert "does not run" in result.stdout
    assert "mamba" in result.stdout
    assert facts(stride, path)["memory"] is None


def test_the_demo_model_without_an_argument(stride):
    assert facts(stride, "--no-probe", "--check")["check"] == {"finite": True, "types_not_checked": []}


def test_text_that_would_steer_the_terminal_is_escaped(stride, tmp_path):
    hostile = metadata(**{"general.name": "\x1b[31mred [bold]\nname", "general.description": "[/nothing]"})
    (path,) = write_gguf(tmp_path / "m.gguf", hostile, tensors().items())
    result = stride("inspect", path, "--no-probe")
    assert result.returncode == 0, result.stderr
    assert "\x1b[31m" not in result.stdout
    assert "[bold]" in result.stdout


def test_25_a_scale_that_is_not_finite_is_found_on_demand(stride, tmp_path):
    content = tensors()
    blocks, _ = content["output.weight"]
    blocks[5, :2] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
    (path,) = write_gguf(tmp_path / "bad.gguf", metadata(), content.items())
    with open_gguf(path) as file:
        tensor = file.tensors["output.weight"]
    assert stride("inspect", path, "--no-probe").returncode == 0
    result = stride("inspect", path, "--check", "--no-probe")
    assert result.returncode == 1
    place = f"tensor output.weight: at byte {tensor.offset + 5 * tensor.row_bytes}"
    assert result.stderr == f"stride: {path}: {place}: a scale is not a finite number\n"


@pytest.mark.parametrize("args", [["--cache-type", "q4"], ["-c", "0"]])
def test_wrong_options(stride, path, args):
    assert stride("inspect", path, *args).returncode != 0


def test_a_broken_file_is_one_line(stride, tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF")
    result = stride("inspect", path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"stride: {path}: at byte 4: ")
    assert len(result.stderr.splitlines()) == 1
