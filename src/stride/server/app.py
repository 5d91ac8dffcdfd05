"""The application: every dialect's routes over one `Service`, behind the guard."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from stride import __version__
from stride.errors import StrideError
from stride.server import anthropic, completions, docs, embeddings, errors, native, ollama, openai, page, responses
from stride.server.guard import Guard, Keys
from stride.server.limits import Limits
from stride.server.models import Models
from stride.server.observe import REQUEST_ID_NAMES, Caught, Observed
from stride.server.origins import Welcome, WelcomeCors
from stride.server.service import Holding, Service, Settings

DIALECTS = (openai, responses, native)
"""Modules with a ``router(service)``; their routes answer under ``/v1`` and without it."""
FIXED_DIALECTS = (anthropic, ollama, completions, embeddings)
"""Those whose routes answer where they say, and nowhere else."""

DESCRIPTION = (
    "Routes answer under /v1 and without it, but for /completions and /embeddings, which are llama-server's without. A "
    "field that is not known is ignored; a known one with a bad value is an error that names it."
)


def create_app(models: Models, settings: Settings | None = None) -> FastAPI:
    """The application; the models remain the caller's to close. Its ``state.keys`` are the API keys.

    Raises:
        StrideError: the file of keys cannot be read, or an allowed host or origin is none.
    """
    settings = settings or Settings()
    service = Service(models, settings)
    app = FastAPI(title="Stride", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    for dialect in DIALECTS:
        routes = dialect.router(service)
        _answer_head(routes)
        app.include_router(routes, prefix="/v1")
        app.include_router(routes, include_in_schema=False)
    for dialect in FIXED_DIALECTS:
        routes = dialect.router(service)
        _answer_head(routes)
        app.include_router(routes)
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
    welcome = Welcome((settings.host, *settings.allowed_hosts), settings.allowed_origins)
    app.add_middleware(Guard, keys=app.state.keys, welcome=welcome)
    app.add_middleware(Caught)
    app.add_middleware(WelcomeCors, welcome=welcome, exposed=REQUEST_ID_NAMES)
    app.add_middleware(Observed, counts=service.requests)
    docs.install(app)
    return app


def _answer_head(routes: APIRouter) -> None:
    """HEAD wherever GET is; the connection leaves the body out."""
    for route in list(routes.routes):
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            path = route.path.removeprefix(routes.prefix)
            routes.add_api_route(path, route.endpoint, methods=["HEAD"], response_model=None, include_in_schema=False)
