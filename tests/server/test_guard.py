"""Who may ask."""

from __future__ import annotations

import hmac
import re

import pytest
from fastapi.routing import iter_route_contexts

from stride.errors import StrideError
from stride.server.guard import Keys

WRONG: tuple[dict[str, str], ...] = (
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Basic secret"},
    {"X-Api-Key": "né"},
)
OPEN = {"/", "/health", "/v1/health", "/page/x"}


def test_every_route_wants_the_key(scripted):
    client, model = scripted(api_keys=("secret", "other"))
    routes = {
        (method, re.sub(r"{[^}]*}", "x", route.path))
        for route in iter_route_contexts(client.app.routes)
        for method in route.methods or ("GET",)
    }
    assert len(routes) > 50
    for method, path in {*routes, ("GET", "/nothing"), ("OPTIONS", "/v1/models"), ("BREW", "/props")}:
        for headers in WRONG:
            response = client.request(method, path, headers={k: v.encode() for k, v in headers.items()})
            assert (response.status_code != 401) is (path in OPEN), (method, path)
            assert path in OPEN or method == "HEAD" or response.json()["error"], (method, path)
        if method != "HEAD":
            assert client.request(method, path, headers={"X-Api-Key": "secret"}).status_code != 401, (method, path)
    assert model.asked == []


def test_health_wants_no_key(scripted):
    client, _ = scripted(api_keys=("secret",))
    assert client.get("/health").status_code == 200
    assert client.get("/v1/health").status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer other"}, {"authorization": "bearer secret"}, {"X-Api-Key": "other"}]
)
def test_any_key_opens(scripted, headers):
    client, _ = scripted(api_keys=("secret", "other"))
    assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["clé", "ключ", "voilà", "鍵🔑"])
def test_a_key_may_be_any_text(scripted, key):
    client, _ = scripted(api_keys=(key,))
    for headers in ({"Authorization": f"Bearer  {key} "}, {"X-Api-Key": key}):
        sent = {name: value.encode() for name, value in headers.items()}
        assert client.get("/v1/models", headers=sent).status_code == 200
        sent = {name: value.encode() + b"\xa0" for name, value in headers.items()}
        assert client.get("/v1/models", headers=sent).status_code == 401


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8090", "localhost.evil.example", "", "["])
def test_foreign_hosts_are_refused_without_a_key(scripted, address, host):
    client, _ = scripted(host=address)
    response = client.get("/health", headers={"Host": host})
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize("host", ["localhost", "localhost:8090", "127.0.0.1:1", "[::1]:8090", "LOCALHOST"])
def test_own_names_are_served(scripted, host):
    client, _ = scripted()
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_with_a_key_hosts_may_have_any_name(scripted, address):
    client, _ = scripted(host=address, api_keys=("secret",))
    response = client.get("/v1/models", headers={"Host": "my.server", "Authorization": "Bearer secret"})
    assert response.status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_foreign_pages_get_nothing(scripted, address):
    client, model = scripted(host=address)
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        response = client.post("/v1/chat/completions", content=b"{}", headers={"Origin": origin})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    assert model.asked == []


def test_pages_of_this_machine_are_served(scripted):
    client, _ = scripted(api_keys=("secret",))
    asking = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = client.options(
        "/v1/chat/completions", headers={**asking, "Access-Control-Request-Headers": "authorization"}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_pages_and_hosts_that_were_named_are_served(scripted):
    client, _ = scripted(allowed_hosts=("llm.example",), allowed_origins=("https://chat.example",))
    for headers in (
        {"Host": "llm.example:8090"},
        {"Host": "llm.example", "Origin": "https://llm.example"},
        {"Origin": "https://chat.example"},
        {"Origin": "vscode-webview://0a1b"},
    ):
        assert client.get("/v1/models", headers=headers).status_code == 200, headers
    answer = client.get("/v1/models", headers={"Origin": "https://chat.example"})
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"


def test_the_name_that_a_server_is_bound_to_is_its_own(scripted):
    client, _ = scripted(host="llm.example")
    assert client.get("/health", headers={"Host": "llm.example"}).status_code == 200


def test_keys_are_compared_in_time_that_tells_nothing(monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda given, key: compared.append(key) or given == key)
    keys = Keys(["first", "second"])
    for given in (b"first", b"second", b"f"):
        keys.find(given)
    assert compared == [b"first", b"second"] * 3, "each key is compared, whichever is right"


def test_keys_of_a_file_are_read_again(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# people\nfirst\n")
    keys = Keys(["given"], file)
    name = keys.find(b"first")
    assert name
    assert "first" not in name
    file.write_text("second\n")
    keys.reload()
    assert [bool(keys.find(key)) for key in (b"given", b"first", b"second")] == [True, False, True]


@pytest.mark.parametrize("content", ["", "# nobody\n", None])
def test_a_file_without_keys_opens_nothing(tmp_path, content):
    file = tmp_path / "keys"
    file.write_text("first\n")
    keys = Keys([], file)
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(StrideError, match="keys"):
        keys.reload()
    assert keys.find(b"") is None
    assert keys.find(b"first")
    with pytest.raises(StrideError):
        Keys([], file)
