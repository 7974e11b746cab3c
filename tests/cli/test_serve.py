"""``puma serve`` as a process: the start, what is refused before it, signals, and what uvicorn itself answers."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from puma.cli import app as cli
from puma.index import Index
from puma.items import Item
from puma.serve import binding
from puma.serve.headers import HEADERS
from support.encoders import ToyEncoder
from support.serving import PATIENCE_S, puma_serve, wait_for

SECRET = "correct-horse-battery-staple"


@pytest.fixture
def an_index(tmp_path):
    """An index of two texts that the toy encoder made."""
    texts = ["red fox", "blue whale"]
    index = Index(tmp_path / "my.index", dim=32, fingerprint="toy-1")
    index.add(texts, ToyEncoder().encode([Item(text) for text in texts]), ["text"] * 2)
    return tmp_path / "my.index"


def ask(url, body=None, **headers):
    """(status, body, headers) of one request; errors are answers too."""
    data = None if body is None else json.dumps(body).encode()
    given = {**({"content-type": "application/json"} if body is not None else {}), **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given), timeout=PATIENCE_S) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def embedding(url, text, **headers):
    return ask(f"{url}/v1/embeddings", {"input": text, "model": "puma-mini", "encoding_format": "float"}, **headers)


def in_background(results, *arguments, **keywords):
    thread = threading.Thread(target=lambda: results.append(embedding(*arguments, **keywords)))
    thread.start()
    return thread


def raw(port, data):
    """What comes back for these bytes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as link:
        link.sendall(data)
        parts = [b""]
        with contextlib.suppress(ConnectionResetError):  # it hung up with some of ours unread
            while parts.append(link.recv(65536)) or parts[-1]:
                pass
        return b"".join(parts)


def test_start_answer_and_end(an_index, tmp_path):
    with puma_serve(tmp_path, an_index) as server:
        assert server.line == f"PUMA serves my (2 items) with puma-mini on http://127.0.0.1:{server.port}"
        log = (tmp_path / "log").read_text().splitlines()
        assert log == ["warm", "None"]  # a text and an image went through the encoder before it said so
        status, body, headers = ask(f"{server.url}/healthz")
        assert (status, json.loads(body)) == (200, {"status": "ok", "model": "puma-mini", "indexes": ["my"]})
        assert headers["content-security-policy"]
        status, body, _ = embedding(server.url, "red fox")
        assert status == 200
        vector = json.loads(body)["data"][0]["embedding"]
        assert np.allclose(vector, ToyEncoder().encode([Item("red fox")])[0], atol=1e-6)

        with puma_serve(tmp_path, an_index, "--port", server.port) as second:
            code, err = second.result()
            assert code == 1
            assert f"127.0.0.1 port {server.port}: Address already in use; choose another with --port" in err
            assert second.line == ""
        assert len((tmp_path / "log").read_text().splitlines()) == 3  # no model was asked for a port that is taken

        answer = raw(server.port, b"NONSENSE\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert all(name + b": " + value in answer for name, value in HEADERS)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_http"
        long_head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 400_000
        said = raw(server.port, long_head)
        assert b"head is too long" in said or not said
        assert ask(f"{server.url}/healthz", **{"host": "evil.example"})[0] == 403
        chunk = b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n"
        head = b"POST /session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        endless = _until_refused(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n", chunk)
        assert b"413" in endless or endless == b""  # the kernel may throw the answer away with what was not read
        code, err = server.end()
        assert (code, err) == (0, "")


def _until_refused(port, head, chunk, most=200):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as link:
        try:
            link.sendall(head)
            for _ in range(most):
                link.sendall(chunk)
        except OSError:
            pass
        else:
            raise AssertionError("took 200 MB")
        try:
            return link.recv(65536)
        except OSError:
            return b""


def test_an_index_is_made_where_there_is_none(tmp_path):
    with puma_serve(tmp_path, tmp_path / "new.index") as server:
        assert server.line.startswith("PUMA serves new (0 items) with")
        assert server.end(signal.SIGINT)[0] == 0


@pytest.mark.parametrize(
    ("flags", "given_out"),
    [
        ([], True),
        (["--no-originals"], False),
        (["--allow-host", "search.example.org"], False),
        (["--cors-origin", "https://mine.example"], False),
        (["--allow-host", "search.example.org", "--originals"], True),
        (["--host", "0.0.0.0"], False),
    ],
)
def test_originals_are_given_out_where_only_this_machine_is_let_in(monkeypatch, tmp_path, an_index, flags, given_out):
    """With the settings that the command makes of its flags; the service itself is not started."""
    from puma.cli.commands import serve

    made = []
    monkeypatch.setattr(serve, "_run", lambda *arguments: made.append(arguments[-1]) or 0)
    monkeypatch.setenv("PUMA_TOKEN", SECRET)
    assert cli.main(["serve", str(an_index), *flags]) == 0
    assert made[0].originals is given_out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_finished(tmp_path, number):
    results: list = []
    with puma_serve(tmp_path) as server:
        assert server.line.startswith("PUMA serves embeddings with")
        first = in_background(results, server.url, "hold")
        wait_for(tmp_path / "held")
        queued = in_background(results, server.url, "queued")
        _until_waiting(server, 1)
        server.process.send_signal(number)
        _until_closed(server.port)
        (tmp_path / "go").touch()
        first.join()
        queued.join()
        assert server.result()[0] == 0
    assert [status for status, *_ in results] == [200, 200]


def _until_closed(port):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)


def test_a_second_interrupt_stops_at_once(tmp_path):
    def give_up():
        with pytest.raises(OSError):
            embedding(server.url, "hold")

    with puma_serve(tmp_path) as server:
        thread = threading.Thread(target=give_up)
        thread.start()
        wait_for(tmp_path / "held")
        server.process.send_signal(signal.SIGINT)
        _until_closed(server.port)
        code, err = server.end(signal.SIGINT)
        thread.join()
    assert code == 130
    assert "Ctrl-C again stops at once" in err
    assert "requests in flight were dropped" in err


def test_health_who_hangs_up_and_what_is_counted_while_the_encoder_is_busy(tmp_path):
    with puma_serve(tmp_path, "--access-log") as server:
        results: list = []
        first = in_background(results, server.url, ["hold", "two"])
        wait_for(tmp_path / "held")
        assert ask(f"{server.url}/healthz")[0] == 200
        body = json.dumps({"input": "hung up", "model": "puma-mini"}).encode()
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        link = socket.create_connection(("127.0.0.1", server.port))
        link.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        _until_waiting(server, 1)
        link.close()
        _until_waiting(server, 0)
        (tmp_path / "go").touch()
        first.join()
        assert results[0][0] == 200
        for path in ("nowhere", "nowhere/else?secret", "v1/embeddings"):
            ask(f"{server.url}/{path}")
        status, body, headers = ask(f"{server.url}/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        code, err = server.end()
    assert code == 0
    assert "hung up" not in (tmp_path / "log").read_text()
    assert "POST /v1/embeddings 499" in err
    assert "GET /nowhere/else 404" in err
    assert "secret" not in err
    lines = set(body.decode().splitlines())
    assert 'puma_http_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0' in lines
    assert 'puma_http_requests_total{method="POST",route="/v1/embeddings",status="499"} 1.0' in lines
    assert 'puma_http_requests_total{method="GET",route="/v1/embeddings",status="405"} 1.0' in lines
    assert 'puma_http_requests_total{method="GET",route="other",status="404"} 2.0' in lines
    assert 'puma_http_requests_total{method="GET",route="/healthz",status="200"} 1.0' in lines
    assert 'puma_items_embedded_total{modality="text"} 3.0' in lines
    assert 'puma_items_embedded_total{modality="image"} 1.0' in lines
    assert 'puma_batch_items_sum{model="toy-1"} 4.0' in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)
    assert not any("nowhere" in line for line in lines)


def _until_waiting(server, count):
    while f'puma_queue_items{{model="toy-1"}} {count}.0' not in ask(f"{server.url}/metrics")[1].decode():
        time.sleep(0.01)


def test_the_token_from_the_environment_and_from_a_file(tmp_path):
    with puma_serve(tmp_path, "--host", "0.0.0.0", PUMA_TOKEN=f" {SECRET}\n") as server:
        url = f"http://127.0.0.1:{server.port}"
        assert embedding(url, "x")[0] == 401
        assert embedding(url, "x", authorization=f"Bearer {SECRET}x")[0] == 401
        assert embedding(url, "x", authorization=f"Bearer {SECRET}", host="name.example")[0] == 200
        assert server.end() == (0, "")
    (tmp_path / "token").write_text("short\n")
    with puma_serve(tmp_path, "--token-file", tmp_path / "token", PUMA_TOKEN=SECRET) as server:
        assert embedding(server.url, "x", authorization="Bearer short")[0] == 200
        assert embedding(server.url, "x", authorization=f"Bearer {SECRET}")[0] == 401
        code, err = server.end()
        assert code == 0
        assert "can be guessed" in err
        assert "short" not in err.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could use this service"),
        (["--host", "::"], "PUMA_TOKEN or --token-file"),
        (["--host", "192.0.2.7"], "--insecure"),
        (["--host", "127.evil.example"], "others could use"),
        (["--host", "no such host", "--insecure"], "no such host"),
        (["--port", "70000"], "--port"),
        (["--port", "http"], "--port"),
        (["--max-batch", "0"], "--max-batch"),
        (["--timeout", "0"], "--timeout"),
        (["--max-queue", "-1"], "--max-queue"),
        (["--token-file", "gone"], "--token-file gone: cannot be read"),
        (["--token-file", "empty"], "must hold one token"),
        (["--token-file", "two"], "must hold one token"),
        (["--cors-origin", "example.org"], "--cors-origin 'example.org': must look like https://name"),
        (["--cors-origin", "https://example.org/path"], "must look like"),
        (["--cors-origin", "*"], "every web page could use"),
        (["--allow-host", "http://x"], "--allow-host"),
        (["gone.index", "other.index"], "gone.index: no index there"),
        (["gone.index", "--read-only"], "gone.index: no index there"),
        (["my.index", "below/my.index"], "would both be served as 'my'"),
        (["empty"], "no folder|not a folder|is a file|exists"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(arguments, message, tmp_path, monkeypatch, capsys):
    def never(model, **_):
        raise AssertionError("the model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUMA_TOKEN", raising=False)
    monkeypatch.setattr("puma.cli.commands.serve.load_retriever", never)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("two words\n")
    for folder in ("my.index", "below/my.index"):
        Index(folder, dim=4, fingerprint="x")
    code = cli.main(["serve", *arguments])
    err = capsys.readouterr().err
    assert code == 2, err
    assert any(part in err for part in message.split("|")), err


def test_an_index_of_another_model_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("puma.cli.commands.serve.load_retriever", lambda model, **_: ToyEncoder())
    Index(tmp_path / "my.index", dim=4, fingerprint="x")
    assert cli.main(["serve", str(tmp_path / "my.index"), "--port", "0"]) == 2
    assert "my.index" in capsys.readouterr().err


def test_a_model_that_fails_ends_the_start(tmp_path, monkeypatch, capsys):
    class Broken(ToyEncoder):
        def encode(self, items, *, instruction=None):
            raise RuntimeError("no kernel")

    monkeypatch.setattr("puma.cli.commands.serve.load_retriever", lambda model, **_: Broken())
    assert cli.main(["serve", "--port", "0"]) == 1
    output = capsys.readouterr()
    assert output.err == "error: the model failed (RuntimeError: no kernel)\n"
    assert not output.out


def test_addresses():
    with binding.bound_socket("127.0.0.1", 0) as bound:
        assert binding.address_of(bound, "localhost").startswith("http://localhost:")
        assert binding.address_of(bound, "::1").startswith("http://[::1]:")
    with pytest.raises(binding.PortTakenError, match=r"192\.0\.2\.7 port 0"):
        binding.bound_socket("192.0.2.7", 0)


def test_the_service_needs_no_torch():
    code = "import sys, puma.serve.app, puma.serve.server, puma.cli.commands.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_event_loop_ends_with_all_its_threads(tmp_path):
    """Under a server the app's own end closes the service."""
    from puma.serve import create_app

    app = create_app(encoder=ToyEncoder())

    before = set(threading.enumerate())

    async def life():
        async with app.router.lifespan_context(app):
            assert {thread.name for thread in set(threading.enumerate()) - before} >= {"puma-encoder"}

    asyncio.run(life())
    assert set(threading.enumerate()) == before
