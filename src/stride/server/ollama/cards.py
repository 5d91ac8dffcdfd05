"""Models as Ollama's clients list them. What is in a model, and not only of its file, is known once it is loaded."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stride.api import LLM
from stride.server.models import ModelFile
from stride.server.service import Service

NEVER = "9999-12-31T23:59:59Z"
"""When a model leaves that stays as long as there is room."""


def card(service: Service, name: str, llm: LLM | None) -> dict[str, Any]:
    """A model in a list."""
    shown = name if llm is None else service.name(llm)
    facts = {"name": shown, "model": shown, "modified_at": _modified(None), "size": 0, "digest": "", "details": {}}
    file = service.models.files.get(name) if llm is None else ModelFile(Path(llm.info["path"]), llm.info["file_bytes"])
    if file is not None:
        facts |= {"modified_at": _modified(file.path), "size": file.n_bytes, "digest": _digest(file.path)}
    if llm is None:
        return facts
    return {
        **facts,
        "details": details(llm),
        "expires_at": NEVER,
        "size_vram": 0,
        "context_length": llm.n_ctx,
    }


def description(llm: LLM, sampling: dict[str, Any]) -> dict[str, Any]:
    """A model by itself; ``sampling`` is what applies where a request says nothing."""
    info = llm.info
    architecture = info["architecture"]
    thinks, calls = llm.tool_format.reasoning is not None, llm.tool_format.call is not None
    return {
        "modelfile": f"FROM {info['path']}\n",
        "parameters": "\n".join(f"{name} {value}" for name, value in sampling.items()),
        "template": llm.template.source,
        "details": details(llm),
        "model_info": {
            "general.architecture": architecture,
            "general.basename": llm.name,
            "general.parameter_count": info["n_params"],
            f"{architecture}.context_length": info["n_ctx_train"],
            f"{architecture}.embedding_length": info["n_embd"],
            f"{architecture}.vocab_size": info["n_vocab"],
        },
        "capabilities": ["completion", *(["tools"] if calls else []), *(["thinking"] if thinks else [])],
        "modified_at": _modified(Path(info["path"])),
    }


def details(llm: LLM) -> dict[str, Any]:
    info = llm.info
    return {
        "parent_model": "",
        "format": "gguf",
        "family": info["architecture"],
        "families": [info["architecture"]],
        "parameter_size": _count(info["n_params"]),
        "quantization_level": info["quantization"],
    }


def _count(n: int) -> str:
    """A number of parameters: 196.0B, 1.5M."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= size:
            return f"{n / size:.1f}{letter}"
    return str(n)


def _modified(path: Path | None) -> str:
    seconds = path.stat().st_mtime if path is not None and path.exists() else 0
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _digest(path: Path) -> str:
    """Tells files apart, as clients want it; not of their bytes, which would take minutes to read."""
    status = path.stat() if path.exists() else None
    identity = f"{path}:{status.st_size}:{status.st_mtime_ns}" if status is not None else str(path)
    return hashlib.sha256(identity.encode()).hexdigest()
