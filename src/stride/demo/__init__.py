"""The demo model: Step 3.5 Flash's architecture in a few megabytes, built by ``demo/build.py`` of the repository."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The model's GGUF file."""
    return Path(__file__).parent / "demo.gguf"
