"""What drafts for a model: its own heads, its text so far, or a smaller model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from stride.engine import EngineConfig
from stride.engine.draft import Drafter
from stride.engine.draft_heads import HeadDrafter
from stride.engine.draft_lookup import LookupDrafter
from stride.engine.draft_model import ModelDrafter
from stride.engine.runner import Runner
from stride.errors import RequestError
from stride.gguf import GGUFFile, open_gguf
from stride.models import ModelConfig, check_model, load_model
from stride.models.config import DRAFT_LAG
from stride.ops.api import Backend

DRAFTS = ("auto", "off", "heads", "lookup")
"""What may be asked for by name; anything else is a file."""
DEFAULT_MOST = {"off": 0, "heads": 16, "lookup": 8, "model": 8}
"""Tokens drafted at a time, at most; heads draft one each."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What drafts. ``told``: for people. ``model``: the file and configuration of a model that does."""

    kind: Literal["off", "heads", "lookup", "model"]
    n_most: int
    told: str
    model: tuple[GGUFFile, ModelConfig] | None = None

    def drafter(self, backend: Backend, config: EngineConfig) -> Callable[[Runner], Drafter] | None:
        """What makes the drafter; a draft model is loaded here."""
        match self.kind:
            case "heads":
                return partial(HeadDrafter, lag=DRAFT_LAG)
            case "lookup":
                return lambda runner: LookupDrafter()
            case "model":
                assert self.model is not None
                decoder = load_model(self.model[0], backend, heads=False)
                return lambda runner: ModelDrafter(decoder, config)
        return None


def choose(asked: str | Path, n_most: int | None, file: GGUFFile, config: ModelConfig, opened: ExitStack) -> Choice:
    """What drafts for a model, going by one of `DRAFTS` or a file, which is opened; ``n_most`` tokens at a time.

    Raises:
        RequestError: the model has no heads, or the file is of another vocabulary.
        StrideError: the file cannot be read, or does not run.
    """
    n_heads = len(config.draft_layers)
    kind = ("heads" if n_heads else "lookup") if asked == "auto" else str(asked)
    if n_most == 0:
        kind = "off"
    most = DEFAULT_MOST.get(kind, DEFAULT_MOST["model"]) if n_most is None else n_most
    match kind:
        case "off":
            unread = f"; the file's {n_heads} draft layers are not read" if n_heads else ""
            return Choice("off", 0, f"off{unread}")
        case "heads":
            if not n_heads:
                raise RequestError("draft is 'heads', but the model has none: lookup and a file work", field="draft")
            return Choice("heads", min(most, n_heads), f"the model's own {n_heads} heads, as far as it pays")
        case "lookup":
            return Choice("lookup", most, f"what the text so far repeats, up to {most} tokens, as far as it pays")
    from stride import hub

    path = hub.resolve(kind)
    smaller = opened.enter_context(open_gguf(path))
    found = check_model(smaller)
    name = "tokenizer.ggml.tokens"
    if smaller.metadata.strings(name, default=[]) != file.metadata.strings(name, default=[]):
        raise RequestError(f"draft: {path} has another vocabulary than the model", field="draft")
    return Choice("model", most, f"{found.name}, up to {most} tokens, as far as it pays", (smaller, found))
