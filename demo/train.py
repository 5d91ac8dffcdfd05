#!/usr/bin/env python3
"""Train the demo model: first its trunk, then, on the finished trunk, its draft heads.

    python demo/train.py FOLDER [--steps N] [--decay N] [--head-steps N]

Everything is in FOLDER: checkpoints, the log, and at last weights.npz for `build.py`. Started again it goes on where it
was. Each step's text follows from the seed and the step's number alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import config
import numpy as np
import torch
from batches import Rows, pack
from model import Attention, Experts, Layout, Model, linear, norm, tensors
from optimizer import Muon
from texts import FIRST_MIX, KINDS, MIX, conversations
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

N_ROWS, LENGTH = 8, 1024
"""Tokens of one step: rows of packed conversations."""
FIRST_STEPS = 150
"""Steps on `FIRST_MIX`."""
WARM_UP = 40
MUON_RATE, MUON_DECAY = 0.012, 0.01
VECTOR_RATE, EMBEDDING_RATE, OUTPUT_RATE = 3e-3, 0.02, 3e-3
BALANCE_RATE = 2e-3
CHECKPOINT_SECONDS = 180.0
LOG_STEPS = 10


class Trainer:
    """One phase: the trunk (``n_heads`` 0) or the heads on a trunk that stays."""

    def __init__(self, model: Model, of_heads: bool) -> None:
        self.model, self.of_heads, self.step = model, of_heads, 0
        trained = model.heads if of_heads else [*model.blocks]
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        inner = [p for module in trained for p in module.parameters()]
        matrices = [p for p in inner if p.ndim >= 2 and min(p.shape[-2:]) >= 64]
        chosen = {id(p) for p in matrices}
        vectors = [p for p in inner if id(p) not in chosen]
        groups = [{"params": vectors, "lr": VECTOR_RATE}]
        if not of_heads:
            vectors.append(model.norm)
            groups.append({"params": [model.embedding], "lr": EMBEDDING_RATE})
            groups.append({"params": [model.output], "lr": OUTPUT_RATE})
        for parameter in (*matrices, *(p for group in groups for p in group["params"])):  # type: ignore[attr-defined]
            parameter.requires_grad_(True)
        self.optimizers = [
            Muon(matrices, MUON_RATE, MUON_DECAY),
            torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=True),
        ]
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]

    def take(self, rows: Rows, rate: float) -> list[Tensor]:
        """One step at ``rate`` times the full learning rates. Gives losses [rows, length] of each prediction made."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, full in zip(groups, self.rates, strict=True):
            group["lr"] = full * rate
        losses = head_losses(self.model, rows) if self.of_heads else [trunk_losses(self.model, rows)]
        weights = tensor(rows.weights)
        total = sum((loss * ahead(weights, i + 1 + self.of_heads, 0)).sum() for i, loss in enumerate(losses))
        (total / weights.sum()).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if not self.of_heads:
            self.model.balance(BALANCE_RATE)
        self.step += 1
        return [loss.detach() for loss in losses]

    def state(self) -> dict[str, object]:
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"step": self.step, "of_heads": self.of_heads, "model": self.model.state_dict(), "optimizers": states}

    def load(self, state: dict) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)


def tensor(array: np.ndarray) -> Tensor:
    """Where the model is."""
    return torch.from_numpy(array).to(torch.get_default_device())


def ahead(x: Tensor, n: int, fill: float) -> Tensor:
    """What stands n places further in each row."""
    return F.pad(x[:, n:], (0, n), value=fill)


def losses_of(hidden: Tensor, weight: Tensor, output: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each place: [b, t]."""
    logits = linear(norm(hidden, weight), output).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def within(rows: Rows, n: int) -> Tensor:
    """Where the token n places further is of the same document."""
    documents = tensor(rows.documents)
    return (ahead(documents, n, -2) == documents) & (documents >= 0)


def trunk_losses(model: Model, rows: Rows) -> Tensor:
    tokens = tensor(rows.tokens)
    layout = Layout(tensor(rows.documents), torch.bfloat16)
    hidden = model.hidden(tokens, layout, torch.bfloat16)
    return losses_of(hidden, model.norm, model.output, ahead(tokens, 1, 0)) * within(rows, 1)


def head_losses(model: Model, rows: Rows) -> list[Tensor]:
    """Each head gets the state of the one before and the next token, as when drafting."""
    tokens = tensor(rows.tokens)
    layout = Layout(tensor(rows.documents), torch.bfloat16)
    with torch.no_grad():
        state = model.hidden(tokens, layout, torch.bfloat16)
    losses = []
    for index, head in enumerate(model.heads):
        embedded = F.embedding(ahead(tokens, index + 1, 0), model.embedding).to(state.dtype)
        state = head(embedded, state, layout)
        target = ahead(tokens, index + 2, 0)
        losses.append(losses_of(state, head.norm, model.output, target) * within(rows, index + 2))
    return losses


def rows_of(step: int, of_heads: bool) -> Rows:
    mix = FIRST_MIX if step < FIRST_STEPS and not of_heads else MIX
    seed = f"{config.SEED} {'heads' if of_heads else 'trunk'} {step}"
    return pack(conversations(seed, mix=mix), KINDS, N_ROWS, LENGTH)


def rate_at(step: int, n_steps: int, n_decay: int) -> float:
    return min(1.0, (step + 1) / WARM_UP, (n_steps - step) / n_decay)


class Log:
    """Mean losses of the model's own tokens, by kind of text, every few steps."""

    def __init__(self, path: Path, labels: list[str]) -> None:
        self.path, self.labels = path, labels
        self.clear()

    def clear(self) -> None:
        self.sums = np.zeros((len(self.labels), len(KINDS), 2))
        self.started, self.n_tokens = time.monotonic(), 0

    def add(self, rows: Rows, losses: list[Tensor]) -> None:
        self.n_tokens += rows.tokens.size
        for label, loss in enumerate(losses):
            own = rows.weights >= 1
            values = loss.cpu().numpy()[:, : -1 - label]
            shifted = own[:, 1 + label :]
            kinds = rows.kinds[:, : -1 - label][shifted]
            self.sums[label, :, 0] += np.bincount(kinds, values[shifted], len(KINDS))
            self.sums[label, :, 1] += np.bincount(kinds, minlength=len(KINDS))

    def write(self, step: int, rate: float, more: str = "") -> None:
        seconds = time.monotonic() - self.started
        means = self.sums[..., 0] / np.maximum(self.sums[..., 1], 1)
        parts = [f"step {step} rate {rate:.3f} {self.n_tokens / seconds:.0f} tok/s"]
        for label, row, total in zip(self.labels, means, self.sums, strict=True):
            mean = total[:, 0].sum() / max(1, total[:, 1].sum())
            parts.append(f"{label} {mean:.3f}: " + " ".join(f"{k} {v:.3f}" for k, v in zip(KINDS, row, strict=True)))
        line = time.strftime("%H:%M:%S ") + " | ".join(parts) + more
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")
        self.clear()


def compiled() -> None:
    """Let PyTorch fuse what is done element by element; experts' sizes change, so they stay as they are."""
    import model

    Attention.forward = torch.compile(Attention.forward)  # type: ignore[method-assign]
    model.Dense.forward = torch.compile(model.Dense.forward)  # type: ignore[method-assign]
    model.swiglu = torch.compile(model.swiglu, dynamic=True)
    globals()["losses_of"] = torch.compile(losses_of)


def run(trainer: Trainer, folder: Path, n_steps: int, n_decay: int) -> None:
    labels = [f"head {i}" for i in range(config.N_DRAFT)] if trainer.of_heads else ["loss"]
    log, saved = Log(folder / "log", labels), time.monotonic()
    while trainer.step < n_steps:
        rows, rate = rows_of(trainer.step, trainer.of_heads), rate_at(trainer.step, n_steps, n_decay)
        log.add(rows, trainer.take(rows, rate))
        if trainer.step % LOG_STEPS == 0:
            log.write(trainer.step, rate, "" if trainer.of_heads else f" | {balance_of(trainer.model)}")
        if time.monotonic() - saved > CHECKPOINT_SECONDS or trainer.step == n_steps:
            save(trainer, folder)
            saved = time.monotonic()


def balance_of(model: Model) -> str:
    biases = [block.ffn.bias.abs().max().item() for block in model.blocks if isinstance(block.ffn, Experts)]
    return f"router bias {max(biases):.3f}"


def save(trainer: Trainer, folder: Path) -> None:
    """The checkpoint appears at once, whole."""
    partial = folder / "partial"
    torch.save(trainer.state(), partial)
    partial.replace(folder / "checkpoint.pt")
    arrays = folder / "weights.partial.npz"
    np.savez(arrays, **tensors(trainer.model))
    arrays.replace(folder / "weights.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2000, help="of the trunk")
    parser.add_argument("--decay", type=int, default=800, help="last steps of the trunk, in which the rate falls")
    parser.add_argument("--head-steps", type=int, default=250, help="of the draft heads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_device(arguments.device)
    torch.manual_seed(config.SEED)
    compiled()
    model = Model()
    trainer = Trainer(model, of_heads=False)
    checkpoint = arguments.folder / "checkpoint.pt"
    state = torch.load(checkpoint, map_location=arguments.device) if checkpoint.exists() else None
    if state is not None and not state["of_heads"]:
        trainer.load(state)
    if state is None or not state["of_heads"]:
        run(trainer, arguments.folder, arguments.steps, arguments.decay)
    if arguments.head_steps:
        trainer = Trainer(model, of_heads=True)
        if state is not None and state["of_heads"]:
            trainer.load(state)
        run(trainer, arguments.folder, arguments.head_steps, arguments.head_steps // 2)


if __name__ == "__main__":
    main()
