"""The application: every dialect's routes over one `Service`, behind the guard."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from stride import __version__
from stride.errors import StrideError
from stride.server import anthropic, docs, embeddings, errors, native, ollama, openai, page, responses
from stride.server.guard import Guard, Keys, is_loopback
from stride.server.limits import Limits
from stride.server.models import Models
from stride.server.observe import REQUEST_ID, Caught, Observed
from stride.server.service import Holding, Service, Settings

DIALECTS = (openai, responses, native)
"""Modules with a ``router(service)``; their routes answer under ``/v1`` and without it."""
FIXED_DIALECTS = (anthropic, ollama, embeddings)
"""Those whose routes answer where they say, and nowhere else."""

DESCRIPTION = (
    "Routes answer under /v1 and without it, but for /embeddings, which is llama-server's without. A field that is not "
    "known is ignored; a known one with a bad value is an error that names it."
)


def create_app(models: Models, settings: Settings | None = None) -> FastAPI:
    """The application; the models remain the caller's to close. Its ``state.keys`` are the API keys.

    Raises:
        StrideError: the file of keys cannot be read.
    """
    settings = settings or Settings()
    service = Service(models, settings)
    app = FastAPI(title="Stride", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    for dialect in DIALECTS:
        routes = dialect.router(service)
        app.include_router(routes, prefix="/v1")
        app.include_router(routes, include_in_schema=False)
    for dialect in FIXED_DIALECTS:
        app.include_router(dialect.router(service))
    app.include_router(page.router(), include_in_schema=False)
    for kind in (StrideError, HTTPException):
        app.add_exception_handler(kind, lambda request, error: errors.response(error, path=request.url.path))
    app.add_middleware(Holding)
    app.add_middleware(
        Limits,
        key_parallel=settings.key_parallel,
        key_per_minute=settings.key_per_minute,
        body_seconds=settings.body_seconds,
        max_bytes=settings.max_bodies_bytes,
    )
    app.state.keys = Keys(settings.api_keys, settings.api_key_file)
    app.add_middleware(Guard, keys=app.state.keys, loopback=is_loopback(settings.host))
    app.add_middleware(Caught)
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
