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
class Hidden:
    """What tokens are after the last layer, [n, d] each: before the output norm, where drafting starts, and after."""

    residual: Array
    normed: Array


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
        self.windows = config.spans
        self._groups = config.windows
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
                self.ops.kv_pool(n_pages[self._groups.index(c.window)], c.n_kv_heads, c.key_dim, c.value_dim, kind)
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
        """The pools of a cache group's layers, those of draft heads among them."""
        blocks = (*self.blocks, *(head.block for head in self.draft_heads))
        window = self._groups[group]
        return [pool for pool, b in zip(cache.pools, blocks, strict=True) if b.config.window == window]

    def forward(self, batch: Batch, cache: Cache) -> FloatArray:
        """Run a batch: float32 [outputs, vocabulary], the logits of ``batch.outputs``."""
        return self.logits(self.hidden(batch, cache), np.arange(len(batch.outputs), dtype=np.int32))

    def hidden(self, batch: Batch, cache: Cache) -> Hidden:
        """Run a batch: what ``batch.outputs`` have become."""
        ops, (*first, last) = self.ops, self.blocks
        x, delta = self._run(first, batch, cache)
        attended = self._attend(x, delta, last, cache.pools[len(first)], batch, batch.outputs)
        # Of the other tokens, the last block's keys and values are all that is wanted.
        x, attended = ops.rows(x, batch.outputs), ops.rows(attended, batch.outputs)
        if len(batch.outputs) == 0:
            return Hidden(x, x)
        delta = self._feed_forward(x, attended, last)
        return Hidden(x, ops.norm(x, self.output_norm, self.config.norm_epsilon, delta))

    def logits(self, hidden: Hidden, rows: IntArray) -> FloatArray:
        """float32 [rows, vocabulary]: the logits of some rows of what `hidden` gave."""
        return self._project(hidden.normed, rows, self.output)

    def states(self, hidden: Hidden, rows: IntArray) -> FloatArray:
        """float32 [rows, d]: some rows of what `hidden` gave, after the output norm."""
        return self.ops.to_host(self.ops.rows(hidden.normed, rows))

    def residual(self, hidden: Hidden, rows: IntArray) -> FloatArray:
        """float32 [rows, d]: some rows of what `hidden` gave, before the output norm."""
        return self.ops.to_host(self.ops.rows(hidden.residual, rows))

    def _run(self, blocks: Sequence[Block], batch: Batch, cache: Cache) -> tuple[Array, Array | None]:
        """The residual stream [n, d] after the first blocks, but for what the last of them contributes: the second."""
        x, delta = self.ops.embed(self.token_embd, batch.token_ids), None
        for block, pool in zip(blocks, cache.pools, strict=False):
            delta = self._block(x, delta, block, pool, batch)
        return x, delta

    def _project(self, normed: Array, rows: IntArray, output: Weight) -> FloatArray:
        if len(rows) == 0:
            return np.empty((0, self.n_vocab), np.float32)
        return self.ops.to_host(self.ops.linear(self.ops.rows(normed, rows), (output,))[0])

    @property
    def draft_windows(self) -> tuple[int | None, ...]:
        """How far back each draft head looks."""
        return tuple(head.block.config.window for head in self.draft_heads)

    def draft(self, index: int, states: FloatArray, batch: Batch, cache: Cache) -> tuple[FloatArray, FloatArray]:
        """Run draft head ``index`` on the batch's tokens.

        Args:
            index: which head; head k predicts the token k + 2 positions behind the one that a state belongs to.
            states: float32 [n, d], what `residual` gave for head 0, else the states that head ``index - 1`` gave.
            batch: at the positions of the states the tokens that head k - 1 would predict there, k + 1 behind.

        Returns:
            (float32 [n, d] the head's own states, of the last head [outputs, d]; float32 [outputs, vocabulary] logits).
        """
        ops, head, epsilon = self.ops, self.draft_heads[index], self.config.norm_epsilon
        embedded = ops.embed(head.embed_tokens, batch.token_ids)
        joined = ops.concat_norms(embedded, head.enorm, ops.from_host(states), head.hnorm, epsilon)
        x = ops.linear(joined, (head.eh_proj,))[0]
        attended = self._attend(x, None, head.block, cache.pools[len(self.blocks) + index], batch)
        outputs = batch.outputs
        if index + 1 == len(self.draft_heads):  # of the other tokens, keys and values are all that is wanted
            if len(outputs) == 0:
                return np.empty((0, self.n_embd), np.float32), np.empty((0, self.n_vocab), np.float32)
            x, attended = ops.rows(x, outputs), ops.rows(attended, outputs)
            outputs = np.arange(len(outputs), dtype=np.int32)
        normed = ops.norm(x, head.shared_head_norm, epsilon, self._feed_forward(x, attended, head.block))
        return ops.to_host(x), self._project(normed, outputs, head.shared_head_head)

    def _block(self, x: Array, delta: Array | None, block: Block, pool: KVPool, batch: Batch) -> Array:
        """Add ``delta`` (what the block before contributes) to x, in place; give what this block contributes."""
        return self._feed_forward(x, self._attend(x, delta, block, pool, batch), block)

    def _attend(
        self, x: Array, delta: Array | None, block: Block, pool: KVPool, batch: Batch, wanted: IntArray | None = None
    ) -> Array:
        """A block's attention, before its output projection. ``wanted``: the tokens that go on from it; None: all."""
        ops, epsilon, config = self.ops, self.config.norm_epsilon, block.config
        page_table = batch.page_tables[self._groups.index(config.window)]

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
