"""What can be read off an answer's code without running it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Mapping

from stride.bench.graders.project import Project, Route, status_of, where

STORAGE = ("sqlalchemy", "sqlmodel", "sqlite3", "aiosqlite", "databases", "peewee", "tortoise")
KNOWN_PACKAGES = frozenset(STORAGE) | {
    *("fastapi", "starlette", "pydantic", "pydantic_settings", "uvicorn", "alembic", "dotenv", "email_validator"),
    *("typing_extensions", "httpx", "pytest", "anyio", "fastapi_pagination", "passlib", "jose", "jwt", "orjson"),
}
PAGINATION = frozenset({"skip", "limit", "offset", "page", "size", "per_page", "page_size", "cursor", "params"})
DEPRECATED_PYDANTIC = {
    **{name: f"{name} (Pydantic v1)" for name in ("parse_obj", "from_orm", "parse_raw", "update_forward_refs")},
    **{name: f"{name} (Pydantic v1)" for name in ("orm_mode", "root_validator", "validator")},
    "dict": ".dict() (Pydantic v1)",
}
Verdict = tuple[bool, str]
Look = Callable[[Project], Verdict]


def _extracted(project: Project) -> Verdict:
    return True, ", ".join(project.files)


def _parses(project: Project) -> Verdict:
    return not project.syntax_errors, "; ".join(project.syntax_errors) or ", ".join(project.trees)


def _imports_fastapi(project: Project) -> Verdict:
    where = project.imports().get("fastapi")
    return where is not None, where or "fastapi is not imported"


def _storage(project: Project) -> Verdict:
    found = [f"{package} ({where})" for package, where in project.imports().items() if package in STORAGE]
    sqlite = bool(found) and any("sqlite" in source.lower() for source in project.files.values())
    return sqlite, ", ".join(found) or "no database package is imported"


def _known_imports(project: Project) -> Verdict:
    own = {part.removesuffix(".py") for name in project.files for part in name.split("/")}
    known = own | KNOWN_PACKAGES | sys.stdlib_module_names
    unknown = [f"{module} ({where})" for module, where in project.imports().items() if module not in known]
    return not unknown, ", ".join(unknown) or "all imports are known or the answer's own"


def _route(methods: tuple[str, ...], takes_id: bool) -> Callable[[Project], Verdict]:
    def look(project: Project) -> Verdict:
        found = _find(project, methods, takes_id)
        kind = "/".join(method.upper() for method in methods)
        return bool(found), ", ".join(map(str, found)) or f"no {kind} {'with' if takes_id else 'without'} an id"

    return look


def _find(project: Project, methods: tuple[str, ...], takes_id: bool) -> list[Route]:
    """Routes of a kind; one without an id must share its path with one that takes an id (a welcome page does not)."""
    collections = {route.collection for route in project.routes if route.takes_id}
    return [
        route
        for route in project.routes
        if route.method in methods and route.takes_id == takes_id and (takes_id or route.collection in collections)
    ]


def _status_is(code: int, methods: tuple[str, ...], takes_id: bool) -> Callable[[Project], Verdict]:
    def look(project: Project) -> Verdict:
        routes = _find(project, methods, takes_id)
        good = [route for route in routes if code in _codes(route)]
        return bool(good), ", ".join(map(str, good or routes)) or "no such route"

    return look


def _codes(route: Route) -> set[int | None]:
    """Status codes that the decorator or a response in the body names."""
    keywords = (node for node in ast.walk(route.function) if isinstance(node, ast.keyword))
    return {route.status, *(status_of(keyword.value) for keyword in keywords if keyword.arg == "status_code")}


def _not_found(project: Project) -> Verdict:
    for name, node in project.nodes():
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id="HTTPException"), args=args, keywords=keywords)):
                codes = [status_of(arg) for arg in args[:1]]
                codes += [status_of(keyword.value) for keyword in keywords if keyword.arg == "status_code"]
                if 404 in codes:
                    return True, where(name, node)
    return False, "no HTTPException with 404 is raised"


def _pagination(project: Project) -> Verdict:
    for route in _find(project, ("get",), takes_id=False):
        arguments = route.function.args
        names = {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)} & PAGINATION
        if names:
            return True, f"{', '.join(sorted(names))} in {route}"
    return False, "the list takes no skip, limit or page"


def _pydantic_models(project: Project) -> Verdict:
    models = []
    for name, node in project.nodes():
        match node:
            case ast.ClassDef(name=model, bases=[ast.Name(id="BaseModel" | "SQLModel") | ast.Attribute(), *_]):
                models.append(f"{model} ({where(name, node)})")
    return bool(models), ", ".join(models) or "no Pydantic model"


def _pydantic_v2(project: Project) -> Verdict:
    """No call or option that Pydantic v2 dropped or renamed."""
    found = []
    for name, node in project.nodes():
        match node:
            case ast.Call(func=ast.Attribute(attr=called), args=[]) if called == "dict":
                found.append(f"{DEPRECATED_PYDANTIC[called]} at {where(name, node)}")
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in DEPRECATED_PYDANTIC:
                if called != "dict":
                    found.append(f"{DEPRECATED_PYDANTIC[called]} at {where(name, node)}")
            case ast.Name(id="orm_mode", ctx=ast.Store()):
                found.append(f"orm_mode (Pydantic v1) at {where(name, node)}")
    return not found, ", ".join(found) or "no call of Pydantic v1"


def _nothing_deprecated(project: Project) -> Verdict:
    found = []
    for name, node in project.nodes():
        match node:
            case ast.ClassDef(body=body, bases=bases) if bases:
                found += [
                    f"class Config (use model_config) at {where(name, inner)}"
                    for inner in body
                    if isinstance(inner, ast.ClassDef) and inner.name == "Config"
                ]
            case ast.ImportFrom(module="sqlalchemy.ext.declarative"):
                found.append(f"sqlalchemy.ext.declarative (use sqlalchemy.orm) at {where(name, node)}")
            case ast.Attribute(attr="on_event"):
                found.append(f"on_event (use lifespan) at {where(name, node)}")
            case ast.Attribute(value=ast.Name(id="datetime"), attr="utcnow"):
                found.append(f"datetime.utcnow at {where(name, node)}")
    return not found, ", ".join(found) or "nothing deprecated that these checks know"


def _pinned(project: Project) -> Verdict:
    for name, source in project.files.items():
        if not re.search(r"requirements[\w-]*\.txt$", name):
            continue
        lines = [line.partition("#")[0].strip() for line in source.splitlines()]
        lines = [line for line in lines if line]
        loose = [line for line in lines if "==" not in line]
        return bool(lines) and not loose, f"{name}: " + (f"not pinned: {', '.join(loose)}" if loose else "all pinned")
    return False, "no requirements.txt"


def _documented(project: Project) -> Verdict:
    table = re.search(r"^\s*\|.*\b(GET|POST|PUT|DELETE)\b.*/", project.text, re.M)
    if table:
        return True, "a table of endpoints in the answer"
    bare = [str(route) for route in project.routes if not route.documented]
    if bare or not project.routes:
        return False, "no description: " + ", ".join(bare) if bare else "there are no endpoints"
    return True, "every handler has a description"


READ: Mapping[str, tuple[float, Look]] = {
    "Files extracted": (0.5, _extracted),
    "Python parses": (1.0, _parses),
    "Imports exist": (1.0, _known_imports),
    "SQLite storage": (0.5, _storage),
    "404 by HTTPException": (0.5, _not_found),
    "Pydantic models": (0.5, _pydantic_models),
    "Pydantic v2 calls": (1.0, _pydantic_v2),
    "Nothing deprecated": (0.5, _nothing_deprecated),
    "Requirements pinned": (0.5, _pinned),
    "Endpoints documented": (0.5, _documented),
}
"""Check → its weight, and what it looks for: whether it passed, and the evidence."""

INSTEAD_OF_RUNNING: Mapping[str, tuple[float, Look]] = {
    "Imports FastAPI": (0.5, _imports_fastapi),
    "Create route": (1.0, _route(("post",), takes_id=False)),
    "List route": (1.0, _route(("get",), takes_id=False)),
    "Read route": (1.0, _route(("get",), takes_id=True)),
    "Update route": (1.0, _route(("put", "patch"), takes_id=True)),
    "Delete route": (1.0, _route(("delete",), takes_id=True)),
    "201 on create": (1.0, _status_is(201, ("post",), takes_id=False)),
    "204 on delete": (0.5, _status_is(204, ("delete",), takes_id=True)),
    "Pagination": (1.0, _pagination),
}
"""What the code promises, where it cannot be run to see if it keeps it."""
