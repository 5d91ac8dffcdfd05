"""JSON schemas as answers are held to them: an object that declares properties has no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stride.types import JsonSchema

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_COMBINING = ("anyOf", "oneOf", "allOf", "$ref", "not", "if", "dependentSchemas", "unevaluatedProperties")


def closed(schema: JsonSchema) -> JsonSchema:
    """The schema with ``additionalProperties: false`` in each object that has properties and says nothing of others.

    As llama-server does, and as the arguments of tools are. Where an object's properties are spread over several
    schemas that must all match, each would forbid what the others declare: such a schema stays as it is.
    """
    return schema if _spreads(schema) else _closed(schema)


def _spreads(schema: Mapping[str, Any]) -> bool:
    """Whether somewhere an object is described by more than one schema."""
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) > 1:
        return True
    if "properties" in schema and any(name in schema for name in _COMBINING):
        return True
    return any(_spreads(child) for _, _, child in _children(schema))


def _closed(schema: Mapping[str, Any]) -> JsonSchema:
    result = dict(schema)
    for name, key, child in _children(schema):
        if key is None:
            result[name] = _closed(child)
        else:
            if result[name] is schema[name]:
                result[name] = schema[name].copy()
            result[name][key] = _closed(child)
    if schema.get("properties"):
        result.setdefault("additionalProperties", False)
    return result


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """The schemas right below one: keyword, key or index there, schema."""
    for name in (*_BY_NAME, *_LISTS, *_SINGLE):
        value = schema.get(name)
        if name in _SINGLE:
            found: Any = [(None, value)]
        elif name in _LISTS:
            found = enumerate(value) if isinstance(value, list) else ()
        else:
            found = value.items() if isinstance(value, dict) else ()
        for key, child in found:
            if isinstance(child, dict):
                yield name, key, child
