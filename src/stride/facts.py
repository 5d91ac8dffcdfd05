"""What there is to say about a model that is loaded, for people and reports."""

from __future__ import annotations

import math
from typing import Any

from stride.gguf import census
from stride.load import Loaded


def notes(loaded: Loaded) -> list[str]:
    """What people should know about how a model was loaded, such as types that were converted."""
    found = list(loaded.backend.notes)
    asked = loaded.options.n_ctx
    if asked and asked > loaded.plan.n_ctx:
        found.append(f"the context is {loaded.plan.n_ctx} tokens, all that the model was made for")
    return found


def info(loaded: Loaded) -> dict[str, Any]:
    """Facts for reports and `/props`."""
    config, plan = loaded.config, loaded.plan
    tensors = loaded.file.tensors.values()
    return {
        "name": config.name,
        "path": str(loaded.path),
        "architecture": config.architecture,
        "quantization": census.grouped(tensors, lambda tensor: tensor.type.label)[0].label,
        "n_vocab": config.n_vocab,
        "n_embd": config.n_embd,
        "n_ctx": plan.n_ctx,
        "n_ctx_train": config.context_length,
        "n_params": sum(math.prod(tensor.shape) for tensor in tensors),
        "file_bytes": loaded.file.n_bytes,
        "kv_bytes": plan.cache,
        "kv_type": plan.kv_type,
        "drafting": loaded.drafting.told,
        "n_parallel": plan.n_parallel,
        "n_batch": loaded.engine.config.chunk,
        "backend": loaded.backend.name,
        "n_threads": loaded.backend.n_threads,
    }
