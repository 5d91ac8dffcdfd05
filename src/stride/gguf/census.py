"""What a model's tensors are for, how large they are, and how much of them one generated token reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stride.gguf.reader import GGUFFile, Tensor

ROUTED, EMBEDDING, DRAFT = "routed experts", "token embedding", "draft layers"

ROLES = {
    ROUTED: r"_exps\.",
    "shared experts": r"_shexp\.",
    "router": r"ffn_gate_inp\.|exp_probs_b\.",
    "norms": r"norm\.",
    "attention": r"\.attn_",
    "dense feed-forward": r"\.ffn_",
    EMBEDDING: r"^token_embd\.",
    "output head": r"^output\.",
    DRAFT: r"\.nextn\.",
    "other": "",
}
"""Role → pattern of tensor names; the first that is found holds."""


@dataclass(frozen=True, slots=True)
class Group:
    """Some tensors together."""

    label: str
    n_tensors: int
    n_values: int
    n_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.n_bytes / self.n_values if self.n_values else 0.0


def total(tensors: Iterable[Tensor], label: str = "all") -> Group:
    """The sum of some tensors."""
    members = list(tensors)
    return Group(label, len(members), sum(t.n_values for t in members), sum(t.n_bytes for t in members))


def grouped(tensors: Iterable[Tensor], label: Callable[[Tensor], str]) -> list[Group]:
    """Tensors by label, the largest group first."""
    members: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        members.setdefault(label(tensor), []).append(tensor)
    return sorted((total(group, name) for name, group in members.items()), key=lambda group: -group.n_bytes)


def roles(file: GGUFFile) -> dict[str, str]:
    """Tensor name → role. A block that holds any ``nextn`` tensor is a draft layer as a whole."""
    draft_blocks = {name.split(".nextn.")[0] for name in file.tensors if ".nextn." in name}

    def role(name: str) -> str:
        if ".".join(name.split(".")[:2]) in draft_blocks:
            return DRAFT
        return next(role for role, pattern in ROLES.items() if re.search(pattern, name))

    return {name: role(name) for name in file.tensors}


def bytes_per_token(file: GGUFFile, held_bytes: Callable[[Tensor], int]) -> int:
    """Bytes of weights that generating one token reads, drafting off.

    Of the routed experts that is the share that is used, of the embedding one row (all of it where it is the output
    head too), of the draft layers nothing, of the rest everything. ``held_bytes`` says how large a tensor is in memory.
    """
    architecture = file.metadata.string("general.architecture")
    top_k = file.metadata.integer(f"{architecture}.expert_used_count", default=0)
    is_tied = "output.weight" not in file.tensors
    n_bytes = 0
    for name, role in roles(file).items():
        tensor = file.tensors[name]
        held = held_bytes(tensor)
        if role == ROUTED:
            n_bytes += held * min(top_k, tensor.shape[0]) // tensor.shape[0]
        elif role == EMBEDDING:
            n_bytes += held if is_tied else held // tensor.shape[0]
        elif role != DRAFT:
            n_bytes += held
    return n_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """What one token asks of a machine: multiply-adds of matrices, and bytes of weights as a backend holds them.

    Attributes:
        products: of all matrices but the output head, of routed experts those that a token uses.
        last_products: of those, what follows the last block's attention: prompts want that of their last token only.
        head_products: of the output head, likewise.
        routed_bytes: of the routed experts that one token uses.
        other_bytes: of all else that one generated token reads.
        expert_bytes: of all routed experts.
        largest_expert: of one, its three matrices, of the largest of all layers'.
    """

    products: float
    last_products: float
    head_products: int
    routed_bytes: int
    other_bytes: int
    expert_bytes: int
    largest_expert: int


def work(file: GGUFFile, held_bytes: Callable[[Tensor], int]) -> Work:
    """What a token of a model asks for, drafting off."""
    architecture = file.metadata.string("general.architecture")
    top_k = file.metadata.integer(f"{architecture}.expert_used_count", default=0)
    head = file.tensors.get("output.weight") or file.tensors["token_embd.weight"]
    role_of = roles(file)
    blocks = [int(name.split(".")[1]) for name, role in role_of.items() if name.startswith("blk.") and role != DRAFT]
    after_attention = tuple(f"blk.{max(blocks, default=0)}.{part}" for part in ("attn_output.", "ffn_"))
    products, last_products, routed, expert_bytes = 0.0, 0.0, 0, 0
    largest: dict[str, int] = {}
    for name, role in role_of.items():
        tensor, n_products = file.tensors[name], 0.0
        if role == ROUTED:
            held, share = held_bytes(tensor), min(top_k, tensor.shape[0]) / tensor.shape[0]
            n_products = tensor.n_values * share
            routed += round(held * share)
            expert_bytes += held
            layer = ".".join(name.split(".")[:2])
            largest[layer] = largest.get(layer, 0) + held // tensor.shape[0]
        elif role not in (EMBEDDING, DRAFT) and tensor is not head and len(tensor.shape) > 1:
            n_products = tensor.n_values
        products += n_products
        last_products += n_products * name.startswith(after_attention)
    others = bytes_per_token(file, held_bytes) - routed
    largest_expert = max(largest.values(), default=0)
    return Work(products, last_products, head.n_values, routed, others, expert_bytes, largest_expert)
