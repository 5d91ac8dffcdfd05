"""Which hosts and pages a server answers that asks for no key.

A web page can reach such a server through its visitor's browser, under the page's own host name when that name is made
to point here (DNS rebinding). Names that nobody can make point here are answered: addresses, names of this machine and
its network, and those that the server was told. Programs send no Origin.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from stride.errors import RequestError

LOCAL_ENDINGS = (".localhost", ".local", ".internal")
"""Names that no DNS of the world tells: of this machine, its network (mDNS), containers (host.docker.internal)."""
APPLICATIONS = ("app", "file", "tauri", "vscode-file", "vscode-webview")
"""Schemes of origins that are programs of this machine, not pages of the web; Ollama's too."""


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach a server that is bound to ``host``."""
    return host.lower() == "localhost" or _is_address(host, loopback=True)


class Welcome:
    """The hosts and origins that are answered.

    Args:
        hosts: more names that requests may be meant for.
        origins: more pages that may ask, as ``https://name:port``.

    Raises:
        RequestError: one of them is none.
    """

    def __init__(self, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> None:
        self._hosts = {"localhost", socket.gethostname().lower(), *map(_host, hosts)}
        self._origins = frozenset(map(_origin, origins))

    def host(self, header: str) -> bool:
        """Whether a request with this Host is answered."""
        name = _split(f"http://{header}").hostname or ""
        return name in self._hosts or name.endswith(LOCAL_ENDINGS) or _is_address(name)

    def origin(self, header: str, host: str = "") -> bool:
        """Whether a page of this Origin is answered; of a request for ``host``, that host's own is."""
        split = _split(header)
        name = split.hostname or ""
        return (
            header.lower() in self._origins
            or split.scheme in APPLICATIONS
            or (split.scheme in ("http", "https") and (is_loopback(name) or name.endswith(".localhost")))
            or (host != "" and split.netloc.lower() == host.lower())
        )


class WelcomeCors(CORSMiddleware):
    """Tells browsers which pages may read the answers."""

    def __init__(self, app: ASGIApp, welcome: Welcome, exposed: Sequence[str]) -> None:
        super().__init__(app, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=exposed)
        self._welcome = welcome

    def is_allowed_origin(self, origin: str) -> bool:
        return self._welcome.origin(origin)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_address(name: str, loopback: bool = False) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback


def _host(name: str) -> str:
    if not _is_address(name) and (not name or _split(f"http://{name}").hostname != name.lower()):
        raise RequestError(f"{name!r} must be a host's name, without scheme and port", field="--allowed-host")
    return name.lower()


def _origin(text: str) -> str:
    split = _split(text)
    if not split.netloc or f"{split.scheme}://{split.netloc}" != text.lower():
        raise RequestError(f"{text!r} must be an origin such as https://chat.example", field="--allowed-origin")
    return text.lower()
