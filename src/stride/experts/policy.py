"""Which expert goes when another needs its slot: the protocol of all policies, and their names.

A key is one expert of one layer, ``layer * n_experts + expert``, where layers without experts are not counted. A policy
says which keys are held; in which slot each lies is its user's affair.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from stride.errors import RequestError
from stride.experts.policies import LFU, LRU, Bounded, Kind, Random, S3Fifo


class Policy(Protocol):
    """Keys that are held, ``n_slots`` at most. A call takes microseconds: they come for each layer and token."""

    @property
    def n_slots(self) -> int: ...

    def __len__(self) -> int: ...

    def __contains__(self, key: int) -> bool: ...

    def touch(self, key: int) -> bool:
        """A key is used: whether it is held. One that is not stays out until `insert`."""

    def insert(self, key: int, pinned: Collection[int] = ()) -> int | None:
        """Hold a key that is not held. Gives the key that goes for it, never a pinned one; None where there was room.

        Raises:
            ValueError: every key that could go is pinned, or there are no slots; nothing has changed then.
        """

    def remove(self, key: int) -> None:
        """Hold a key no more: it could not be read, or its slot is wanted for something else."""

    def resize(self, n_slots: int, pinned: Collection[int] = ()) -> list[int]:
        """Have more or fewer slots from now on. Gives the keys that go.

        Raises:
            ValueError: fewer than pinned keys need; nothing has changed then.
        """


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy by name. ``per_layer``: each layer has an equal share of the slots, and evicts only its own experts."""

    kind: Kind
    per_layer: bool = False

    def __str__(self) -> str:
        return f"{self.kind}, {'per layer' if self.per_layer else 'global'}"

    def make(self, n_slots: int, n_layers: int, n_experts: int) -> Policy:
        """A policy that holds nothing yet.

        Raises:
            ValueError: no slots, or, per layer, fewer than layers.
        """
        if self.per_layer:
            return PerLayer(self.kind, n_slots, n_layers, n_experts)
        return KINDS[self.kind](n_slots)


KINDS: dict[Kind, type[Bounded]] = {"lru": LRU, "lfu": LFU, "s3-fifo": S3Fifo, "random": Random}

CHOICES = tuple(
    PolicyChoice(kind, per_layer) for kind in get_args(Kind) if kind != "random" for per_layer in (False, True)
)
"""What is worth comparing; random eviction is for tests."""

DEFAULT = PolicyChoice("lru")


def choice(kind: str, per_layer: bool) -> PolicyChoice:
    """A policy by its name.

    Raises:
        RequestError: there is none of that name.
    """
    for known in KINDS:
        if kind == known:
            return PolicyChoice(known, per_layer)
    raise RequestError(f"there is no cache policy {kind!r}; there are {', '.join(KINDS)}")


class PerLayer:
    """A `Policy` of one policy for each layer."""

    def __init__(self, kind: Kind, n_slots: int, n_layers: int, n_experts: int) -> None:
        self._n_experts = n_experts
        self._layers = [KINDS[kind](count) for count in _shares(n_slots, n_layers)]

    @property
    def n_slots(self) -> int:
        return sum(layer.n_slots for layer in self._layers)

    def __len__(self) -> int:
        return sum(map(len, self._layers))

    def __contains__(self, key: int) -> bool:
        return key in self._layers[key // self._n_experts]

    def touch(self, key: int) -> bool:
        return self._layers[key // self._n_experts].touch(key)

    def insert(self, key: int, pinned: Collection[int] = ()) -> int | None:
        return self._layers[key // self._n_experts].insert(key, pinned)

    def remove(self, key: int) -> None:
        self._layers[key // self._n_experts].remove(key)

    def resize(self, n_slots: int, pinned: Collection[int] = ()) -> list[int]:
        shares = _shares(n_slots, len(self._layers))
        for layer, count in zip(self._layers, shares, strict=True):
            layer.check_size(count, pinned)
        resized = (layer.resize(count, pinned) for layer, count in zip(self._layers, shares, strict=True))
        return [key for keys in resized for key in keys]


def wave_size(choice: PolicyChoice, n_slots: int, n_layers: int) -> int:
    """Experts of one layer that can be held at once, whatever else is held."""
    return n_slots // n_layers if choice.per_layer else n_slots


def request(policy: Policy, keys: Sequence[int]) -> list[tuple[int, int | None]]:
    """One layer of a step uses some keys, all at once: those that must be read, each with the key that goes for it.

    Afterwards all of them are held. There are at most `wave_size` of them, each once.

    Raises:
        ValueError: they are more than the slots hold.
    """
    missing = [key for key in keys if not policy.touch(key)]
    return [(key, policy.insert(key, keys)) for key in missing]


def _shares(n_slots: int, n_layers: int) -> list[int]:
    """Slots of each layer."""
    if n_slots < n_layers:
        raise ValueError(f"{n_slots} slots are fewer than {n_layers} layers")
    return [n_slots // n_layers + (layer < n_slots % n_layers) for layer in range(n_layers)]
