"""Muon for matrices, AdamW for the rest.

Muon (K. Jordan and others, 2024): momentum, made orthogonal by a Newton-Schulz iteration, so that every direction of a
matrix moves alike. Matrices of one shape go through it as one batch, experts of all layers among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each: [n, rows, columns], in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if is_tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(N_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """For parameters [.., rows, columns]: each last pair of axes is a matrix of its own."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape[-2:]].append(parameter)
        for shape, parameters in by_shape.items():
            directions = []
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                directions.append(parameter.grad.lerp(state["momentum"], MOMENTUM).reshape(-1, *shape))
            moved = orthogonal(torch.cat(directions)).float()
            rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            parts = moved.split([len(direction) for direction in directions])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(part.reshape(parameter.shape), alpha=-rate)
