"""What an application does when it is used over HTTP: creates, reads, lists, changes, removes, and refuses nonsense.

The routes come from the application's own OpenAPI document. Only answers count that arrived here; what the code says of
itself counts nowhere.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeAlias

import httpx

from stride.bench.graders import Check

Json: TypeAlias = Any
WEIGHTS: Mapping[str, float] = {
    "Starts": 2.0,
    "Creates": 1.0,
    "201 on create": 1.0,
    "Reads back": 1.0,
    "Lists": 1.0,
    "Updates": 2.5,
    "Deletes": 2.0,
    "204 on delete, without a body": 1.0,
    "404 where nothing is": 1.0,
    "422 on nonsense": 1.0,
    "Pagination": 1.0,
    "Survives a restart": 1.5,
    "No errors or deprecations in its log": 1.0,
}
"""Check → its weight, in the order of the report."""
ESSENTIAL = frozenset({"Starts", "Creates", "Reads back", "Lists", "Updates", "Deletes"})
"""Without one of these it is no such application, however good the rest."""
LISTS = ("items", "todos", "tasks", "data", "results")
FORMATS = {"date-time": "2030-01-02T03:04:05", "date": "2030-01-02", "time": "03:04:05"}
PAGE_SIZES = ("limit", "size", "per_page", "page_size")


class MisbehavedError(Exception):
    """The application did not do what it has to; says what it did instead."""


FAULTS = (MisbehavedError, httpx.HTTPError, HTTPException, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What an application's answers can make of a visit: they may hold anything."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Paths of what can be created: of all, and of one by its id."""

    collection: str
    one: str
    document: Mapping[str, Any]

    def of(self, item_id: Json) -> str:
        head, _, rest = self.one.partition("{")
        return f"{head}{item_id}{rest.partition('}')[2]}"


def shown(response: httpx.Response) -> str:
    """What was asked and answered, as evidence."""
    body = " ".join(response.text.split())[:120]
    return f"{response.request.method} {response.request.url.path} → {response.status_code} {body}".rstrip()


def find_resource(http: httpx.Client) -> Resource:
    """What can be created, by the application's own document.

    Raises:
        MisbehavedError: there is no such thing.
    """
    document = http.get("/openapi.json").raise_for_status().json()
    paths = document["paths"]
    for one in sorted(paths, key=len):
        if one.count("{") != 1 or not one.endswith("}"):
            continue
        bare = one.partition("{")[0].rstrip("/")
        for collection in (f"{bare}/", bare):
            if "post" in paths.get(collection, {}):
                return Resource(collection, one, document)
    raise MisbehavedError(f"no path can be posted to beside one with an id: {', '.join(paths) or 'there are no paths'}")


def request_parts(resource: Resource, method: str, path: str, number: int) -> dict[str, Any]:
    """What a request needs, made up from the document: a JSON body, or a query."""
    operation = resource.document["paths"][path][method]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        return {"json": sample(resource.document, body, number)}
    parameters = [p for p in operation.get("parameters", ()) if p["in"] == "query" and p.get("required")]
    return {"params": {p["name"]: sample(resource.document, p.get("schema", {}), number) for p in parameters}}


def sample(document: Mapping[str, Any], schema: Mapping[str, Any], number: int, name: str = "") -> Json:
    """A value that fits a schema; another one for another number."""
    if "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return sample(document, found, number, name)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            options = [option for option in schema[word] if option.get("type") != "null"]
            return sample(document, options[0], number, name) if options else None
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {key: sample(document, value, number, key) for key, value in properties.items() if key != "id"}
        case "array":
            return []
        case "boolean":
            return False
        case "integer" | "number":
            return max(number, schema.get("minimum", number), schema.get("exclusiveMinimum", number - 1) + 1)
    text = {**FORMATS, "email": f"a{number}@b.org"}.get(schema.get("format", ""), f"{name or 'thing'} {number}")
    return text[: schema.get("maxLength", len(text))]


def unwrap(body: Json) -> dict[str, Any]:
    """The item in an answer, which some applications put into another object."""
    if isinstance(body, dict) and not any("id" in key.lower() for key in body):
        inner = [value for value in body.values() if isinstance(value, dict)]
        if len(inner) == 1:
            body = inner[0]
    if not isinstance(body, dict):
        raise MisbehavedError(f"the answer holds no item: {str(body)[:100]}")
    return body


def item_id(item: Mapping[str, Any]) -> Json:
    for key in ("id", "_id", "uuid", *(key for key in item if key.lower().endswith("id"))):
        if item.get(key) is not None:
            return item[key]
    raise MisbehavedError(f"the item has no id: {str(dict(item))[:100]}")


def items_of(body: Json) -> list[Any]:
    """The list in an answer."""
    if isinstance(body, dict):
        body = next((body[key] for key in LISTS if isinstance(body.get(key), list)), body)
    if not isinstance(body, list):
        raise MisbehavedError(f"the answer holds no list: {str(body)[:100]}")
    return body


class Connection(HTTPConnection):
    """One connection to a Unix socket: unlike a client's pool it never opens another in its place."""

    def __init__(self, address: str) -> None:
        super().__init__("app", timeout=10)
        self._address = address

    def connect(self) -> None:
        if self.sock is None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._address)

    auto_open = 0


@dataclass(slots=True)
class Visit:
    """A first visit of a running application at a Unix socket, and the items that it created there.

    Each look gives its evidence, or raises why the thing is not there.
    """

    http: httpx.Client
    address: str
    resource: Resource
    created: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, method: str, path: str, *wanted: int, **options: Any) -> httpx.Response:
        """A request whose status must be one of those wanted, if any are."""
        response = self.http.request(method, path, **options)
        if wanted and response.status_code not in wanted:
            raise MisbehavedError(f"{shown(response)}, not {' or '.join(map(str, wanted))}")
        return response

    def create(self, number: int, *wanted: int) -> httpx.Response:
        parts = request_parts(self.resource, "post", self.resource.collection, number)
        response = self.ask("POST", self.resource.collection, *wanted, **parts)
        item, sent = unwrap(response.json()), parts.get("json") or {}
        item_id(item)
        wrong = [key for key, value in sent.items() if key in item and item[key] != value]
        if wrong:
            raise MisbehavedError(f"{shown(response)}: {', '.join(wrong)} came back changed")
        self.created.append(item)
        return response

    def methods(self, *wanted: str) -> list[str]:
        """Those that one item's path has."""
        return [method for method in wanted if method in self.resource.document["paths"][self.resource.one]]

    def path(self, index: int) -> str:
        """Of an item that was created here."""
        if index >= len(self.created):
            raise MisbehavedError("nothing was created")
        return self.resource.of(item_id(self.created[index]))

    # --- What is looked for ---

    def creates(self) -> str:
        return [shown(self.create(number, 200, 201)) for number in range(1, 5)][-1]

    def status_on_create(self) -> str:
        return shown(self.create(9, 201))

    def reads_back(self) -> str:
        response = self.ask("GET", self.path(0), 200)
        if unwrap(response.json()) != self.created[0]:
            raise MisbehavedError(f"{shown(response)}, not what was created: {self.created[0]}")
        return shown(response)

    def lists(self) -> str:
        response = self.ask("GET", self.resource.collection, 200)
        found = items_of(response.json())
        missing = [item for item in self.created if item not in found]
        if missing:
            raise MisbehavedError(f"{shown(response)}: {item_id(missing[0])} is not among them")
        return f"{len(found)} items, the {len(self.created)} created here among them"

    def updates(self) -> str:
        path, before = self.path(1), self.created[1]
        methods = self.methods("put", "patch")
        if not methods:
            raise MisbehavedError(f"{self.resource.one} has neither PUT nor PATCH")
        parts = request_parts(self.resource, methods[0], self.resource.one, 77)
        sent = next(iter(parts.values()))
        sent.update({key: not before.get(key, value) for key, value in sent.items() if isinstance(value, bool)})
        self.ask(methods[0].upper(), path, 200, 204, **parts)
        after = unwrap(self.ask("GET", path, 200).json())
        wrong = [key for key, value in sent.items() if key in after and after[key] != value]
        if wrong or after == before:
            raise MisbehavedError(
                f"{methods[0].upper()} {path} did not change {', '.join(wrong) or 'anything'}: {after}"
            )
        return f"{methods[0].upper()} {path} changed {before} to {after}"

    def deletes(self) -> str:
        path = self.path(2)
        response = self.ask("DELETE", path, 200, 202, 204)
        again = self.ask("GET", path)
        if again.status_code not in (404, 410):
            raise MisbehavedError(f"after {shown(response)}: {shown(again)}, not 404")
        return f"{shown(response)}, then {shown(again)}"

    def status_on_delete(self) -> str:
        path = self.path(3)
        connection = Connection(self.address)
        try:
            connection.connect()
            connection.request("DELETE", path)
            answer = connection.getresponse()
            body, said = answer.read(), f"DELETE {path} → {answer.status}"
            if answer.status != 204 or body:
                raise MisbehavedError(f"{said} {body[:80].decode(errors='replace')}, not 204")
            try:
                connection.request("GET", "/openapi.json")
                connection.getresponse().read()
            except (OSError, HTTPException) as error:
                raise MisbehavedError(f"{said}, then the server broke the connection off: {error}") from error
        finally:
            connection.close()
        return said

    def misses(self) -> str:
        known = self.path(0) and item_id(self.created[0])
        gone: Json = 99_999_999
        if isinstance(known, str):
            gone = re.sub(r"[0-9a-f]", "0", known) if known.count("-") == 4 else f"{known}0"
        seen = []
        for method in self.methods("get", "put", "patch", "delete"):
            parts = request_parts(self.resource, method, self.resource.one, 5)
            seen.append(shown(self.ask(method.upper(), self.resource.of(gone), 404, **parts)))
        return "; ".join(seen)

    def refuses(self) -> str:
        bodies: tuple[Json, ...] = ({}, {"id": "x", "nonsense": []}, [1, 2])
        responses = [self.ask("POST", self.resource.collection, 400, 422, json=body) for body in bodies]
        return "; ".join(shown(response)[:80] for response in responses)

    def pages(self) -> str:
        operation = self.resource.document["paths"][self.resource.collection].get("get", {})
        names = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
        size = next((name for name in PAGE_SIZES if name in names), None)
        if size is None:
            said = ", ".join(names) or "no parameters"
            raise MisbehavedError(f"the list takes none of {', '.join(PAGE_SIZES)}: {said}")
        for number in (50, 51):
            self.create(number, 200, 201)
        found = items_of(self.ask("GET", self.resource.collection, 200, params={size: 2}).json())
        if len(found) != 2:
            raise MisbehavedError(f"{size}=2 gave {len(found)} items")
        return f"{size}=2 gave 2 items"


FIRST_VISIT: Mapping[str, Callable[[Visit], str]] = {
    "Creates": Visit.creates,
    "201 on create": Visit.status_on_create,
    "Reads back": Visit.reads_back,
    "Lists": Visit.lists,
    "Updates": Visit.updates,
    "Deletes": Visit.deletes,
    "204 on delete, without a body": Visit.status_on_delete,
    "404 where nothing is": Visit.misses,
    "422 on nonsense": Visit.refuses,
    "Pagination": Visit.pages,
}


def use(http: httpx.Client, address: str) -> tuple[dict[str, Check], Json]:
    """Every check of a first visit, and the id of an item that was left there (None where none was created).

    Raises:
        MisbehavedError: there is nothing that could be used.
    """
    visit = Visit(http, address, find_resource(http))
    checks = {name: check(name, partial(look, visit)) for name, look in FIRST_VISIT.items()}
    return checks, item_id(visit.created[0]) if visit.created else None


def still_there(http: httpx.Client, address: str, kept: Json) -> str:
    """Evidence that an item of the first visit is there after a restart.

    Raises:
        MisbehavedError: it is not.
    """
    visit = Visit(http, address, find_resource(http))
    return shown(visit.ask("GET", visit.resource.of(kept), 200))


def check(name: str, look: Callable[[], str]) -> Check:
    """Look for one thing; whatever is raised is why it is not there."""
    try:
        passed, evidence = True, look()
    except FAULTS as error:
        passed, evidence = False, str(error) or type(error).__name__
    return Check(name, passed, evidence[:500], WEIGHTS[name])


def complete(checks: Mapping[str, Check], why: str) -> Sequence[Check]:
    """All checks in order; those that could not be made failed for ``why``."""
    return [checks.get(name) or Check(name, False, why, weight) for name, weight in WEIGHTS.items()]
