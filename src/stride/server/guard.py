"""Who may ask: whoever has an API key; where none are needed, whoever is no page of the web."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from stride.errors import StrideError
from stride.server.errors import response
from stride.server.origins import Welcome

OPEN_PATHS = ("/", "/health", "/v1/health")
OPEN_FOLDER = "/page/"
"""The web page's files: it asks for the key itself."""
KEY = "stride.key"
"""Key of a request's scope: which API key it came with, as `Keys.find` names it."""
HEADERS = {400: {"Connection": "close"}, 401: {"WWW-Authenticate": "Bearer"}}


class Keys:
    """API keys, given and in a file, which may be read again. Where there is neither, none is asked for.

    Raises:
        StrideError: the file cannot be read, or has no key.
    """

    def __init__(self, given: Sequence[str] = (), file: Path | None = None) -> None:
        self._given = tuple(given)
        self._file = file
        self._keys: tuple[bytes, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Read the file again; the keys stay as they are where that fails.

        Raises:
            StrideError: it cannot be read, or has no key: that must not open the server to everybody.
        """
        keys = [*self._given, *(_keys_of(self._file) if self._file else ())]
        self._keys = tuple(key.encode() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, given: bytes) -> str | None:
        """A name for the key that tells nothing of it; None for one that is wrong. "" where none is needed."""
        if not self._keys:
            return ""
        right = sum(hmac.compare_digest(given, key) for key in self._keys) > 0  # each is compared, always
        return hashlib.sha256(given).hexdigest()[:16] if right else None


def _keys_of(file: Path) -> list[str]:
    """One key on each line; lines that start with # are comments."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise StrideError(f"{file} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise StrideError(f"{file} has no key")
    return keys


class Guard:
    """ASGI middleware that answers 400, 401 or 403 itself, and passes everything else on.

    Args:
        keys: any of them opens every route; none are needed where there are none.
        welcome: the hosts and origins that are answered where no key is needed. With a key, no page is more than
            whoever gave it that key, and a proxy may have any name.
    """

    def __init__(self, app: ASGIApp, keys: Keys, welcome: Welcome) -> None:
        self.app = app
        self._keys = keys
        self._welcome = welcome

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            key = self._keys.find(_given_key(headers))
            refusal = self._refusal(scope["path"], headers, key is not None)
            if refusal is not None:
                path = scope["path"]
                return await response(refusal, HEADERS.get(refusal.status_code), path)(scope, receive, send)
            scope[KEY] = key or ""
        return await self.app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers, has_key: bool) -> HTTPException | None:
        if "transfer-encoding" in headers and "content-length" in headers:
            return HTTPException(400, "a request has a length or is chunked: two lengths are how requests are smuggled")
        if not self._keys:
            host, origin = headers.get("host", ""), headers.get("origin")
            if not self._welcome.host(host):
                return HTTPException(403, f"this server does not answer for host {host!r}: --allowed-host names one")
            if origin is not None and not self._welcome.origin(origin, host):
                return HTTPException(
                    403, f"this server does not answer pages of {origin!r}: --allowed-origin names one"
                )
        if not has_key and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
            return HTTPException(401, "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'")
        return None


def _given_key(headers: Headers) -> bytes:
    """The key's own bytes: headers are bytes that were read as Latin-1."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    given = key if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return given.encode("latin-1").strip()  # as bytes: in Latin-1, parts of UTF-8 characters are white space
