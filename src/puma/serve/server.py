"""Running the application under uvicorn: readiness, signals, an orderly end, limits on a request's head."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from puma.serve.headers import HEADERS

MAX_HEAD_BYTES = 64 * 2**10
"""Of a request's line and headers."""
HEAD_WAIT_S = 30.0
"""How long a connection may take to send them."""
KEEP_ALIVE_S = 30
LONGEST_END_S = 300
"""How long what was accepted may take to finish when the service ends; a reader that never reads must not hold it."""
_INTERRUPTED = 130


def run(app: Any, bound: socket.socket, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted; a second Ctrl-C ends at once.

    Args:
        ready: called once, when requests are being answered.

    Returns:
        The exit code: 0, or 1 if the application could not start (it has said why).
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        loop="uvloop" if _has_uvloop() else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LONGEST_END_S,
    )
    server = _Server(config, ready)
    # numpy's matrix library waits busily in threads of its own after each search, on the cores that the encoder needs:
    # with 50 clients searching that cost a quarter of all answers. One thread is enough for an index of flat size.
    with threadpool_limits(1, user_api="blas"):
        server.run(sockets=[bound])
    return 0 if server.started else 1


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises what it caught once more at the end; we end with a plain 0 instead."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            os.write(2, b"stopped at once; requests in flight were dropped\n")
            os._exit(_INTERRUPTED)  # no waiting for threads: what was acknowledged is on the disk
        if sig == signal.SIGINT and not self.should_exit:
            os.write(2, b"\nfinishing what was accepted; Ctrl-C again stops at once\n")
        self.should_exit = True


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with a bound on size and time of a request's head, and our headers on its own refusals."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_WAIT_S, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_timer()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        counted = self._in_head
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data) if counted else min(len(data), 1)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.url) > MAX_HEAD_BYTES:
            self.send_400_response("the request's head is too long")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_WAIT_S, self._hang_up)

    def send_400_response(self, msg: str) -> None:
        body = b'{"error": {"message": "%s", "type": "invalid_request_error", "param": null, "code": "bad_http"}}'
        body %= msg.encode("ascii")
        lines = [b"HTTP/1.1 400 Bad Request", b"content-type: application/json", b"connection: close"]
        lines += [b"content-length: %d" % len(body), *(name + b": " + value for name, value in HEADERS)]
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()

    def _hang_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
