"""pymilvus' clients: one a server, shared by all threads, and a new one after the server went away. Loads no pymilvus
until a server is called.

pymilvus hands out one connection a server to all its clients. One whose server was killed is not mended when the server
is back; so a client here has a connection of its own, and is given up at the first sign.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from pathlib import Path
from typing import Any

from puma.errors import DependencyError, install_command

RECONNECTING = {
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2000,
    "grpc.use_local_subchannel_pool": 1,
}
"""Attempts to reach a server again: gRPC by itself waits up to two minutes between them."""


class Client:
    """The client of one server.

    Args:
        uri, token, database: as pymilvus takes them; ``uri`` may be the file of Milvus Lite.
        seconds: how long a request may take.
        secure: of a connection over TLS, pymilvus' names for what :mod:`puma.index.milvus.tls` gives.
    """

    def __init__(
        self, uri: str, token: str, database: str, seconds: float, secure: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._options: dict[str, Any] = {"uri": uri, "token": token, "db_name": database, "timeout": seconds}
        self._options |= dict(secure)
        self.is_file, self.seconds = "://" not in uri, seconds
        self._lock = threading.Lock()
        self._client: Any = None

    def get(self) -> Any:
        """The present one; made where there is none.

        Raises:
            DependencyError: a package is not installed. And what pymilvus raises where no server answers.
        """
        client = self._client
        if client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._made()
                client = self._client
        return client

    def time(self) -> int | None:
        """The server's own clock now, as reads name it: every write that was done before has an earlier time. None
        where the server does not tell it.

        Raises:
            Exception: what gRPC raises where the server does not answer in time.
        """
        client = self.get()
        import grpc
        from pymilvus.grpc_gen.milvus_pb2 import AllocTimestampRequest

        try:
            # The client has no method for this request, and the one of its handler tries again and again.
            stub = client._get_connection()._stub
            answer = stub.AllocTimestamp(AllocTimestampRequest(), timeout=self.seconds)
        except (AttributeError, grpc.RpcError) as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return None  # where the server is away, the request that needed the time says so
        return int(answer.timestamp) if answer.status.code == 0 and answer.timestamp else None

    def give_up(self) -> None:
        """The next :meth:`get` makes another one: the server does not answer this one."""
        if self.is_file:
            return
        with self._lock:
            client, self._client = self._client, None
        if client is not None:  # closed later: requests of other threads may be on their way
            timer = threading.Timer(2 * self.seconds, _close, [client])
            timer.daemon = True
            timer.start()

    def _made(self) -> Any:
        # Read when gRPC is first imported: it writes of every failed handshake on the user's screen.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        try:
            from pymilvus import MilvusClient

            # It logs failures that it raises too, with their traces; the user gets one message.
            logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
            if self.is_file:
                Path(self._options["uri"]).parent.mkdir(parents=True, exist_ok=True)
                return MilvusClient(**self._options)
            return MilvusClient(**self._options, dedicated=True, grpc_options=RECONNECTING)
        except ImportError as error:
            if "lite" in str(error).lower():
                raise DependencyError("milvus-lite:// needs Milvus Lite: pip install milvus-lite") from None
            raise DependencyError(f"an index on Milvus needs pymilvus: {install_command('milvus')}") from None


@functools.lru_cache(maxsize=32)
def client_of(uri: str, token: str, database: str, seconds: float, secure: tuple[tuple[str, str], ...] = ()) -> Client:
    """The same client for the same arguments."""
    return Client(uri, token, database, seconds, secure)


def _close(client: Any) -> None:
    with contextlib.suppress(Exception):
        client.close()
