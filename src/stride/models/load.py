"""Weights by name: everything is checked before a byte of it is read, then read once, straight into the backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from stride.errors import ModelFileError
from stride.gguf import GGUFFile, QuantType, Tensor, open_gguf
from stride.models.config import DenseConfig, LayerConfig, ModelConfig, MoeConfig, read_config
from stride.models.decoder import Block, Decoder, DraftHead, Router
from stride.models.rope import rope
from stride.ops.api import Backend, ExpertTensors, GatedFFN, Rope, Routing

Progress = Callable[[int, int], None]
"""Called with (bytes of weights read so far, bytes in all)."""

EMBEDDING = "token_embd.weight"


def load_model(
    path: str | Path | GGUFFile, ops: Backend, progress: Progress | None = None, *, heads: bool = True
) -> Decoder:
    """A model file onto a backend; ``heads``: with its draft heads, if it has any.

    Raises:
        ModelFileError: a tensor is missing, left over, or of the wrong shape; nothing has been read then.
        UnsupportedError: an architecture or a feature that Stride does not run.
    """
    file = path if isinstance(path, GGUFFile) else open_gguf(path)
    config = check_model(file)
    if not heads:
        config = dataclasses.replace(config, draft_layers=())
    return Decoder(config, ops, **assemble(config, Reader(file, ops, progress, tensors_of(config, file)), file))


def tensors_of(config: ModelConfig, file: GGUFFile) -> list[Tensor]:
    """The tensors that a model of this configuration reads of its file: all, but for draft layers that it lacks."""
    n_blocks = len(config.layers) + len(config.draft_layers)

    def is_read(name: str) -> bool:
        block, _, rest = name.removeprefix("blk.").partition(".")
        return not (name.startswith("blk.") and rest and block.isdigit() and int(block) >= n_blocks)

    return [tensor for name, tensor in file.tensors.items() if is_read(name)]


def check_model(file: GGUFFile) -> ModelConfig:
    """Read the configuration, and no weight.

    Raises:
        ModelFileError: a tensor is missing, left over, or of the wrong shape.
        UnsupportedError: an architecture or a feature that Stride does not run.
    """
    config = read_config(file)
    checker = Checker(file)
    assemble(config, checker, file)
    checker.refuse_leftovers()
    return config


def routed_experts(file: GGUFFile, config: ModelConfig) -> list[ExpertTensors]:
    """The stacks of each layer with experts, of a file that `check_model` found whole."""
    return [
        (
            file.tensors[f"blk.{i}.ffn_gate_exps.weight"],
            file.tensors[f"blk.{i}.ffn_up_exps.weight"],
            file.tensors[f"blk.{i}.ffn_down_exps.weight"],
        )
        for i, layer in enumerate((*config.layers, *config.draft_layers))
        if isinstance(layer.ffn, MoeConfig)
    ]


class Source(Protocol):
    """Gives tensors by name; ``required=False`` gives None where the file has none."""

    def weight(self, name: str, *shape: int, required: bool = True) -> Any: ...

    def vector(self, name: str, size: int, required: bool = True) -> Any: ...


class Checker:
    """A `Source` that reads nothing: it checks that each tensor is there in the right shape."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._seen: set[str] = set()

    def weight(self, name: str, *shape: int, required: bool = True) -> Tensor | None:
        tensor = self._file.tensors.get(name)
        if tensor is None:
            if required:
                raise ModelFileError("the tensor is missing", path=self._file.paths[0], tensor=name)
            return None
        if tensor.shape != shape:
            raise ModelFileError(
                f"the shape is {list(tensor.shape)}, but must be {list(shape)}",
                path=tensor.path,
                tensor=name,
                offset=tensor.offset,
            )
        self._seen.add(name)
        return tensor

    def vector(self, name: str, size: int, required: bool = True) -> Tensor | None:
        tensor = self.weight(name, size, required=required)
        if tensor is not None and tensor.type not in (QuantType.F32, QuantType.F16, QuantType.BF16):
            raise ModelFileError(
                f"the type is {tensor.type.name}, but a vector must be F32, F16 or BF16",
                path=tensor.path,
                tensor=name,
                offset=tensor.offset,
            )
        return tensor

    def refuse_leftovers(self) -> None:
        """Tensors that the model does not use mean that it is not the model it says."""
        leftovers = [tensor for name, tensor in self._file.tensors.items() if name not in self._seen]
        if leftovers:
            first = leftovers[0]
            raise ModelFileError(
                f"{len(leftovers)} tensors have no place in this architecture, this is the first of them",
                path=first.path,
                tensor=first.name,
                offset=first.offset,
            )


class Reader:
    """A `Source` that reads each tensor into the backend, once."""

    def __init__(self, file: GGUFFile, ops: Backend, progress: Progress | None, tensors: Sequence[Tensor]) -> None:
        """``tensors``: all that will be read."""
        self._file = file
        self._ops = ops
        self._progress = progress
        self._done = 0
        self._total = sum(tensor.n_bytes for tensor in tensors)
        self._read: dict[str, Any] = {}

    def weight(self, name: str, *shape: int, required: bool = True) -> Any:
        return self._once(name, self._ops.weight)

    def vector(self, name: str, size: int, required: bool = True) -> Any:
        return self._once(name, self._ops.vector)

    def _once(self, name: str, read: Callable[[Tensor], Any]) -> Any:
        if name not in self._file.tensors:
            return None
        if name not in self._read:
            tensor = self._file.tensors[name]
            self._read[name] = read(tensor)
            self._done += tensor.n_bytes
            if self._progress is not None:
                self._progress(self._done, self._total)
        return self._read[name]


def assemble(config: ModelConfig, source: Source, file: GGUFFile) -> dict[str, Any]:
    """Name every tensor of the model once; the arguments of `Decoder` beyond configuration and backend."""
    d, vocabulary = config.n_embd, config.n_vocab
    ropes = _ropes(config, source, file)
    token_embd = source.weight(EMBEDDING, vocabulary, d)
    output = source.weight("output.weight", vocabulary, d, required=False)
    if output is None:
        output = token_embd
    n_trunk = len(config.layers)
    return {
        "token_embd": token_embd,
        "blocks": tuple(_block(source, f"blk.{i}.", layer, d, ropes[i]) for i, layer in enumerate(config.layers)),
        "output_norm": source.vector("output_norm.weight", d),
        "output": output,
        "draft_heads": tuple(
            _draft_head(source, f"blk.{i}.", layer, config, ropes[i], token_embd, output)
            for i, layer in enumerate(config.draft_layers, n_trunk)
        ),
    }


def _ropes(config: ModelConfig, source: Source, file: GGUFFile) -> list[Rope]:
    """One rotation per layer; layers that rotate alike share one."""
    layers = (*config.layers, *config.draft_layers)
    factors_tensor = file.tensors.get("rope_freqs.weight")
    factors = None
    if factors_tensor is not None:
        # The factors may be padded to half of the widest head; each layer takes what it rotates.
        size = factors_tensor.shape[-1]
        source.vector("rope_freqs.weight", size)
        widest = max((layer.rope.dims for layer in layers if layer.rope.uses_factors), default=0)
        if size < widest // 2:
            raise ModelFileError(
                f"{size} factors, but {widest // 2} are needed",
                path=factors_tensor.path,
                tensor=factors_tensor.name,
                offset=factors_tensor.offset,
            )
        factors = factors_tensor.dequantize()
    made = {layer.rope: rope(layer.rope, factors) for layer in layers}
    return [made[layer.rope] for layer in layers]


def _block(source: Source, prefix: str, layer: LayerConfig, d: int, rotation: Rope) -> Block:
    h, g, key_dim, value_dim = layer.n_heads, layer.n_kv_heads, layer.key_dim, layer.value_dim
    outs = {"attn_q": h * key_dim, "attn_k": g * key_dim, "attn_v": g * value_dim}
    gate = source.weight(prefix + "attn_gate.weight", h, d, required=False)
    biases = tuple(source.vector(f"{prefix}{name}.bias", size, required=False) for name, size in outs.items())
    qkv = tuple(source.weight(f"{prefix}{name}.weight", size, d) for name, size in outs.items())
    has_bias = any(bias is not None for bias in biases)
    if gate is not None:
        qkv, biases = (*qkv, gate), (*biases, None)
    ffn, router, shared = _feed_forward(source, prefix, layer, d)
    return Block(
        config=layer,
        rope=rotation,
        attn_norm=source.vector(prefix + "attn_norm.weight", d),
        qkv=qkv,
        qkv_bias=biases if has_bias else None,
        attn_q_norm=source.vector(prefix + "attn_q_norm.weight", key_dim, required=False),
        attn_k_norm=source.vector(prefix + "attn_k_norm.weight", key_dim, required=False),
        attn_output=source.weight(prefix + "attn_output.weight", d, h * value_dim),
        attn_output_bias=source.vector(prefix + "attn_output.bias", d, required=False),
        ffn_norm=source.vector(prefix + "ffn_norm.weight", d),
        ffn=ffn,
        router=router,
        shared=shared,
    )


def _feed_forward(
    source: Source, prefix: str, layer: LayerConfig, d: int
) -> tuple[GatedFFN, Router | None, GatedFFN | None]:
    def gated(suffix: str, width: int, limit: float, *stack: int) -> GatedFFN:
        return GatedFFN(
            gate=source.weight(f"{prefix}ffn_gate{suffix}.weight", *stack, width, d),
            up=source.weight(f"{prefix}ffn_up{suffix}.weight", *stack, width, d),
            down=source.weight(f"{prefix}ffn_down{suffix}.weight", *stack, d, width),
            limit=limit,
        )

    ffn = layer.ffn
    if isinstance(ffn, DenseConfig):
        return gated("", ffn.width, ffn.limit), None, None
    router = Router(
        weight=source.weight(prefix + "ffn_gate_inp.weight", ffn.n_experts, d),
        bias=source.vector(prefix + "exp_probs_b.bias", ffn.n_experts, required=False),
        routing=Routing(ffn.top_k, ffn.gating, ffn.normalize, ffn.scale),
    )
    shared = gated("_shexp", ffn.shared_width, ffn.shared_limit) if ffn.shared_width else None
    return gated("_exps", ffn.width, ffn.limit, ffn.n_experts), router, shared


def _draft_head(
    source: Source, prefix: str, layer: LayerConfig, config: ModelConfig, rotation: Rope, token_embd: Any, output: Any
) -> DraftHead:
    d, vocabulary, nextn = config.n_embd, config.n_vocab, prefix + "nextn."
    embed_tokens = source.weight(nextn + "embed_tokens.weight", vocabulary, d, required=False)
    own_head = source.weight(nextn + "shared_head_head.weight", vocabulary, d, required=False)
    own_norm = source.vector(nextn + "shared_head_norm.weight", d, required=False)
    return DraftHead(
        embed_tokens=token_embd if embed_tokens is None else embed_tokens,
        enorm=source.vector(nextn + "enorm.weight", d),
        hnorm=source.vector(nextn + "hnorm.weight", d),
        eh_proj=source.weight(nextn + "eh_proj.weight", d, 2 * d),
        block=_block(source, prefix, layer, d, rotation),
        shared_head_norm=source.vector("output_norm.weight", d) if own_norm is None else own_norm,
        shared_head_head=output if own_head is None else own_head,
    )
