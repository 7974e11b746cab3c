"""Who may come in: token, cookie, Host, Origin, sizes; and the headers on every answer, errors too."""

import asyncio
import functools
import hmac
import time

import pytest
from starlette.testclient import TestClient

from puma.errors import ConfigError, IndexMismatchError, InputError, StorageError
from puma.serve import ServeSettings, create_app
from puma.serve import auth as tokens
from puma.serve.auth import LIFE_S, Token
from puma.serve.headers import HEADERS, PAGE_POLICY
from puma.serve.settings import ANY_ADDRESS, ANY_HOST
from support.encoders import ToyEncoder

SECRET = "correct-horse-battery-staple"
JSON = {"content-type": "application/json"}


def opened(base_url="http://localhost", **options):
    return TestClient(app_of(**options), base_url=base_url)


@functools.cache
def app_of(**options):
    app = create_app(encoder=ToyEncoder(), settings=ServeSettings(**options))

    async def boom(error: str):
        raise {
            "defect": RuntimeError("at /root/secret/place.py"),
            "storage": StorageError("/root/secret/my.index: the disk is full"),
            "mismatch": IndexMismatchError("/root/secret/my.index: another model"),
            "memory": MemoryError(),
            "slow": TimeoutError(),
            "input": InputError("k: 7 in /root/secret/my.index is no k; see /v1/models and http://x/root/y"),
        }[error]

    app.router.add_api_route("/boom", boom)
    return app


ANSWERS = [
    ("GET", "/healthz", {}, 200),
    ("GET", "/nowhere", {}, 404),
    ("PUT", "/healthz", {}, 405),
    ("POST", "/session", {"json": {}}, 422),
    ("POST", "/session", {"content": b"{}"}, 415),
    ("POST", "/session", {"content": b"{", "headers": {"content-type": "application/json"}}, 400),
    ("POST", "/session", {"json": {"token": "x" * 5000}}, 413),
    ("GET", "/boom?error=defect", {}, 500),
    ("GET", "/boom?error=mismatch", {}, 500),
    ("GET", "/boom?error=storage", {}, 503),
    ("GET", "/boom?error=memory", {}, 503),
    ("GET", "/boom?error=slow", {}, 503),
    ("GET", "/boom?error=input", {}, 400),
    ("GET", "/healthz", {"headers": {"host": "evil.example"}}, 403),
    ("GET", "/healthz", {"headers": {"origin": "http://evil.example"}}, 403),
]


@pytest.mark.parametrize(("method", "path", "extra", "status"), ANSWERS)
def test_every_answer_has_the_headers_and_every_error_the_shape(method, path, extra, status, caplog):
    answer = opened(max_body_bytes=4096).request(method, path, **extra)
    assert answer.status_code == status
    for name, value in HEADERS:
        assert answer.headers[name.decode()] == value.decode()
    assert "server" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers
    if status >= 400:
        body = answer.json()
        assert body["message"] == body["error"]["message"]
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert "/root/" not in body["message"].replace("http://x/root/y", "")
        assert "secret" not in body["message"]
        assert "Traceback" not in answer.text
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    logged = {"defect", "storage", "mismatch", "memory"} & {path.rpartition("=")[2]}
    assert bool(caplog.records) == bool(logged)


def test_messages_keep_what_is_no_path():
    message = opened().get("/boom?error=input").json()["message"]
    assert message == "k: 7 in my.index is no k; see /v1/models and http://x/root/y"


def test_the_policy_allows_no_inline_script_and_no_outside_address():
    assert "unsafe" not in PAGE_POLICY
    assert "http" not in PAGE_POLICY
    assert PAGE_POLICY.startswith("default-src 'none'")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {SECRET}x"},
        {"authorization": f"Basic {SECRET}"},
        {"authorization": SECRET},
        {"authorization": "Bearer"},
        {"cookie": f"{Token(SECRET).cookie_name}={SECRET}"},
        {"cookie": f"{Token(SECRET).cookie_name}="},
        {"cookie": f"{Token(SECRET).cookie_name}={Token('other').cookie()}"},
        {"cookie": f"{Token(SECRET).cookie_name}={Token(SECRET).cookie(now=time.time() - LIFE_S - 1)}"},
        {"cookie": f"{Token(SECRET).cookie_name}=9{Token(SECRET).cookie()}"},
        {"cookie": f"other={Token(SECRET).cookie()}"},
    ],
)
def test_without_the_token_nothing_but_the_page_and_health(headers):
    client = opened(token=SECRET)
    for path in ("/metrics", "/openapi.json", "/nowhere", "/boom?error=defect", "/page", "/healthz/"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "v1/models" not in answer.text
    assert client.get("/healthz", headers=headers).status_code == 200
    assert client.get("/page/nothing.js", headers=headers).status_code != 401


def test_the_token_opens():
    client = opened(token=SECRET)
    assert client.get("/metrics", headers={"authorization": f"Bearer {SECRET}"}).status_code == 200
    assert client.get("/metrics", headers={"authorization": f"bearer  {SECRET} "}).status_code == 200


def test_a_browser_gets_a_cookie_that_is_not_the_token():
    client = opened(token=SECRET)
    assert client.post("/session", json={"token": "wrong"}).status_code == 401
    assert client.post("/session", content='{"token": "\\ud800"}', headers=JSON).status_code in (401, 422)
    assert not client.cookies
    answer = client.post("/session", json={"token": SECRET})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert SECRET not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    assert client.get("/metrics").status_code == 200
    assert client.delete("/session").status_code == 204
    assert client.get("/metrics").status_code == 401
    behind_tls = opened("https://localhost", token=SECRET).post("/session", json={"token": SECRET})
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_without_a_token_on_the_service_no_cookie_is_set():
    answer = opened().post("/session", json={"token": "anything"})
    assert answer.status_code == 204
    assert "set-cookie" not in answer.headers


def test_tokens_and_signatures_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(tokens, "hmac", type("H", (), {"compare_digest": staticmethod(compare), "new": hmac.new}))
    token = Token(SECRET)
    assert not token.is_right("c")
    assert token.is_right(SECRET)
    assert token.is_cookie(token.cookie())
    assert not token.is_cookie("1.x")
    assert len(compared) == 4
    assert {len(a) for a, _ in compared[:2]} == {32}  # digests: the token's length shows neither


@pytest.mark.parametrize(
    ("hosts", "host", "welcome"),
    [
        (None, "localhost", True),
        (None, "LOCALHOST:8000", True),
        (None, "localhost.", True),
        (None, "127.0.0.1:8000", True),
        (None, "[::1]:8000", True),
        (None, "evil.example", False),
        (None, "localhost.evil.example", False),
        (None, "127.0.0.1.evil.example:8000", False),
        (None, "10.0.0.5", False),
        (None, "", False),
        (("mine.example",), "mine.example:80", True),
        (("mine.example",), "localhost", False),
        ((ANY_ADDRESS,), "10.0.0.5:8000", True),
        ((ANY_ADDRESS,), "[fe80::1]:8000", True),
        ((ANY_ADDRESS,), "10.0.0.5.evil.example", False),
        ((ANY_HOST,), "anything.example", True),
    ],
)
def test_only_known_host_names(hosts, host, welcome):
    client = opened(**({} if hosts is None else {"hosts": hosts}))
    assert client.get("/healthz", headers={"host": host}).status_code == (200 if welcome else 403)


@pytest.mark.parametrize(
    ("headers", "welcome"),
    [
        ({}, True),
        ({"origin": "http://localhost"}, True),
        ({"origin": "https://localhost"}, True),  # behind something that speaks TLS
        ({"origin": "http://localhost:3000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "file://localhost"}, False),
        ({"origin": "http://localhost.evil.example"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, True),
        ({"origin": "http://evil.example", "sec-fetch-site": "same-origin"}, False),
    ],
)
def test_pages_of_other_sites_may_not_call(headers, welcome):
    client = opened()
    assert client.get("/healthz", headers=headers).status_code == (200 if welcome else 403)
    if "navigate" in headers.values() or not welcome:
        assert client.post("/session", headers=headers, json={"token": "x"}).status_code == 403


def test_cors_is_closed_but_for_the_origins_named():
    client = opened(token=SECRET, cors_origins=("https://mine.example",))
    ask = {"origin": "https://mine.example", "access-control-request-method": "POST"}
    answer = client.options("/v1/embeddings", headers=ask)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    answer = client.get("/metrics", headers={"origin": "https://mine.example"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"
    other = client.options("/v1/embeddings", headers={**ask, "origin": "https://evil.example"})
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers
    anyone = opened(cors_origins=("*",)).get("/healthz", headers={"origin": "https://evil.example"})
    assert anyone.headers["access-control-allow-origin"] == "*"


def test_a_preflight_request_may_ask_for_any_header():
    client = opened(cors_origins=("https://mine.example",))
    ask = {"origin": "https://mine.example", "access-control-request-method": "POST"}
    names = "authorization,content-type,x-stainless-arch,x-stainless-retry-count,x-client-name"
    answer = client.options("/v1/embeddings", headers=ask | {"access-control-request-headers": names})
    assert (answer.status_code, answer.headers["access-control-allow-headers"]) == (204, names)
    assert "access-control-allow-private-network" not in answer.headers
    for odd in ("a b", "a, , b", "a: b", "x" * 5000, "a\x00"):
        odd_answer = client.options("/v1/embeddings", headers=ask | {"access-control-request-headers": odd})
        assert odd_answer.headers["access-control-allow-headers"] == "authorization, content-type", odd
    near = client.options("/x", headers=ask | {"access-control-request-private-network": "true"})
    assert near.headers["access-control-allow-private-network"] == "true"
    exposed = client.get("/healthz", headers={"origin": "https://mine.example"}).headers
    assert "X-Puma-Truncated" in exposed["access-control-expose-headers"]


IMAGE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}


@pytest.mark.parametrize(
    ("origins", "headers", "welcome"),
    [
        (("https://mine.example",), {"referer": "https://mine.example/"}, True),
        (("https://mine.example",), {"referer": "https://MINE.example/a/page?b"}, True),
        (("https://mine.example",), {"referer": "https://mine.example"}, True),
        (("https://mine.example",), {"referer": "https://mine.example.evil/"}, False),
        (("https://mine.example",), {"referer": "https://evil.example/https://mine.example/"}, False),
        (("https://mine.example",), {"referer": "http://mine.example/"}, False),
        (("https://mine.example",), {}, False),
        (("https://mine.example",), {"referer": "https://mine.example/", "sec-fetch-dest": "script"}, False),
        ((), {"referer": "https://mine.example/"}, False),
        (("*",), {"referer": "https://anyone.example/"}, True),
        (("*",), {}, True),
    ],
)
def test_an_image_of_ours_on_an_allowed_page(origins, headers, welcome):
    """A plain <img> sends no Origin, and is shown only where the answer says cross-origin."""
    client = opened(cors_origins=origins)
    answer = client.get("/healthz", headers=IMAGE | headers)
    assert answer.status_code == (200 if welcome else 403)
    if welcome:
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert "Referer" in answer.headers["vary"]
    else:
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert client.post("/session", headers=IMAGE | headers, json={"token": "x"}).status_code == 403


def test_with_a_token_an_embedded_image_needs_it_too():
    client = opened(token=SECRET, cors_origins=("https://mine.example",))
    assert client.get("/metrics", headers=IMAGE | {"referer": "https://mine.example/"}).status_code == 401


def test_head_is_answered_wherever_get_is():
    client = opened()
    for path in ("/healthz", "/", "/metrics", "/v1/models", "/openapi.json", "/docs", "/page/main.js", "/indexes"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
        if path != "/metrics":  # which counts itself
            assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))
    assert client.head("/nowhere").status_code == 404
    assert client.head("/search/upload").status_code == 405
    counted = client.get("/metrics").text
    assert 'puma_http_requests_total{method="HEAD",route="/healthz",status="200"} 1.0' in counted


def test_every_habit_of_asking_for_health_is_answered_without_a_token():
    client = opened(token=SECRET)
    for path in ("/healthz", "/health", "/livez", "/readyz", "/ping"):
        assert client.get(path).json()["status"] == "ok"
        assert client.head(path).status_code == 200


def call(app, chunks, headers=(), path=b"/session"):
    """One request by hand: (status, chunks that were read)."""
    read, status = [], []

    async def receive():
        if len(read) == len(chunks):
            return {"type": "http.disconnect"}
        read.append(chunks[len(read)])
        return {"type": "http.request", "body": read[-1], "more_body": len(read) < len(chunks)}

    async def send(message):
        if message["type"] == "http.response.start":
            status.append((message["status"], dict(message["headers"])))

    given = [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers]
    scope = {
        "type": "http", "method": "POST", "path": path.decode(), "raw_path": path, "query_string": b"",
        "headers": given, "scheme": "http", "http_version": "1.1", "root_path": "", "server": ("localhost", 80),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert len(status) == 1
    return status[0], len(read)


def test_a_body_is_counted_while_it_streams():
    app = create_app(encoder=ToyEncoder(), settings=ServeSettings(max_body_bytes=1000))
    (status, headers), read = call(app, [b" " * 400] * 50)
    assert status == 413
    assert headers[b"connection"] == b"close"
    assert read == 3
    for length in (b"20000", b"9" * 5000):
        (status, headers), read = call(app, [b" " * 400] * 50, [(b"content-length", length)])
        assert (status, read) == (413, 0)
        assert headers[b"connection"] == b"close"
    assert call(app, [b" " * 400, b" " * 300, b'{"token": "x"}'])[0][0] == 204


def test_all_bodies_together_are_bounded():
    app = create_app(encoder=ToyEncoder(), settings=ServeSettings(max_body_bytes=1000, max_held_bytes=1500))
    guard = app.middleware_stack = app.build_middleware_stack()
    while not hasattr(guard, "hold"):
        guard = guard.app
    assert guard.hold(900)
    (status, headers), read = call(app, [b" " * 400] * 2)
    assert (status, read) == (429, 2)
    assert headers[b"retry-after"] == b"1"
    (status, _), read = call(app, [b" " * 800], [(b"content-length", b"800")])
    assert (status, read) == (429, 0)
    guard.release(900)
    assert call(app, [b" " * 400, b'{"token": "x"}'])[0][0] == 204
    assert guard._held == 0


def test_a_body_that_does_not_come(monkeypatch):
    monkeypatch.setattr("puma.serve.middleware.BODY_WAIT_S", 0.01)
    app = create_app(encoder=ToyEncoder())
    status = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        status.append(message.get("status"))

    scope = {
        "type": "http", "method": "POST", "path": "/session", "raw_path": b"/session", "query_string": b"",
        "headers": [(b"host", b"localhost")], "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert status[0] == 408


def test_websockets_are_closed():
    said = []

    async def send(message):
        said.append(message)

    app = create_app(encoder=ToyEncoder())
    asyncio.run(app({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert said == [{"type": "websocket.close", "code": 1008}]


def test_settings_name_all_their_faults():
    with pytest.raises(ConfigError, match=r"max_wait_ms=-1.*max_batch=0|max_batch=0.*max_wait_ms=-1"):
        ServeSettings(max_batch=0, max_wait_ms=-1)
    with pytest.raises(ConfigError, match="token"):
        ServeSettings(token="")
    with pytest.raises(ConfigError, match="model_names"):
        ServeSettings(model_names=())
    assert SECRET not in repr(ServeSettings(token=SECRET))


def test_an_app_has_the_encoders_of_its_searchers(tmp_path):
    from puma.search import Searcher

    with pytest.raises(InputError, match="neither"):
        create_app()
    two = {"a": Searcher(ToyEncoder(), tmp_path / "a"), "b": Searcher(ToyEncoder(), tmp_path / "b")}
    with pytest.raises(InputError, match="none of the searchers has it"):
        create_app(two, encoder=ToyEncoder())
    assert len(create_app(two).state.service.models) == 2
    shared = two["a"].encoder
    own = create_app({name: Searcher(shared, tmp_path / name) for name in "ab"}, encoder=shared).state.service
    assert [model.encoder for model in own.models] == [shared]
