"""The page's files as a browser gets them; `tests/server/page` uses them in one."""

from __future__ import annotations

import re

import pytest

from stride.server.page import POLICY


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/vendor/marked.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_type_and_a_policy(scripted, path, kind):
    client, _ = scripted()
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert client.head(path).headers["content-length"] == str(len(response.content))


def test_policy_lets_no_text_become_markup():
    assert POLICY["require-trusted-types-for"] == "'script'"
    assert POLICY["trusted-types"] == "'none'"


def test_a_file_that_a_browser_has_is_not_sent_again(scripted):
    client, _ = scripted()
    tag = client.get("/page/main.js").headers["etag"]
    again = client.get("/page/main.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"
    assert client.get("/page/main.js", headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/page/none.js", "/page/", "/page/../page.py", "/page/%2e%2e/page.py", "/page/..%2fapp.py", "/page//etc/passwd"],
)
def test_nothing_but_the_pages_files_is_there(scripted, path):
    client, _ = scripted()
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"


def test_files_are_read_only(scripted):
    client, _ = scripted()
    assert client.post("/page/main.js").status_code == 405


def test_page_needs_no_key_and_what_it_asks_does(scripted):
    client, _ = scripted(api_keys=("secret",))
    assert client.get("/").status_code == 200
    assert client.get("/page/main.js").status_code == 200
    for path in ("/props", "/v1/models", "/page", "/pages/x", "//v1/models"):
        assert client.get(path).status_code == 401, path
    assert client.get("/page/../v1/models").status_code in (401, 404)


def test_pages_own_name_is_checked(scripted):
    client, _ = scripted()
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_page_names_files_of_its_own_only(scripted):
    client, _ = scripted()
    text = client.get("/").text
    addresses = re.findall(r'(?:src|href)="([^"#][^"]*)"', text)
    assert addresses
    for address in addresses:
        assert address.startswith("page/")
        assert client.get(f"/{address}").status_code == 200
    assert not re.search(r"<script(?! src| type=\"module\" src)", text)
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)
