"""Any JSON at all, and what is none, is answered by every route with 4xx, never with 5xx."""

import json

import pytest
from fastapi.testclient import TestClient

from puma.serve import create_app
from support.served import data_uri, png, toy_searcher

POSTS = {
    "/search": {"text": "red", "where": {"type": "eq", "key": "brand", "value": "b1"}, "minus": ["fox"]},
    "/items": {"items": [{"id": "new", "text": "red", "metadata": {"n": 1}}]},
    "/v1/embeddings": {"input": ["red"], "dimensions": 32, "messages": None, "instruction": "x", "model": "puma-mini"},
    "/v2/embed": {"texts": ["red"], "embedding_types": ["int8"], "input_type": "search_query", "output_dimension": 32},
    "/v1/rerank": {"query": "red", "documents": ["red", {"text": "fox"}], "top_n": 1, "instruction": "x"},
    "/v1/vector_stores/my/search": {
        "query": "red",
        "filters": {"type": "and", "filters": [{"type": "in", "key": "brand", "value": ["b1"]}]},
        "ranking_options": {"score_threshold": 0.1},
        "max_num_results": 3,
    },
}
CHAT = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_uri(png())}}]}]}
DEEP = "[" * 100_000 + "]" * 100_000
NASTY = [
    "null", "true", "0", "-0", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" + "0" * 400, "1" * 5000, "0.5",
    '""', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u202e"', '"' + "x" * 200_000 + '"', '"image"', '"red"',
    "[]", "{}", "[[]]", "[null]", "[{}]", '["\\ud800"]', '["\\u0000"]', "[1]", "[[1]]", '{"\\ud800": 1}',
    '{"\\u0000": "\\u0000"}', '{"type": "eq"}', '{"type": "and", "filters": []}', '{"text": null, "image": null}',
    '{"image": ""}', '{"image": "\\u0000"}', '{"image": "data:;base64,AAAA"}', '{"url": "file:///etc/passwd"}',
    "[" * 500 + "]" * 500, DEEP, '{"a":' * 300 + "1" + "}" * 300,
    '{"type":"and","filters":[' * 200 + '{"type":"eq","key":"a","value":1}' + "]}" * 200,
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    app = create_app(toy_searcher(tmp_path_factory.mktemp("index")))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def check(client, path, body, *statuses):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (statuses or (200, 400, 404, 422)), (path, body[:200], answer.text[:300])
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
        assert len(answer.content) < 4_000
    return answer


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def replaced(value, path, mark):
    if not path:
        return mark
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = mark
    return copy


@pytest.mark.parametrize("path", POSTS)
def test_every_nasty_value_in_every_place(client, path):
    assert check(client, path, json.dumps(POSTS[path])).status_code == 200
    chat = [CHAT] if path == "/v1/embeddings" else []
    for whole in [POSTS[path], *chat]:
        for place in places(whole):
            body = json.dumps(replaced(whole, place, "@@@"))
            for nasty in NASTY:
                check(client, path, body.replace('"@@@"', nasty))


@pytest.mark.parametrize("path", POSTS)
def test_what_is_no_json(client, path):
    for body in ("", "{", "\0", "{]", "nul", '{"a": 1,}', "\ufeff{}", "'a'"):
        check(client, path, body, 400, 422)
    for body in (b"\xff\xfe{}", b"\x80", b'{"text": "\xed\xa0\x80"}', b'{"text": "\xff"}'):
        assert client.post(path, content=body, headers={"Content-Type": "application/json"}).status_code in (400, 422)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense", ""):
        answer = client.post(path, content=json.dumps(POSTS[path]), headers={"Content-Type": kind})
        assert answer.status_code in (400, 415, 422)


def test_keys_that_are_not_known(client):
    for path in ("/search", "/items"):
        check(client, path, json.dumps(POSTS[path] | {"__proto__": 1}), 422)
    for path in ("/v1/embeddings", "/v2/embed", "/v1/rerank", "/v1/vector_stores/my/search"):
        check(client, path, json.dumps(POSTS[path] | {"__proto__": {"deep": [1]}, "stream": True}), 200)


@pytest.mark.parametrize(
    "value", ["", "\0", "\ud800".encode("utf-8", "surrogatepass"), "-1", "1e9", "9" * 30, "x" * 5000, "%", "'--"]
)
@pytest.mark.parametrize(
    "address",
    ["/search?text=", "/search?text=red&k=", "/search?text=red&offset=", "/search?text=red&modality=", "/search?item=",
     "/search?text=red&index=", "/search?text=red&minus=", "/items?limit=", "/items?after=", "/items?index=",
     "/item?id=", "/thumbnail?id=", "/v1/models/", "/v1/vector_stores/", "/v1/vector_stores?limit=",
     "/v1/vector_stores?after="],
)  # fmt: skip
def test_nasty_parameters(client, address, value):
    import urllib.parse

    answer = client.get(address + urllib.parse.quote(value, safe=""))
    assert answer.status_code in (200, 400, 404, 422), answer.text
    answer = client.request("DELETE", "/item?id=" + urllib.parse.quote(value, safe=""))
    assert answer.status_code in (404, 422)


def test_nasty_forms(client):
    for data in ({}, {"text": "\0"}, {"k": "nan"}, {"modality": "video"}, {"minus": ["x"] * 99}, {"image": "text"}):
        for files in ({}, {"image": b""}, {"image": b"\0" * 100}, {"image": ("\0/../a.png", png())}, {"other": png()}):
            assert client.post("/search/upload", data=data, files=files).status_code in (200, 400, 422)
    for body in (b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"):
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/search/upload", content=body, headers=kind).status_code in (400, 422)
