"""Stride: run, serve and measure Step 3.5 Flash and its smaller neighbours on the machine you own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "__version__"]

_HOMES = {"LLM": "stride.api", "SamplingParams": "stride.types"}

if TYPE_CHECKING:
    from stride.api import LLM
    from stride.types import SamplingParams


def __getattr__(name: str) -> Any:
    """Import lazily: ``stride --help`` and ``import stride`` stay fast."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stride' has no attribute {name!r}")
