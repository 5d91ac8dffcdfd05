"""The one decoder: every architecture is this stack with its own configuration.

x + attention(norm(x)), then x + ffn(norm(x)), layer after layer; the residual sum is folded into the next norm.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stride.models.config import LayerConfig, ModelConfig
from stride.ops.api import (
    Array,
    Backend,
    Batch,
    ByteArray,
    FloatArray,
    GatedFFN,
    IntArray,
    KVPool,
    KVType,
    Rope,
    Routing,
    Weight,
)


@dataclass(frozen=True, slots=True)
class Router:
    """Chooses among experts: ``ffn_gate_inp`` [experts, d] and the selection bias ``exp_probs_b`` [experts]."""

    weight: Weight
    bias: Array | None
    routing: Routing


@dataclass(frozen=True, slots=True)
class Block:
    """One layer's weights, named as in the file. A dense block has no router; its ``ffn`` is one SwiGLU.

    ``qkv`` holds attn_q, attn_k, attn_v and, where heads are gated, attn_gate: all maps of the same input.
    """

    config: LayerConfig
    rope: Rope
    attn_norm: Array
    qkv: tuple[Weight, ...]
    qkv_bias: tuple[Array | None, ...] | None
    attn_q_norm: Array | None
    attn_k_norm: Array | None
    attn_output: Weight
    attn_output_bias: Array | None
    ffn_norm: Array
    ffn: GatedFFN
    router: Router | None = None
    shared: GatedFFN | None = None


@dataclass(frozen=True, slots=True)
class DraftHead:
    """A multi-token-prediction layer: joins the next token and the hidden state, runs a block, predicts one further.

    ``embed_tokens`` and ``shared_head_head`` are the trunk's own tensors where the file has none for the head.
    """

    embed_tokens: Weight
    enorm: Array
    hnorm: Array
    eh_proj: Weight
    block: Block
    shared_head_norm: Array
    shared_head_head: Weight


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of all layers: one pool per layer, trunk first, then draft layers."""

    pools: tuple[KVPool, ...]

    @property
    def n_bytes(self) -> int:
        return sum(pool.n_bytes for pool in self.pools)


class Decoder:
    """A loaded model on a backend. `stride.models.load_model` makes one."""

    def __init__(
        self,
        config: ModelConfig,
        ops: Backend,
        token_embd: Weight,
        blocks: tuple[Block, ...],
        output_norm: Array,
        output: Weight,
        draft_heads: tuple[DraftHead, ...] = (),
    ) -> None:
        self.config = config
        self.ops = ops
        self.token_embd = token_embd
        self.blocks = blocks
        self.output_norm = output_norm
        self.output = output
        self.draft_heads = draft_heads
        self.windows = config.windows
        self.n_vocab = config.n_vocab
        self.n_embd = config.n_embd

    def on(self, ops: Backend) -> Decoder:
        """The same model, its operations done by a stand-in for the backend that holds its weights."""
        other = copy.copy(self)
        other.ops = ops
        return other

    def new_cache(self, n_pages: Sequence[int], kind: KVType = "f16") -> Cache:
        """Reserve keys and values: ``n_pages`` pages for each layer of the cache group of the same index."""
        blocks = (*self.blocks, *(head.block for head in self.draft_heads))
        return Cache(
            tuple(
                self.ops.kv_pool(n_pages[self.windows.index(c.window)], c.n_kv_heads, c.key_dim, c.value_dim, kind)
                for c in (block.config for block in blocks)
            )
        )

    def page_bytes(self, kind: KVType = "f16") -> tuple[int, ...]:
        """What a page of each cache group takes, all its layers together."""
        cache = self.new_cache([1] * len(self.windows), kind)
        return tuple(sum(pool.page_bytes for pool in self._pools(cache, i)) for i in range(len(self.windows)))

    def read_page(self, cache: Cache, group: int, page: int) -> ByteArray:
        """uint8 [page_bytes of the group]: what all its layers hold of a page."""
        return np.concatenate([self.ops.read_page(pool, page) for pool in self._pools(cache, group)])

    def write_page(self, cache: Cache, group: int, page: int, data: ByteArray) -> None:
        """Make a page hold what `read_page` gave of one of this group."""
        pools = self._pools(cache, group)
        ends = np.cumsum([pool.page_bytes for pool in pools])
        for pool, part in zip(pools, np.split(data, ends[:-1]), strict=True):
            self.ops.write_page(pool, page, part)

    def copy_page(self, cache: Cache, group: int, source: int, target: int) -> None:
        """Make one page of a group hold what another does."""
        for pool in self._pools(cache, group):
            self.ops.write_page(pool, target, self.ops.read_page(pool, source))

    def _pools(self, cache: Cache, group: int) -> list[KVPool]:
        """The pools of a cache group's layers; not those of draft heads, which nothing that was kept depends on."""
        window = self.windows[group]
        return [pool for pool, b in zip(cache.pools, self.blocks, strict=False) if b.config.window == window]

    def forward(self, batch: Batch, cache: Cache) -> FloatArray:
        """Run a batch: float32 [outputs, vocabulary], the logits of ``batch.outputs``."""
        return self.logits(self.hidden(batch, cache), np.arange(len(batch.outputs), dtype=np.int32))

    def hidden(self, batch: Batch, cache: Cache) -> Array:
        """Run a batch: [outputs, d], what ``batch.outputs`` have become after the output norm."""
        ops, (*first, last) = self.ops, self.blocks
        x, delta = self._run(first, batch, cache)
        attended = self._attend(x, delta, last, cache.pools[len(first)], batch, batch.outputs)
        # Of the other tokens, the last block's keys and values are all that is wanted.
        x, attended = ops.rows(x, batch.outputs), ops.rows(attended, batch.outputs)
        if len(batch.outputs) == 0:
            return x
        return ops.norm(x, self.output_norm, self.config.norm_epsilon, self._feed_forward(x, attended, last))

    def logits(self, hidden: Array, rows: IntArray) -> FloatArray:
        """float32 [rows, vocabulary]: the logits of some rows of what `hidden` gave."""
        if len(rows) == 0:
            return np.empty((0, self.n_vocab), np.float32)
        return self.ops.to_host(self.ops.linear(self.ops.rows(hidden, rows), (self.output,))[0])

    def to_host(self, hidden: Array, rows: IntArray) -> FloatArray:
        """float32 [rows, d]: some rows of what `hidden` gave, as they are."""
        return self.ops.to_host(self.ops.rows(hidden, rows))

    def forward_with_hidden(self, batch: Batch, cache: Cache) -> tuple[Array, FloatArray]:
        """As `forward`, and [n, d], the residual stream before the final norm, which draft heads start from."""
        x, delta = self._run(self.blocks, batch, cache)
        return x, self._head(x, delta, self.output_norm, self.output, batch.outputs)

    def _run(self, blocks: Sequence[Block], batch: Batch, cache: Cache) -> tuple[Array, Array | None]:
        """The residual stream [n, d] after the first blocks, but for what the last of them contributes: the second."""
        x, delta = self.ops.embed(self.token_embd, batch.token_ids), None
        for block, pool in zip(blocks, cache.pools, strict=False):
            delta = self._block(x, delta, block, pool, batch)
        return x, delta

    def draft(self, index: int, hidden: Array, batch: Batch, cache: Cache) -> tuple[Array, FloatArray]:
        """Run draft head ``index`` on the batch's tokens, each the successor of the token whose state is given.

        Args:
            index: which head; head k predicts k + 2 tokens past the one that ``hidden`` belongs to.
            hidden: [n, d], the trunk's state before the final norm for head 0, else the state head ``index - 1`` gave.
            batch: the successors (``token_ids``), at the positions of the tokens whose states are given.

        Returns:
            ([n, d] the head's own state, float32 [outputs, vocabulary] its logits).
        """
        ops, head, epsilon = self.ops, self.draft_heads[index], self.config.norm_epsilon
        embedded = ops.embed(head.embed_tokens, batch.token_ids)
        joined = ops.concat_norms(embedded, head.enorm, hidden, head.hnorm, epsilon)
        x = ops.linear(joined, (head.eh_proj,))[0]
        delta = self._block(x, None, head.block, cache.pools[len(self.blocks) + index], batch)
        return x, self._head(x, delta, head.shared_head_norm, head.shared_head_head, batch.outputs)

    def _head(self, x: Array, delta: Array, norm: Array, output: Weight, outputs: IntArray) -> FloatArray:
        """Add ``delta`` to x, in place; give logits of the tokens ``outputs``."""
        normed = self.ops.norm(x, norm, self.config.norm_epsilon, delta)
        return self.ops.to_host(self.ops.linear(self.ops.rows(normed, outputs), (output,))[0])

    def _block(self, x: Array, delta: Array | None, block: Block, pool: KVPool, batch: Batch) -> Array:
        """Add ``delta`` (what the block before contributes) to x, in place; give what this block contributes."""
        return self._feed_forward(x, self._attend(x, delta, block, pool, batch), block)

    def _attend(
        self, x: Array, delta: Array | None, block: Block, pool: KVPool, batch: Batch, wanted: IntArray | None = None
    ) -> Array:
        """A block's attention, before its output projection. ``wanted``: the tokens that go on from it; None: all."""
        ops, epsilon, config = self.ops, self.config.norm_epsilon, block.config
        page_table = batch.page_tables[self.windows.index(config.window)]

        h = ops.norm(x, block.attn_norm, epsilon, delta)
        if block.router is not None:
            going_on = x if wanted is None else ops.rows(x, wanted)
            router = block.router
            ops.expect(going_on, block.ffn_norm, epsilon, router.weight, router.bias, router.routing, block.ffn)
        q, k, v, *gate = ops.linear(h, block.qkv, block.qkv_bias)
        q = ops.rope_and_store(
            q,
            k,
            v,
            q_norm=block.attn_q_norm,
            k_norm=block.attn_k_norm,
            epsilon=epsilon,
            rope=block.rope,
            pool=pool,
            page_table=page_table,
            batch=batch,
        )
        return ops.attention(
            q,
            pool,
            page_table=page_table,
            batch=batch,
            window=config.window,
            scale=config.key_dim**-0.5,
            gate=gate[0] if gate else None,
        )

    def _feed_forward(self, x: Array, attended: Array, block: Block) -> Array:
        """A block's output projection, which is added to x in place, and its feed-forward: what it contributes."""
        ops = self.ops
        delta = ops.linear(attended, (block.attn_output,), (block.attn_output_bias,))[0]
        h = ops.norm(x, block.ffn_norm, self.config.norm_epsilon, delta)
        if block.router is None:
            return ops.ffn(h, block.ffn)
        ids, weights = ops.route(h, block.router.weight, block.router.bias, block.router.routing)
        return ops.experts(h, ids, weights, block.ffn, block.shared)
