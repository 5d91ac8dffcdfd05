"""Static checks of the coding answer, from its syntax tree. The code is read, never run."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from stride.bench.client import Answer
from stride.bench.graders import Check, Grade, Outcome
from stride.bench.graders.files import extract_files

METHODS = ("get", "post", "put", "patch", "delete")
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


@dataclass(frozen=True, slots=True)
class Route:
    """A handler: method, path, the status code its decorator names, its function and where it is."""

    method: str
    path: str
    status: int | None
    function: ast.FunctionDef | ast.AsyncFunctionDef
    where: str
    documented: bool

    @property
    def takes_id(self) -> bool:
        return "{" in self.path

    @property
    def collection(self) -> str:
        """The path without its parameter and slashes at the end: /todos/{id} and /todos/ belong together."""
        return self.path.partition("{")[0].rstrip("/")

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path or '(empty path)'} ({self.where})"


@dataclass(frozen=True, slots=True)
class Project:
    """What was read out of an answer."""

    text: str
    files: Mapping[str, str]
    trees: Mapping[str, ast.Module]
    syntax_errors: tuple[str, ...]
    routes: tuple[Route, ...]

    def nodes(self) -> Iterator[tuple[str, ast.AST]]:
        return ((name, node) for name, tree in self.trees.items() for node in ast.walk(tree))

    def imports(self) -> dict[str, str]:
        """Top-level module → the first place that imports it (relative imports left out)."""
        found: dict[str, str] = {}
        for name, node in self.nodes():
            modules: Iterable[str] = ()
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for module in modules:
                found.setdefault(module.partition(".")[0], _where(name, node))
        return found


Verdict = tuple[bool, str]


def grade_code(answer: Answer) -> Grade:
    """Every check of `CHECKS`; all is a pass, at least half is partial."""
    project = read_project(answer.content)
    looks = CHECKS if project.trees else dict.fromkeys(CHECKS, _nothing)
    checks = tuple(Check(name, *look(project)) for name, look in looks.items())
    passed = sum(check.passed for check in checks)
    outcome: Outcome = "pass" if passed == len(checks) else "partial" if 2 * passed >= len(checks) else "fail"
    return Grade(outcome, f"{passed} of {len(checks)} static checks", checks)


def read_project(text: str) -> Project:
    """Files, syntax trees and routes of an answer."""
    files = extract_files(text)
    trees: dict[str, ast.Module] = {}
    errors = []
    for name, source in files.items():
        if not name.endswith(".py"):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                trees[name] = ast.parse(source)
        except SyntaxError as error:
            errors.append(f"{name}:{error.lineno}: {error.msg}")
        except (ValueError, RecursionError, MemoryError) as error:
            errors.append(f"{name}: {error or type(error).__name__}")
    routes = tuple(route for name, tree in trees.items() for route in _routes(name, tree))
    return Project(text, files, trees, tuple(errors), routes)


def _routes(name: str, tree: ast.Module) -> Iterator[Route]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(func=ast.Attribute(attr=method), args=args, keywords=keywords) if method in METHODS:
                    options = {keyword.arg: keyword.value for keyword in keywords}
                    path = args[0] if args else options.get("path")
                    if isinstance(path, ast.Constant) and isinstance(path.value, str):
                        described = any(key in options for key in ("summary", "description"))
                        documented = described or ast.get_docstring(node) is not None
                        status = _status(options.get("status_code"))
                        yield Route(method, path.value, status, node, _where(name, node), documented)


def _status(node: ast.AST | None) -> int | None:
    """201 from ``201``, ``status.HTTP_201_CREATED`` or ``HTTPStatus.CREATED``."""
    match node:
        case ast.Constant(value=int(code)):
            return code
        case ast.Attribute(attr=name):
            numbers = re.findall(r"HTTP_(\d{3})", name)
            return int(numbers[0]) if numbers else {"CREATED": 201, "NO_CONTENT": 204, "NOT_FOUND": 404}.get(name)
    return None


def _where(name: str, node: ast.AST) -> str:
    return f"{name}:{getattr(node, 'lineno', '?')}"


# --- The checks ---------------------------------------------------------------------------------


def _nothing(project: Project) -> Verdict:
    return False, "; ".join(project.syntax_errors) or "no Python file in the answer"


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
    return {route.status, *(_status(keyword.value) for keyword in keywords if keyword.arg == "status_code")}


def _not_found(project: Project) -> Verdict:
    for name, node in project.nodes():
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id="HTTPException"), args=args, keywords=keywords)):
                codes = [_status(arg) for arg in args[:1]]
                codes += [_status(keyword.value) for keyword in keywords if keyword.arg == "status_code"]
                if 404 in codes:
                    return True, _where(name, node)
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
                models.append(f"{model} ({_where(name, node)})")
    return bool(models), ", ".join(models) or "no Pydantic model"


def _pydantic_v2(project: Project) -> Verdict:
    """No call or option that Pydantic v2 dropped or renamed."""
    found = []
    for name, node in project.nodes():
        match node:
            case ast.Call(func=ast.Attribute(attr=called), args=[]) if called == "dict":
                found.append(f"{DEPRECATED_PYDANTIC[called]} at {_where(name, node)}")
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in DEPRECATED_PYDANTIC:
                if called != "dict":
                    found.append(f"{DEPRECATED_PYDANTIC[called]} at {_where(name, node)}")
            case ast.Name(id="orm_mode", ctx=ast.Store()):
                found.append(f"orm_mode (Pydantic v1) at {_where(name, node)}")
    return not found, ", ".join(found) or "no call of Pydantic v1"


def _nothing_deprecated(project: Project) -> Verdict:
    found = []
    for name, node in project.nodes():
        match node:
            case ast.ClassDef(body=body, bases=bases) if bases:
                found += [
                    f"class Config (use model_config) at {_where(name, inner)}"
                    for inner in body
                    if isinstance(inner, ast.ClassDef) and inner.name == "Config"
                ]
            case ast.ImportFrom(module="sqlalchemy.ext.declarative"):
                found.append(f"sqlalchemy.ext.declarative (use sqlalchemy.orm) at {_where(name, node)}")
            case ast.Attribute(attr="on_event"):
                found.append(f"on_event (use lifespan) at {_where(name, node)}")
            case ast.Attribute(value=ast.Name(id="datetime"), attr="utcnow"):
                found.append(f"datetime.utcnow at {_where(name, node)}")
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


CHECKS: Mapping[str, Callable[[Project], Verdict]] = {
    "Files extracted": _extracted,
    "Python parses": _parses,
    "Imports FastAPI": _imports_fastapi,
    "SQLite storage": _storage,
    "Imports exist": _known_imports,
    "Create route": _route(("post",), takes_id=False),
    "List route": _route(("get",), takes_id=False),
    "Read route": _route(("get",), takes_id=True),
    "Update route": _route(("put", "patch"), takes_id=True),
    "Delete route": _route(("delete",), takes_id=True),
    "201 on create": _status_is(201, ("post",), takes_id=False),
    "204 on delete": _status_is(204, ("delete",), takes_id=True),
    "404 by HTTPException": _not_found,
    "Pagination": _pagination,
    "Pydantic models": _pydantic_models,
    "Pydantic v2 calls": _pydantic_v2,
    "Nothing deprecated": _nothing_deprecated,
    "Requirements pinned": _pinned,
    "Endpoints documented": _documented,
}
"""Check → what it looks for. Each gives whether it passed, and the evidence."""
