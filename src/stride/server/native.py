"""llama-server's own routes: health and props."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from stride.server.service import Service
from stride.server.wire import FINGERPRINT


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """200, or 503 while the only model is not loaded."""
        service.check_ready()
        return {"status": "ok"}

    @routes.get("/props")
    async def props(http: Request, model: str | None = None) -> dict[str, Any]:
        """What is served and how."""
        llm = await service.llm(http, model)
        info = llm.info
        return {
            "default_generation_settings": {"n_ctx": llm.n_ctx, "params": service.settings.sampling},
            "total_slots": info["n_parallel"],
            "model_alias": service.name(llm),
            "model_path": info["path"],
            "modalities": {"vision": False, "audio": False},
            "chat_template": llm.template.source,
            "build_info": FINGERPRINT,
            **{name: info[name] for name in ("n_ctx", "kv_bytes", "kv_type", "backend", "file_bytes")},
        }

    return routes
