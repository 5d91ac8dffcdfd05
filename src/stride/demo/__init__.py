"""The demo model: Step 3.5 Flash's architecture in a few megabytes; the repository's ``demo/`` trains and builds it."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The model's first GGUF file; the other part lies beside it."""
    return Path(__file__).parent / "demo-00001-of-00002.gguf"
