"""Who may ask: API keys, and for servers on loopback the Host and Origin that a browser sends.

A web page can reach a server on loopback through its visitor's browser, under the page's own host name when that name
is made to point here (DNS rebinding); such requests are refused. Programs send neither a foreign Host nor an Origin.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from stride.server.errors import response

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/health", "/v1/health")
HEADERS = {400: {"Connection": "close"}, 401: {"WWW-Authenticate": "Bearer"}}


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach a server that is bound to ``host``."""
    return host in LOOPBACK_NAMES or host.startswith("127.")


class Guard:
    """ASGI middleware that answers 400, 401 or 403 itself, and passes everything else on.

    Args:
        api_keys: any of them opens every route; none are needed where there are none.
        loopback: the server is bound to loopback, so that requests must be meant for it.
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str], loopback: bool) -> None:
        self.app = app
        self._keys = [key.encode() for key in api_keys]
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope["path"], Headers(scope=scope))
            if refusal is not None:
                return await response(refusal, HEADERS.get(refusal.status_code))(scope, receive, send)
        return await self.app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> HTTPException | None:
        if "transfer-encoding" in headers and "content-length" in headers:
            return HTTPException(400, "a request has a length or is chunked: two lengths are how requests are smuggled")
        if self._loopback and not _names_loopback(f"http://{headers.get('host', '')}"):
            return HTTPException(403, f"this server does not answer for host {headers.get('host', '')!r}")
        origin = headers.get("origin")
        if self._loopback and origin is not None and not _names_loopback(origin):
            return HTTPException(403, f"this server does not answer pages of {origin!r}")
        if self._keys and path not in OPEN_PATHS and not self._knows(_given_key(headers)):
            return HTTPException(401, "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'")
        return None

    def _knows(self, given: bytes) -> bool:
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0  # each is compared, always


def key_digest(headers: Headers) -> str:
    """Names the API key of a request, without telling it."""
    return hashlib.sha256(_given_key(headers)).hexdigest()


def _given_key(headers: Headers) -> bytes:
    """The key's own bytes: headers are bytes that were read as Latin-1."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    given = key if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return given.encode("latin-1").strip()  # as bytes: in Latin-1, parts of UTF-8 characters are white space


def _names_loopback(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK_NAMES
    except ValueError:
        return False
