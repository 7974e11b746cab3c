"""The page's files as they are served: no outside address, nothing inline, no way to other files. Needs no browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

import pytest
from starlette.testclient import TestClient

from puma.serve import ServeSettings, create_app
from support.encoders import ToyEncoder

FILES = sorted(entry.name for entry in (resources.files("puma.serve") / "page").iterdir() if "." in entry.name)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = ServeSettings(max_image_bytes=12_345, max_image_pixels=6_789, max_k=77, token="secret")
    with TestClient(create_app(encoder=ToyEncoder(), settings=settings), base_url="http://localhost") as found:
        yield found


def _text(name: str) -> str:
    return (resources.files("puma.serve") / "page" / name).read_text(encoding="utf-8")


def test_the_page_is_open_strict_and_told_the_limits(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for attribute in ('data-max-image-bytes="12345"', 'data-max-image-pixels="6789"', 'data-max-hits="77"'):
        assert attribute in answer.text
    assert "__" not in answer.text


def test_a_image_in_base64_must_fit_the_body() -> None:
    app = create_app(encoder=ToyEncoder(), settings=ServeSettings(max_body_bytes=2**20))
    with TestClient(app, base_url="http://localhost") as client:
        found = re.search(r'data-max-image-bytes="(\d+)"', client.get("/").text)
    assert found
    assert 2**19 < int(found[1]) * 4 / 3 < 2**20


@pytest.mark.parametrize("name", [name for name in FILES if name != "index.html"])
def test_every_file_is_served_and_used(client: TestClient, name: str) -> None:
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200
    assert answer.text == _text(name)
    kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
    assert answer.headers["content-type"].startswith(kind)
    assert client.head(f"/page/{name}").status_code == 200
    again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/page/{name}", headers={"If-None-Match": '"other"'}).status_code == 200
    assert any(name in _text(other) for other in FILES if other != name)


@pytest.mark.parametrize("name", ["index.html", "%2e%2e%2fapp.py", "..%5capp.py", "none.js", "app.py", "a/b.js", ""])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_no_outside_address_and_nothing_inline(name: str) -> None:
    text = _text(name).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:https?:|wss?:|[\"'(=]\s*)//\w", text)
    assert not re.search(r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function)\b", text)
    if name.endswith((".html", ".svg")):
        assert not re.search(r"\son\w+=|<style|\sstyle=|<script(?![^>]*\ssrc=)", text)
    assert "@import" not in text
    assert "url(" not in text
