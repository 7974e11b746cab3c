"""A Milvus server of the wheel ``milvus`` on the loopback interface, for benchmarks and for the tests of the engine."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from puma.index.milvus.clients import RECONNECTING

AS_DEPLOYED = {"QUERYNODE_SEGCORE_INTERIMINDEX_ENABLEINDEX": "false"}
"""What deploy/ sets for a Milvus server too (docs/engines.md says why)."""
START_SECONDS = 240
"""After a kill -9 a server waits until its own earlier sessions have expired, a minute or more."""
_SERVER = """
import sys
from milvus import MilvusServer
server = MilvusServer(wait_for_started=True)
server.set_base_dir(sys.argv[1])
server.listen_port = int(sys.argv[2])
server.config.set("authorization_enabled", sys.argv[3] == "guarded")
if len(sys.argv) > 4:
    server.config.set("tls_mode", int(sys.argv[4]))
    for name, path in zip(("server_pem_path", "server_key_path", "ca_pem_path"), sys.argv[5:]):
        server.config.set(name, path)
server.start()
sys.stdin.read()
server.stop()
"""


class Authority(Protocol):
    """Makes certificates."""

    @property
    def certificate(self) -> Path:
        """Its own."""
        ...

    def signed(self, name: str) -> tuple[Path, Path]:
        """A certificate of this name, and its key."""
        ...


class ServerError(RuntimeError):
    """A server that does not start."""


class MilvusServer:
    """A standalone server of the wheel ``milvus`` on the loopback interface.

    Args:
        folder: its data; started again on the same folder it goes on.
        token: what clients must give; empty for a server that asks for none.
        tls: of a server that talks over TLS, its authority; ``mutual`` if it asks clients for certificates of it too.
    """

    def __init__(self, folder: Path, token: str = "", tls: Authority | None = None, mutual: bool = False) -> None:
        self.folder, self.token, self.port = folder, token, free_port()
        self.tls, self.mutual = tls, mutual
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ServerError: it ended, or did not answer in time.
        """
        from pymilvus import MilvusClient

        self.folder.mkdir(parents=True, exist_ok=True)
        wait_for_port(self.port)
        guarded = "guarded" if self.token else "open"
        secure: list[str] = []
        client: dict[str, str] = {"uri": f"http://127.0.0.1:{self.port}"}
        if self.tls is not None:
            certificate, key = self.tls.signed("server")
            secure = ["2" if self.mutual else "1", str(certificate), str(key), str(self.tls.certificate)]
            own = self.tls.signed("client")
            client = {"uri": f"https://127.0.0.1:{self.port}", "ca_pem_path": str(self.tls.certificate)}
            client |= {"client_pem_path": str(own[0]), "client_key_path": str(own[1])}
        with open(self.folder / "out.log", "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(self.folder / "data"), str(self.port), guarded, *secure],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, **AS_DEPLOYED},
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(Exception):
                asking = MilvusClient(**client, token=self.token, timeout=2, dedicated=True, grpc_options=RECONNECTING)
                asking.list_collections(timeout=2)
                asking.close()
                return
            time.sleep(0.3)
        self.kill()
        raise ServerError(f"no answer from the Milvus server: see {self.folder / 'out.log'}")

    def stop(self) -> None:
        """End it in its own way, so that it starts again at once."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.stdin = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        self.kill()

    def kill(self) -> None:
        """kill -9 of it and all its processes."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None


def wait_for_port(port: int) -> None:
    """Until a port can be listened at. A killed server's connections keep it for a minute, and the wheel's server
    would silently take the next one."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return
        time.sleep(0.5)


def free_port() -> int:
    """A port that nothing listens at now, below those that the system gives to clients: a client that tries again and
    again to reach a port of that range can get it for its own end, and the server that restarts finds it taken."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")
