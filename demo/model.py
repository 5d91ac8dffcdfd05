"""The demo model in PyTorch, for training: the same sums as `stride.models.decoder` makes of its file.

Sequences are packed: a row of tokens holds several documents, and none sees another.
"""

from __future__ import annotations

from collections.abc import Mapping

import config
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FULL_MASK = -1e4
"""Added to the score of what must not be seen: far below every score, and finite in bfloat16."""


class Layout:
    """What attention needs to know of a batch: who sees whom, and how far each position is rotated.

    ``documents`` [b, t] numbers the documents of each row. t is a multiple of the window.
    """

    def __init__(self, documents: Tensor, dtype: torch.dtype) -> None:
        (b, t), w = documents.shape, config.WINDOW
        at = torch.arange(t)
        same = documents[:, :, None] == documents[:, None, :]
        self.full = torch.where(same & (at[:, None] >= at), 0.0, FULL_MASK).to(dtype)[:, None]  # [b, 1, t, t]
        # A block of the window's length sees itself and the block before.
        blocks = documents.view(b, t // w, w)
        before = F.pad(blocks, (0, 0, 1, 0), value=-1)[:, :-1]
        seen = torch.cat([before, blocks], -1)  # [b, n, 2w]
        back = torch.arange(w)[:, None] + w - torch.arange(2 * w)
        visible = (blocks[..., :, None] == seen[..., None, :]) & (back >= 0) & (back < w)
        self.sliding = torch.where(visible, 0.0, FULL_MASK).to(dtype).view(-1, 1, w, 2 * w)  # [b n, 1, w, 2w]
        self.rotations = {is_sliding: _rotation(at, is_sliding, dtype) for is_sliding in (False, True)}


def _rotation(at: Tensor, is_sliding: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [t, 1, half] of the dimensions that a layer rotates."""
    half = config.HEAD_DIM // 2 if is_sliding else config.HEAD_DIM // 4
    theta = config.THETA_SLIDING if is_sliding else config.THETA_FULL
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    if not is_sliding:
        frequencies = frequencies / torch.tensor(config.rope_factors()[:half], dtype=torch.float64)
    angles = at[:, None] * frequencies.float().double()
    return angles.cos()[:, None].to(dtype), angles.sin()[:, None].to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), config.NORM_EPSILON)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def swiglu(gate_up: Tensor, limit: float) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    if limit > 0:
        return F.silu(gate).clamp(max=limit) * up.clamp(-limit, limit)
    return F.silu(gate) * up


class _Gather(torch.autograd.Function):
    """Rows in another order, each ``top_k`` times; ``back`` is where each copy went."""

    @staticmethod
    def forward(ctx, x, order, back):
        ctx.back, ctx.shape = back, x.shape
        return x.index_select(0, torch.div(order, config.TOP_K, rounding_mode="floor"))

    @staticmethod
    def backward(ctx, gradient):
        return gradient.index_select(0, ctx.back).view(-1, config.TOP_K, ctx.shape[-1]).sum(1), None, None


class _Scatter(torch.autograd.Function):
    """The inverse: rows back in the order of their tokens."""

    @staticmethod
    def forward(ctx, x, order, back):
        ctx.order = order
        return x.index_select(0, back)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.index_select(0, ctx.order), None, None


def _matrix(*shape: int, gain: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * gain * shape[-1] ** -0.5)


class Attention(nn.Module):
    def __init__(self, block: int) -> None:
        super().__init__()
        self.is_sliding, self.n_heads = config.SLIDING[block], config.n_heads(block)
        d, dim, kv = config.N_EMBD, config.HEAD_DIM, config.N_KV_HEADS
        self.norm = nn.Parameter(torch.ones(d))
        self.q, self.k, self.v = (_matrix(n * dim, d) for n in (self.n_heads, kv, kv))
        self.gate = _matrix(self.n_heads, d, gain=0.1)
        self.output = _matrix(d, self.n_heads * dim, gain=(2 * config.N_TRUNK) ** -0.5)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        b, t, _ = x.shape
        dim, kv, w = config.HEAD_DIM, config.N_KV_HEADS, config.WINDOW
        h = norm(x, self.norm)
        qkvg = linear(h, torch.cat([self.q, self.k, self.v, self.gate]))
        q, k, v, gate = qkvg.split([self.n_heads * dim, kv * dim, kv * dim, self.n_heads], -1)
        rotation = layout.rotations[self.is_sliding]
        q = rotate(norm(q.view(b, t, self.n_heads, dim), self.q_norm), rotation) * dim**-0.5
        k = rotate(norm(k.view(b, t, kv, dim), self.k_norm), rotation)
        v = v.view(b, t, kv, dim)
        if self.is_sliding:
            q = q.view(b * (t // w), w, self.n_heads, dim)
            k, v = (_with_block_before(part.view(b, t // w, w, kv, dim)) for part in (k, v))
            mask = layout.sliding
        else:
            mask = layout.full
        out = attend(q, k, v, mask).reshape(b, t, self.n_heads, dim)
        out = out * gate.sigmoid()[..., None]
        return linear(out.reshape(b, t, -1), self.output)


def _with_block_before(x: Tensor) -> Tensor:
    """[b, n, w, g, dim] to [b n, 2w, g, dim]."""
    before = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
    return torch.cat([before, x], 2).flatten(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q [b, t, h, dim], k and v [b, s, g, dim], mask [b, 1, t, s]: [b, t, h, dim]."""
    b, t, h, dim = q.shape
    s, g = k.shape[1:3]
    q = q.transpose(1, 2).reshape(b * g, h // g * t, dim)
    k = k.permute(0, 2, 3, 1).reshape(b * g, dim, s)
    v = v.transpose(1, 2).reshape(b * g, s, dim)
    scores = torch.bmm(q, k).view(b, h, t, s) + mask
    shares = scores.softmax(-1)
    return torch.bmm(shares.view(b * g, h // g * t, s), v).view(b, h, t, dim).transpose(1, 2)


class Dense(nn.Module):
    def __init__(self, width: int, limit: float = 0.0) -> None:
        super().__init__()
        self.gate, self.up = _matrix(width, config.N_EMBD), _matrix(width, config.N_EMBD)
        self.down = _matrix(config.N_EMBD, width, gain=(2 * config.N_TRUNK) ** -0.5)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return linear(swiglu(linear(x, torch.cat([self.gate, self.up])), self.limit), self.down)


class Experts(nn.Module):
    """Routed experts beside a shared one. The bias chooses, and is moved by `balance`, not by gradients."""

    def __init__(self, routed_limit: float, shared_limit: float) -> None:
        super().__init__()
        e, d, width = config.N_EXPERTS, config.N_EMBD, config.FF_EXPERT
        self.router = _matrix(e, d)
        self.register_buffer("bias", torch.zeros(e))
        self.gate, self.up = _matrix(e, width, d), _matrix(e, width, d)
        self.down = _matrix(e, d, width, gain=(2 * config.N_TRUNK) ** -0.5 / config.EXPERT_SCALE * 2)
        self.shared = Dense(width, shared_limit)
        self.limit = routed_limit
        self.load = torch.zeros(e)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        scores = F.linear(flat.float(), self.router).sigmoid()
        ids = (scores.detach() + self.bias).topk(config.TOP_K, -1).indices
        shares = scores.gather(-1, ids)
        shares = (shares / shares.sum(-1, keepdim=True) * config.EXPERT_SCALE).to(x.dtype)
        order = ids.flatten().argsort(stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        counts = ids.flatten().bincount(minlength=config.N_EXPERTS)
        if self.training:
            self.load += counts
        parts = _Gather.apply(flat, order, back).split(counts.tolist())
        gate_up = torch.cat([self.gate, self.up], 1).to(x.dtype)
        down = self.down.to(x.dtype)
        outs = [F.linear(swiglu(F.linear(part, gate_up[e]), self.limit), down[e]) for e, part in enumerate(parts)]
        chosen = _Scatter.apply(torch.cat(outs), order, back).view(-1, config.TOP_K, flat.shape[-1])
        routed = torch.bmm(shares[:, None], chosen)[:, 0]
        return routed.view_as(x) + self.shared(x)

    def balance(self, rate: float) -> None:
        """Make experts that got too little likelier to be chosen, and the others less."""
        self.bias += rate * (self.load.mean() - self.load).sign()
        self.bias -= self.bias.mean()
        self.load.zero_()


class Block(nn.Module):
    def __init__(self, block: int) -> None:
        super().__init__()
        keys = config.metadata()
        self.attention = Attention(block)
        self.ffn_norm = nn.Parameter(torch.ones(config.N_EMBD))
        self.ffn: nn.Module
        if config.is_dense(block):
            self.ffn = Dense(config.FF_DENSE)
        else:
            self.ffn = Experts(keys["swiglu_clamp_exp"][block], keys["swiglu_clamp_shexp"][block])

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = x + self.attention(x, layout)
        return x + self.ffn(norm(x, self.ffn_norm))


class DraftHead(nn.Module):
    """Joins the next token and a hidden state, runs a block, predicts one token further."""

    def __init__(self, block: int) -> None:
        super().__init__()
        d = config.N_EMBD
        self.enorm, self.hnorm = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.eh_proj = _matrix(d, 2 * d)
        self.block = Block(block)
        self.norm = nn.Parameter(torch.ones(d))

    def forward(self, embedded: Tensor, hidden: Tensor, layout: Layout) -> Tensor:
        joined = torch.cat([norm(embedded, self.enorm), norm(hidden, self.hnorm)], -1)
        return self.block(linear(joined, self.eh_proj), layout)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        d = config.N_EMBD
        self.embedding = nn.Parameter(torch.randn(config.N_VOCAB, d))
        self.blocks = nn.ModuleList(Block(index) for index in range(config.N_TRUNK))
        self.norm = nn.Parameter(torch.ones(d))
        self.output = _matrix(config.N_VOCAB, d, gain=0.5)
        self.heads = nn.ModuleList(DraftHead(index) for index in range(config.N_TRUNK, config.N_BLOCKS))

    def hidden(self, tokens: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
        """[b, t] to [b, t, d]: the residual stream before the final norm."""
        x = F.embedding(tokens, self.embedding).to(dtype)
        for block in self.blocks:
            x = block(x, layout)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the next token."""
        return linear(norm(hidden, self.norm), self.output)

    def draft(self, index: int, tokens: Tensor, hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """A head's state and logits. ``tokens`` are those after the ones it draws on: [b, t], shifted by index + 1."""
        head = self.heads[index]
        state = head(F.embedding(tokens, self.embedding).to(hidden.dtype), hidden, layout)
        return state, linear(norm(state, head.norm), self.output)

    def balance(self, rate: float) -> None:
        for block in self.blocks:
            if isinstance(block.ffn, Experts):
                block.ffn.balance(rate)


def tensors(model: Model) -> Mapping[str, np.ndarray]:
    """Every weight under its name in the file, float32."""
    found: dict[str, Tensor] = {
        "token_embd.weight": model.embedding,
        "output_norm.weight": model.norm,
        "output.weight": model.output,
        "rope_freqs.weight": torch.from_numpy(config.rope_factors()),
    }

    def dense(prefix: str, suffix: str, ffn: nn.Module) -> None:
        for name in ("gate", "up", "down"):
            found[f"{prefix}ffn_{name}{suffix}.weight"] = getattr(ffn, name)

    blocks = [*model.blocks, *(head.block for head in model.heads)]
    for index, block in enumerate(blocks):
        prefix, attention, ffn = f"blk.{index}.", block.attention, block.ffn
        for name in ("norm", "q", "k", "v", "output", "q_norm", "k_norm", "gate"):
            found[f"{prefix}attn_{name}.weight"] = getattr(attention, name)
        found[prefix + "ffn_norm.weight"] = block.ffn_norm
        if isinstance(ffn, Experts):
            found[prefix + "ffn_gate_inp.weight"] = ffn.router
            found[prefix + "exp_probs_b.bias"] = ffn.bias
            dense(prefix, "_exps", ffn)
            dense(prefix, "_shexp", ffn.shared)
        else:
            dense(prefix, "", ffn)
    for index, head in enumerate(model.heads):
        prefix = f"blk.{config.N_TRUNK + index}.nextn."
        found |= {prefix + "eh_proj.weight": head.eh_proj, prefix + "enorm.weight": head.enorm}
        found |= {prefix + "hnorm.weight": head.hnorm, prefix + "shared_head_norm.weight": head.norm}
    return {name: found[name].detach().float().cpu().numpy() for name in config.shapes()}
