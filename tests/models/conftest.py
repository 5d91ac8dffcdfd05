"""Tiny model files, written with the format's own package, whole or with something wrong."""

from pathlib import Path

import gguf
import numpy as np
import pytest

N_VOCAB, N_EMBD, HEAD_DIM, N_EXPERTS = 40, 64, 32, 5

STEP35_METADATA = {
    "block_count": 6,
    "context_length": 256,
    "embedding_length": N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": [4, 6, 6, 6, 6, 6],
    "attention.head_count_kv": [2] * 6,
    "attention.key_length": HEAD_DIM,
    "attention.value_length": HEAD_DIM,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 8,
    "attention.sliding_window_pattern": [False, True, True, True, False, True],
    "rope.dimension_count": HEAD_DIM,
    "rope.freq_base": 5e6,
    "rope.freq_base_swa": 1e4,
    "expert_count": N_EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": 32,
    "expert_shared_feed_forward_length": 48,
    "expert_weights_scale": 3.0,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
    "leading_dense_block_count": 1,
    "nextn_predict_layers": 2,
    "swiglu_clamp_exp": [0.0, 0.0, 0.0, 7.0, 0.0, 0.0],
    "swiglu_clamp_shexp": [0.0, 0.0, 0.0, 16.0, 0.0, 0.0],
}


def step35_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the file that the metadata above describes."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "output.weight": (N_VOCAB, N_EMBD),
        "rope_freqs.weight": (HEAD_DIM // 2,),
    }
    for i in range(STEP35_METADATA["block_count"]):
        p, h = f"blk.{i}.", STEP35_METADATA["attention.head_count"][i]
        shapes |= {
            p + "attn_norm.weight": (N_EMBD,),
            p + "attn_q.weight": (h * HEAD_DIM, N_EMBD),
            p + "attn_k.weight": (2 * HEAD_DIM, N_EMBD),
            p + "attn_v.weight": (2 * HEAD_DIM, N_EMBD),
            p + "attn_q_norm.weight": (HEAD_DIM,),
            p + "attn_k_norm.weight": (HEAD_DIM,),
            p + "attn_gate.weight": (h, N_EMBD),
            p + "attn_output.weight": (N_EMBD, h * HEAD_DIM),
            p + "ffn_norm.weight": (N_EMBD,),
        }
        if 1 <= i < 4:
            shapes |= {
                p + "ffn_gate_inp.weight": (N_EXPERTS, N_EMBD),
                p + "exp_probs_b.bias": (N_EXPERTS,),
                p + "ffn_gate_exps.weight": (N_EXPERTS, 32, N_EMBD),
                p + "ffn_up_exps.weight": (N_EXPERTS, 32, N_EMBD),
                p + "ffn_down_exps.weight": (N_EXPERTS, N_EMBD, 32),
                p + "ffn_gate_shexp.weight": (48, N_EMBD),
                p + "ffn_up_shexp.weight": (48, N_EMBD),
                p + "ffn_down_shexp.weight": (N_EMBD, 48),
            }
        else:
            shapes |= {
                p + "ffn_gate.weight": (96, N_EMBD),
                p + "ffn_up.weight": (96, N_EMBD),
                p + "ffn_down.weight": (N_EMBD, 96),
            }
        if i >= 4:
            shapes |= {
                p + "nextn.eh_proj.weight": (N_EMBD, 2 * N_EMBD),
                p + "nextn.enorm.weight": (N_EMBD,),
                p + "nextn.hnorm.weight": (N_EMBD,),
                p + "nextn.shared_head_norm.weight": (N_EMBD,),
            }
    return shapes


def write_file(path: Path, architecture: str, metadata: dict, shapes: dict, n_tokens: int = N_VOCAB) -> Path:
    """An F32 file with random weights of those shapes. Metadata keys without a dot prefix get the architecture's."""
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in metadata.items():
        name = key if key.startswith("general.") else f"{architecture}.{key}"
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case float():
                writer.add_float32(name, value)
            case str():
                writer.add_string(name, value)
            case list():
                writer.add_array(name, value)
    writer.add_token_list([f"<{i}>" for i in range(n_tokens)])
    rng = np.random.default_rng(7)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
        writer.add_tensor(name, np.abs(values) + 1 if len(shape) == 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def write_model():
    """Writes any architecture's file; see `write_file`."""
    return write_file


@pytest.fixture
def step35(tmp_path):
    """Writes a step35 file; keyword ``metadata`` and ``shapes`` change it (None removes an entry)."""

    def write(metadata=None, shapes=None, n_tokens=N_VOCAB):
        def changed(base, changes):
            return {key: value for key, value in {**base, **(changes or {})}.items() if value is not None}

        return write_file(
            tmp_path / "tiny.gguf",
            "step35",
            changed(STEP35_METADATA, metadata),
            changed(step35_shapes(), shapes),
            n_tokens,
        )

    write.shapes = step35_shapes()
    return write
