"""What a model is: GGUF metadata becomes one frozen configuration, in which all differences are values.

Each architecture's own module (`step35`, `llama`, `qwen2`) reads its metadata into a `ModelConfig`; nothing
after this looks at metadata again.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

from stride.errors import ModelFileError, UnsupportedError
from stride.experts.trace import Shape
from stride.gguf import GGUFFile
from stride.types import Pooling

DRAFT_LAG = 64
"""Positions that draft heads may be behind the trunk."""
ARCHITECTURES = ("step35", "llama", "qwen2")
"""Values of ``general.architecture`` that run; each is a module of this package with ``read(file)``."""


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): interpolate slow dimensions, keep fast ones, blend between."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Position interpolation: all angles divided by ``factor``."""

    factor: float


RopeScaling: TypeAlias = YarnScaling | LinearScaling


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of the first ``dims`` dimensions of each head.

    ``uses_factors``: the file's ``rope_freqs.weight`` (llama3 scaling, one divisor per pair), where present, applies.
    """

    dims: int
    theta: float
    pairs: Literal["halves", "adjacent"]
    scaling: RopeScaling | None = None
    uses_factors: bool = True


@dataclass(frozen=True, slots=True)
class DenseConfig:
    """A SwiGLU of width ``width``; ``limit`` 0 is no clamp."""

    width: int
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Routed experts of ``width``, ``top_k`` per token, and one shared expert where ``shared_width`` > 0."""

    n_experts: int
    top_k: int
    width: int
    gating: Literal["sigmoid", "softmax"]
    normalize: bool
    scale: float
    limit: float = 0.0
    shared_width: int = 0
    shared_limit: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One decoder block. ``window`` None is full attention; else a token sees itself and ``window - 1`` before it."""

    n_heads: int
    n_kv_heads: int
    key_dim: int
    value_dim: int
    rope: RopeConfig
    ffn: DenseConfig | MoeConfig
    window: int | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole model. ``draft_layers`` are the multi-token-prediction blocks that follow the trunk in the file.

    ``pooling`` is how the model was trained to embed texts, where it was.
    """

    architecture: str
    name: str
    n_vocab: int
    n_embd: int
    context_length: int
    norm_epsilon: float
    layers: tuple[LayerConfig, ...]
    draft_layers: tuple[LayerConfig, ...] = ()
    pooling: Pooling | None = None

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The cache groups: one per distinct attention span, in order of first use."""
        return tuple(dict.fromkeys(layer.window for layer in (*self.layers, *self.draft_layers)))

    @property
    def spans(self) -> tuple[int | None, ...]:
        """Positions back from the last one that each cache group has to keep: its window, and where draft heads look
        too, `DRAFT_LAG` more."""
        drafting = {layer.window for layer in self.draft_layers}
        return tuple(
            window + DRAFT_LAG if window is not None and window in drafting else window for window in self.windows
        )

    @property
    def experts(self) -> Shape | None:
        """The routed experts as caches and traces count them: those of trunk layers. None where there are none."""
        found = [layer.ffn for layer in self.layers if isinstance(layer.ffn, MoeConfig)]
        if not found:
            return None
        return Shape(f"{self.architecture} {self.name}", len(found), found[0].n_experts, found[0].top_k)


def read_config(file: GGUFFile) -> ModelConfig:
    """The configuration of a model file.

    Raises:
        UnsupportedError: an architecture, or a feature of one, that Stride does not run.
        ModelFileError: metadata that is missing, of the wrong type, or makes no sense.
    """
    architecture = file.metadata.string("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedError(
            f"{file.paths[0]}: the architecture is {architecture!r}; Stride runs {', '.join(ARCHITECTURES)}"
        )
    config: ModelConfig = importlib.import_module(f"stride.models.{architecture}").read(file)
    check_config(file, config)
    return config


def check_config(file: GGUFFile, config: ModelConfig) -> None:
    """Refuse numbers that no model can have, by name.

    Raises:
        ModelFileError: names the first of them.
    """

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise ModelFileError(what, path=file.paths[0])

    require(config.n_embd > 0, "the embedding length is 0")
    require(config.context_length > 0, "the context length is 0")
    require(config.norm_epsilon >= 0, f"the norms' epsilon is {config.norm_epsilon:g}")
    require(len(config.layers) > 0, "the model has no layers")
    for index, layer in enumerate((*config.layers, *config.draft_layers)):
        heads = f"layer {index} has {layer.n_heads} heads and {layer.n_kv_heads} key/value heads"
        require(layer.n_heads > 0 and layer.n_kv_heads > 0, heads)
        require(layer.n_heads % layer.n_kv_heads == 0, f"{heads}, which do not divide")
        require(layer.key_dim > 0 and layer.value_dim > 0, f"layer {index} has heads of size 0")
        require(
            0 < layer.rope.dims <= layer.key_dim and layer.rope.dims % 2 == 0,
            f"layer {index} rotates {layer.rope.dims} of {layer.key_dim} dimensions",
        )
        require(layer.rope.theta > 1, f"layer {index} rotates by the base {layer.rope.theta:g}")
        if (scaling := layer.rope.scaling) is not None:
            require(scaling.factor > 0, f"layer {index} scales positions by {scaling.factor:g}")
            original = scaling.original_context if isinstance(scaling, YarnScaling) else 1
            require(original > 0, f"layer {index} scales positions from a context of {original}")
        require(layer.window is None or layer.window > 0, f"layer {index} has a window of 0")
        require(layer.ffn.width > 0, f"layer {index} has a feed-forward width of 0")
        if isinstance(layer.ffn, MoeConfig):
            require(
                0 < layer.ffn.top_k <= layer.ffn.n_experts,
                f"layer {index} uses {layer.ffn.top_k} of {layer.ffn.n_experts} experts",
            )
