"""What an answer to the coding test holds: its files, their syntax trees, and the routes and app found in them."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from stride.bench.graders.files import extract_files

METHODS = ("get", "post", "put", "patch", "delete")


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
class App:
    """Where a FastAPI application is made: a variable of a module, or a function that gives it."""

    file: str
    name: str
    factory: bool

    @property
    def module(self) -> str:
        return ".".join(PurePosixPath(self.file).with_suffix("").parts)


@dataclass(frozen=True, slots=True)
class Project:
    """What was read out of an answer."""

    text: str
    files: Mapping[str, str]
    trees: Mapping[str, ast.Module]
    syntax_errors: tuple[str, ...]
    routes: tuple[Route, ...]

    @property
    def app(self) -> App | None:
        """The application, the one of main.py or app.py if there are several."""
        found = [app for name, tree in self.trees.items() for app in _apps(name, tree)]
        return min(found, key=_less_usual, default=None)

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
                found.setdefault(module.partition(".")[0], where(name, node))
        return found


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
            errors.append(f"{name}: {str(error) or type(error).__name__}")
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
                        status = status_of(options.get("status_code"))
                        yield Route(method, path.value, status, node, where(name, node), documented)


def status_of(node: ast.AST | None) -> int | None:
    """201 from ``201``, ``status.HTTP_201_CREATED`` or ``HTTPStatus.CREATED``."""
    match node:
        case ast.Constant(value=int(code)):
            return code
        case ast.Attribute(attr=name):
            numbers = re.findall(r"HTTP_(\d{3})", name)
            return int(numbers[0]) if numbers else {"CREATED": 201, "NO_CONTENT": 204, "NOT_FOUND": 404}.get(name)
    return None


def where(name: str, node: ast.AST) -> str:
    return f"{name}:{getattr(node, 'lineno', '?')}"


def _apps(name: str, tree: ast.Module) -> Iterator[App]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=variable)], value=value) if _makes_app(value):
                yield App(name, variable, factory=False)
            case ast.AnnAssign(target=ast.Name(id=variable), value=ast.expr() as value) if _makes_app(value):
                yield App(name, variable, factory=False)
            case ast.FunctionDef(name=function, args=ast.arguments(args=[])):
                if any(isinstance(inner, ast.expr) and _makes_app(inner) for inner in ast.walk(node)):
                    yield App(name, function, factory=True)


def _makes_app(value: ast.expr) -> bool:
    match value:
        case ast.Call(func=ast.Name(id="FastAPI") | ast.Attribute(attr="FastAPI")):
            return True
    return False


def _less_usual(app: App) -> tuple[bool, bool]:
    return PurePosixPath(app.file).stem not in ("main", "app"), app.factory
