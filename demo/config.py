"""The demo model's shape: Step 3.5 Flash, every feature of it, a ten-thousandth of its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stride.models.rope import llama3_factors

N_VOCAB = 2560
N_EMBD = 256
N_TRUNK = 9
N_DRAFT = 3
N_BLOCKS = N_TRUNK + N_DRAFT
N_DENSE = 2
HEAD_DIM = 64
N_KV_HEADS = 2
N_HEADS_FULL = 4
N_HEADS_SLIDING = 6
WINDOW = 128
CONTEXT = 8192
FF_DENSE = 384
FF_EXPERT = 256
N_EXPERTS = 7
TOP_K = 2
EXPERT_SCALE = 3.0
NORM_EPSILON = 1e-5
THETA_FULL = 5e6
THETA_SLIDING = 1e4
ROPE_FACTOR, ROPE_LOW, ROPE_HIGH, ROPE_ORIGINAL_CONTEXT = 2.0, 1.0, 32.0, 4096
ROUTED_LIMIT = 7.0
SHARED_LIMIT = 16.0
SEED = 35

SLIDING = tuple(index % 4 != 0 or index >= N_TRUNK for index in range(N_BLOCKS))
"""Whether a block looks through a window: one in four of the trunk does not, all draft blocks do."""


def n_heads(block: int) -> int:
    return N_HEADS_SLIDING if SLIDING[block] else N_HEADS_FULL


def is_dense(block: int) -> bool:
    return block < N_DENSE or block >= N_TRUNK


def metadata() -> dict[str, Any]:
    """The ``step35.*`` keys of the file, without the prefix. Clamps sit where the real model has them."""
    return {
        "context_length": CONTEXT,
        "embedding_length": N_EMBD,
        "block_count": N_BLOCKS,
        "feed_forward_length": FF_DENSE,
        "attention.head_count": [n_heads(block) for block in range(N_BLOCKS)],
        "attention.head_count_kv": [N_KV_HEADS] * N_BLOCKS,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": list(SLIDING),
        "attention.layer_norm_rms_epsilon": NORM_EPSILON,
        "rope.dimension_count": HEAD_DIM,
        "rope.freq_base": THETA_FULL,
        "rope.freq_base_swa": THETA_SLIDING,
        "expert_count": N_EXPERTS,
        "expert_used_count": TOP_K,
        "expert_feed_forward_length": FF_EXPERT,
        "expert_shared_feed_forward_length": FF_EXPERT,
        "expert_weights_scale": EXPERT_SCALE,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "leading_dense_block_count": N_DENSE,
        "nextn_predict_layers": N_DRAFT,
        "swiglu_clamp_exp": [ROUTED_LIMIT if N_TRUNK - 2 <= block < N_TRUNK else 0.0 for block in range(N_BLOCKS)],
        "swiglu_clamp_shexp": [SHARED_LIMIT if block == N_TRUNK - 1 else 0.0 for block in range(N_BLOCKS)],
    }


def rope_factors() -> np.ndarray:
    """llama3 scaling of the half that full layers rotate; the rest of the tensor is padding."""
    factors = np.ones(HEAD_DIM // 2, np.float32)
    factors[: HEAD_DIM // 4] = llama3_factors(
        HEAD_DIM // 2, THETA_FULL, ROPE_FACTOR, ROPE_LOW, ROPE_HIGH, ROPE_ORIGINAL_CONTEXT
    )
    return factors


def shapes() -> Mapping[str, tuple[int, ...]]:
    """Every tensor of the file, by name, in the file's order: [(experts,) out, in], vectors [size]."""
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "output.weight": (N_VOCAB, N_EMBD),
        "rope_freqs.weight": (HEAD_DIM // 2,),
    }

    def feed_forward(prefix: str, suffix: str, width: int, *stack: int) -> None:
        tensors[f"{prefix}ffn_gate{suffix}.weight"] = (*stack, width, N_EMBD)
        tensors[f"{prefix}ffn_up{suffix}.weight"] = (*stack, width, N_EMBD)
        tensors[f"{prefix}ffn_down{suffix}.weight"] = (*stack, N_EMBD, width)

    for block in range(N_BLOCKS):
        prefix, heads = f"blk.{block}.", n_heads(block)
        tensors[prefix + "attn_norm.weight"] = (N_EMBD,)
        tensors[prefix + "attn_q.weight"] = (heads * HEAD_DIM, N_EMBD)
        tensors[prefix + "attn_k.weight"] = (N_KV_HEADS * HEAD_DIM, N_EMBD)
        tensors[prefix + "attn_v.weight"] = (N_KV_HEADS * HEAD_DIM, N_EMBD)
        tensors[prefix + "attn_output.weight"] = (N_EMBD, heads * HEAD_DIM)
        tensors[prefix + "attn_q_norm.weight"] = (HEAD_DIM,)
        tensors[prefix + "attn_k_norm.weight"] = (HEAD_DIM,)
        tensors[prefix + "attn_gate.weight"] = (heads, N_EMBD)
        tensors[prefix + "ffn_norm.weight"] = (N_EMBD,)
        if is_dense(block):
            feed_forward(prefix, "", FF_DENSE)
        else:
            tensors[prefix + "ffn_gate_inp.weight"] = (N_EXPERTS, N_EMBD)
            tensors[prefix + "exp_probs_b.bias"] = (N_EXPERTS,)
            feed_forward(prefix, "_exps", FF_EXPERT, N_EXPERTS)
            feed_forward(prefix, "_shexp", FF_EXPERT)
        if block >= N_TRUNK:
            tensors[prefix + "nextn.eh_proj.weight"] = (N_EMBD, 2 * N_EMBD)
            tensors[prefix + "nextn.enorm.weight"] = (N_EMBD,)
            tensors[prefix + "nextn.hnorm.weight"] = (N_EMBD,)
            tensors[prefix + "nextn.shared_head_norm.weight"] = (N_EMBD,)
    return tensors
