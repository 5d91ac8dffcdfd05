"""What replaying a trace showed, kept for each model and machine: the loader picks its policy by it, `stride plan` its
hit rate. Quantisations of a model route alike, so what one of them showed serves all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stride.errors import StrideError
from stride.experts.policy import CHOICES, DEFAULT, PolicyChoice
from stride.experts.trace import Shape

VERSION = 1
TIE = 0.002
"""Hit rates that are no farther apart are equal: the simpler policy is taken."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Hit rates of policies, and of the bound, at some numbers of slots (ascending); ``n_uses`` were counted."""

    shape: Shape
    machine: str
    n_uses: int
    slots: tuple[int, ...]
    hit_rates: Mapping[PolicyChoice, tuple[float, ...]]
    bound: tuple[float, ...]

    def hit_rate(self, n_slots: int, choice: PolicyChoice | None = None) -> float:
        """Of a policy, or of the best one: what to expect with so many slots."""
        rates = self.hit_rates[choice or self.best(n_slots)]
        # none of it is found without slots, all of it with a slot for each expert
        places = [0, *self.slots, self.shape.n_keys]
        return float(np.interp(n_slots, places, [0.0, *rates, 1.0]))

    def best(self, n_slots: int) -> PolicyChoice:
        """The policy that finds most with so many slots; the first of those that are as good as equal."""
        able = [c for c in CHOICES if c in self.hit_rates and (n_slots >= self.shape.n_layers or not c.per_layer)]
        rates = {choice: self.hit_rate(n_slots, choice) for choice in able}
        return next(choice for choice in able if rates[choice] >= max(rates.values()) - TIE)


def folder() -> Path:
    """Among the user's data (XDG)."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data, "stride", "experts").expanduser()


def saved_path(shape: Shape) -> Path:
    """Where this machine keeps what it knows of a model."""
    digest = hashlib.sha256(json.dumps([platform.node(), *asdict(shape).values()]).encode()).hexdigest()
    return folder() / f"{digest[:16]}.json"


def save(found: Saved) -> Path:
    """Keep what was found, in place of what was found before; gives the file.

    Raises:
        StrideError: it cannot be written.
    """
    path = saved_path(found.shape)
    facts = {
        "version": VERSION,
        "shape": asdict(found.shape),
        "machine": found.machine,
        "n_uses": found.n_uses,
        "slots": found.slots,
        "hit_rates": [{**asdict(choice), "rates": rates} for choice, rates in found.hit_rates.items()],
        "bound": found.bound,
    }
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(facts, indent=1))
        os.replace(partial, path)
    except OSError as error:
        raise StrideError(f"{path} cannot be written: {error.strerror}") from error
    return path


def load(shape: Shape) -> Saved | None:
    """What this machine knows of a model; None: nothing.

    Raises:
        StrideError: the file is not what `save` wrote.
    """
    path = saved_path(shape)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StrideError(f"{path} cannot be read: {error}") from error
    try:
        found = _parse(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise StrideError(
            f"{path} is not what `stride experts` writes ({error}): remove it, or measure again"
        ) from error
    return found if found.shape == shape else None


def policy_for(shape: Shape, n_slots: int) -> PolicyChoice:
    """The policy to run a model with: the best of those that were replayed here, `DEFAULT` where none were.

    Raises:
        StrideError: see `load`.
    """
    found = load(shape)
    return DEFAULT if found is None else found.best(n_slots)


def _parse(facts: dict[str, Any]) -> Saved:
    """ValueError, TypeError or KeyError: something is not what it must be."""
    if facts["version"] != VERSION:
        raise ValueError(f"its version is {facts['version']}, not {VERSION}")
    known = {(choice.kind, choice.per_layer): choice for choice in CHOICES}
    slots = tuple(int(n) for n in facts["slots"])
    if not slots or sorted(set(slots)) != list(slots) or slots[0] < 1:
        raise ValueError("its slots do not ascend")
    return Saved(
        shape=Shape(**facts["shape"]),
        machine=str(facts["machine"]),
        n_uses=int(facts["n_uses"]),
        slots=slots,
        hit_rates={known[row["kind"], row["per_layer"]]: _rates(row["rates"], slots) for row in facts["hit_rates"]},
        bound=_rates(facts["bound"], slots),
    )


def _rates(values: list[float], slots: tuple[int, ...]) -> tuple[float, ...]:
    rates = tuple(float(value) for value in values)
    if len(rates) != len(slots) or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError("its hit rates are no shares, one for each number of slots")
    return rates
