"""Where the tests of an index put theirs: a folder, a file of Milvus Lite, or a real Milvus server on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from puma.index.addresses import engine_of
from support.certificates import Authority

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _milvus_server import START_SECONDS, MilvusServer, ServerError, free_port

ENGINES = ["lancedb", "milvus-lite", *(pytest.param(name, marks=pytest.mark.slow) for name in ("milvus", "s3"))]
"""By name; those with a server are slow."""
ELSEWHERE = ENGINES[1:]
BUCKET = "bucket"
S3_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


class Where:
    """Makes addresses of one engine for one test.

    Args:
        engine: a name of :data:`ENGINES`.
        folder: the test's own.
        server: ``host:port`` of the running server, for "milvus".
    """

    def __init__(self, engine: str, folder: Path, server: str = "") -> None:
        self.engine, self.folder, self.server = engine, folder, server
        self.own = f"t{uuid.uuid4().hex[:12]}"

    def __call__(self, name: str = "i") -> str:
        """The address of an index; the same name is the same index."""
        if self.engine == "lancedb":
            return str(self.folder / name)
        if self.engine == "milvus-lite":
            return f"milvus-lite://{self.folder / name}"
        if self.engine == "s3":
            return f"s3://{BUCKET}/{self.own}/{name}"
        return f"milvus://{self.server}/{self.own}_{name}"

    def exists(self, name: str) -> bool:
        """Whether anything was made there."""
        address = self(name)
        if self.engine in ("milvus", "s3"):
            module, where = engine_of(address)
            return module.open_table(where) is not None
        return any(self.folder.glob(f"{name}*"))


_RUNNING: list[MilvusServer] = []


@contextlib.contextmanager
def running_s3() -> Iterator[str]:
    """The endpoint of moto's S3 server on the loopback interface, with :data:`BUCKET`; skips where there is none."""
    if find_spec("moto") is None or find_spec("flask_cors") is None:
        pytest.skip("moto's server is not installed: pip install moto flask flask-cors")
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            end = time.monotonic() + START_SECONDS
            while True:
                with contextlib.suppress(OSError):
                    put = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
                    urllib.request.urlopen(put, timeout=5).close()
                    break
                if time.monotonic() > end or process.poll() is not None:
                    pytest.skip("moto's server did not start")
                time.sleep(0.2)
            yield endpoint
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def guarded_s3(endpoint: str, *users: Sequence[str]) -> list[dict[str, str]]:
    """Make moto's server refuse all keys but its own users' from now on.

    Args:
        users: the rights of each: ``s3:GetObject``, ``s3:*``.

    Returns:
        The environment of each.
    """
    import boto3

    iam = boto3.client(
        "iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    found = []
    for number, rights in enumerate(users):
        name = f"user{number}"
        iam.create_user(UserName=name)
        allowed = [{"Effect": "Allow", "Action": list(rights), "Resource": "*"}]
        policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        given = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        found.append(S3_ENVIRONMENT | given | {"AWS_ENDPOINT_URL": endpoint})
    iam.close()
    # Without this type the server takes the number for a form's field.
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=b"0", method="POST", headers=headers)
    urllib.request.urlopen(request, timeout=5).close()
    return found


@contextlib.contextmanager
def running_milvus(
    folder: Path, token: str = "", tls: Authority | None = None, mutual: bool = False
) -> Iterator[MilvusServer]:
    """A server for as long as this is open; the test is skipped with the reason where none can be started. One that
    runs already is stopped meanwhile: the wheel's server has fixed ports beside its own, and a second one ends."""
    for package in ("milvus", "pymilvus"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install milvus==2.3.5 pymilvus")
    server, others = MilvusServer(folder, token, tls, mutual), list(_RUNNING)
    for other in others:
        other.stop()
    _RUNNING.append(server)
    try:
        server.start()
        yield server
    except ServerError as error:
        pytest.skip(str(error))
    finally:
        _RUNNING.remove(server)
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
        for other in others:
            other.start()


def placed(request: pytest.FixtureRequest, engine: str, folder: Path) -> Where:
    """Where tests of an engine put their indexes; skips where it is not installed."""
    if engine == "lancedb":
        return Where(engine, folder)
    if engine == "s3":
        request.getfixturevalue("s3_server")
        return Where(engine, folder)
    if find_spec("pymilvus") is None or (engine == "milvus-lite" and find_spec("milvus_lite") is None):
        pytest.skip("pymilvus or milvus-lite is not installed")
    server = request.getfixturevalue("milvus_server") if engine == "milvus" else None
    return Where(engine, folder, f"127.0.0.1:{server.port}" if server else "")
