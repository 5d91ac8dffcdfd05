"""Every error a person can meet, each with a message that names what is wrong and where."""

from __future__ import annotations

from pathlib import Path

SHOWN = 100
"""Characters that an error repeats of a value at most."""


def shown(value: object) -> str:
    """A value as errors repeat it: whoever sent a megabyte need not read it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class StrideError(Exception):
    """Base of all errors that Stride raises on purpose; the command line prints them without a traceback."""


class ModelFileError(StrideError):
    """A model file is not what it must be.

    The message reads ``FILE: tensor NAME: at byte OFFSET: REASON``, leaving out what does not apply.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str | Path | None = None,
        tensor: str | None = None,
        offset: int | None = None,
    ) -> None:
        where = [str(path)] if path is not None else []
        if tensor is not None:
            where.append(f"tensor {tensor}")
        if offset is not None:
            where.append(f"at byte {offset}")
        super().__init__(": ".join([*where, reason]))
        self.reason = reason
        self.path = path
        self.tensor = tensor
        self.offset = offset


class ChatTemplateError(StrideError):
    """A chat template is broken, or takes more time or memory than it may. Names the template's line."""

    def __init__(self, reason: str, *, line: int | None = None) -> None:
        super().__init__(f"chat template: {reason}" if line is None else f"chat template, line {line}: {reason}")
        self.reason = reason
        self.line = line


class UnsupportedError(StrideError):
    """The file or request is valid, but asks for something that this build does not do (HTTP 501). Names it."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class RequestError(StrideError):
    """A request that cannot be served as asked (HTTP 400). Names the field where there is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ContextOverflowError(RequestError):
    """The prompt does not fit the context window. ``at_least``: its tokens were not worth counting."""

    def __init__(self, n_prompt_tokens: int, n_ctx: int, *, generates: bool = True, at_least: bool = False) -> None:
        number = f"at least {n_prompt_tokens}" if at_least else n_prompt_tokens
        needs = " and needs room for at least one more" if generates else ""
        super().__init__(f"the prompt has {number} tokens{needs}, but the context window has {n_ctx}")
        self.n_prompt_tokens = n_prompt_tokens
        self.n_ctx = n_ctx


class OverloadedError(StrideError):
    """Too much is asked at a time (HTTP 429). ``retry_seconds``: when it is worth trying again."""

    def __init__(self, message: str, retry_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class DeadlineError(StrideError):
    """A request took longer than it may (HTTP 504)."""


class InsufficientMemoryError(StrideError):
    """There is too little memory for what was asked (HTTP 503).

    Attributes:
        could_ever_fit: this machine has the memory; something else holds it now.
    """

    def __init__(self, message: str, *, could_ever_fit: bool) -> None:
        super().__init__(message)
        self.could_ever_fit = could_ever_fit


class GenerationError(StrideError):
    """Generation failed on the engine's side (HTTP 500): NaN logits, a lost file, no memory."""


class ClosedError(GenerationError):
    """The engine is being closed, and neither takes nor finishes requests (HTTP 503)."""

    def __init__(self) -> None:
        super().__init__("shutting down: the engine is closed, and this request was not finished")
