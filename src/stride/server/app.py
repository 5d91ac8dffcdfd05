"""The application: every dialect's routes over one `Service`, behind the guard."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from stride import __version__
from stride.errors import StrideError
from stride.server import docs, errors, native, openai
from stride.server.guard import Guard, is_loopback
from stride.server.observe import REQUEST_ID, Observed
from stride.server.service import Provider, Service, Settings

DIALECTS = (openai, native)
"""Modules with a ``router(service)``; their routes answer under ``/v1`` and without it."""

DESCRIPTION = (
    "Routes answer under /v1 and without it. A field that is not known is ignored; a known one with a bad value is an "
    "error that names it."
)


def create_app(provider: Provider, settings: Settings | None = None) -> FastAPI:
    """The application; it answers 503 until ``provider`` gives a model, and closes nothing when it ends."""
    service = Service(provider, settings or Settings())
    app = FastAPI(title="Stride", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    for dialect in DIALECTS:
        app.include_router(dialect.router(service), prefix="/v1")
        app.include_router(dialect.router(service), include_in_schema=False)
    for kind in (StrideError, HTTPException, Exception):
        app.add_exception_handler(kind, lambda request, error: errors.response(error))
    app.add_middleware(Guard, api_keys=service.settings.api_keys, loopback=is_loopback(service.settings.host))
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?",
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=[REQUEST_ID],
    )
    app.add_middleware(Observed, counts=service.requests)
    docs.install(app)
    return app
