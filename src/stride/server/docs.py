"""The OpenAPI document, and a page that shows it: one file without scripts, so that it needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import jinja2
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse

from stride.server import errors

_REFERENCE = "#/components/schemas/"
_ERRORS = {
    "4XX": "The request is refused: it is wrong, not allowed, too large, or there is no room for it now.",
    "5XX": "The server cannot answer: it failed, does not do this (501), or its model is not there yet (503).",
}


def install(app: FastAPI) -> None:
    """Serve ``/openapi.json`` with all schemas in its components, and ``/docs``."""
    source = (resources.files("stride.server") / "templates" / "docs.html").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The document, to read."""
        openapi = document()
        return HTMLResponse(page.render(info=openapi["info"], routes=[*_routes(openapi)]))


def _document(app: FastAPI) -> dict[str, Any]:
    openapi = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
    schemas = openapi.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_ERROR_SCHEMAS)
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's; ours are errors of their own form
        schemas.pop(unused, None)
    for path, methods in openapi["paths"].items():
        error = _ERROR_NAMES[errors.form(path)]
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                content["schema"] = _moved(content["schema"], schemas)
            body = {"application/json": {"schema": {"$ref": _REFERENCE + error}}}
            answers = operation["responses"]
            answers.pop("422", None)
            answers.update({status: {"description": text, "content": body} for status, text in _ERRORS.items()})
    return openapi


_ERROR = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "type"],
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": "string"},
                "n_prompt_tokens": {"type": "integer"},
                "n_ctx": {"type": "integer"},
            },
        }
    },
}
_ERROR_SCHEMAS = {
    "Error": _ERROR,
    "AnthropicError": {
        "title": "AnthropicError",
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
    "OllamaError": {
        "title": "OllamaError",
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    },
}
_ERROR_NAMES: dict[errors.Form, str] = {
    errors.body: "Error",
    errors.anthropic: "AnthropicError",
    errors.ollama: "OllamaError",
}


def _moved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to a schema that is moved to ``schemas``, as are its definitions."""
    schema = dict(schema)
    for name, definition in schema.pop("$defs", {}).items():
        schemas[name] = _renamed(definition)
    schemas[schema["title"]] = _renamed(schema)
    return {"$ref": _REFERENCE + schema["title"]}


def _renamed(value: Any) -> Any:
    match value:
        case dict():
            return {
                key: item.replace("#/$defs/", _REFERENCE) if key == "$ref" else _renamed(item)
                for key, item in value.items()
            }
        case list():
            return [_renamed(item) for item in value]
    return value


def _routes(openapi: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    schemas = openapi["components"]["schemas"]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            schema = schemas.get(body.get("$ref", "").removeprefix(_REFERENCE), {})
            required = schema.get("required", ())
            yield {
                "method": method.upper(),
                "path": path,
                "text": operation.get("description") or operation.get("summary", ""),
                "parameters": [item["name"] for item in operation.get("parameters", ())],
                "fields": [
                    {"name": name, "kind": _kind(field), "is_required": name in required}
                    for name, field in schema.get("properties", {}).items()
                ],
            }


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    limits = [f"{text} {schema[key]}" for key, text in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([str(schema.get("const", schema.get("type", "anything"))), *limits])
