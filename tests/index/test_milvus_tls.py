"""Milvus over TLS, and servers that are too old: a real server, or one of gRPC's where only its answer counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import pytest

from puma.errors import InputError, StorageError
from puma.index import Index
from puma.index.milvus.tls import handshake_failure, tls_options
from puma.index.milvus.versions import is_too_old
from support.certificates import make_authority
from support.engines import running_milvus

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("cryptography", reason="comes with moto")
VARIABLES = ("PUMA_MILVUS_CA", "PUMA_MILVUS_CERTIFICATE", "PUMA_MILVUS_KEY", "PUMA_MILVUS_SERVER_NAME")
SECONDS = 5


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*VARIABLES, "PUMA_MILVUS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PUMA_MILVUS_TIMEOUT", str(SECONDS))


@pytest.fixture
def authority(tmp_path):
    return make_authority(tmp_path / "ca")


@pytest.mark.parametrize("version", ["2.2.16", "v2.2", "1.9.0"])
def test_older_versions_are_too_old(version):
    assert is_too_old(version)


@pytest.mark.parametrize("version", ["2.3.0", "v2.3.5-lite", "2.10.1", "3.0-beta", "lite", "", "unknown-2.1"])
def test_others_are_not(version):
    assert not is_too_old(version)


def test_files_are_looked_at_before_a_server_is_asked(tmp_path, authority, monkeypatch):
    other = make_authority(tmp_path / "other")
    certificate, key = authority.signed("client")
    _, foreign = other.signed("client")
    assert tls_options("a") == {}
    (tmp_path / "no.pem").write_text("nothing")
    for given, output in (
        ({"CA": tmp_path / "gone.pem"}, r"PUMA_MILVUS_CA=\S+gone.pem: no certificates .* \(No such file"),
        ({"CA": tmp_path / "no.pem"}, r"PUMA_MILVUS_CA=\S+no.pem: no certificates can be read from it"),
        ({"CERTIFICATE": certificate}, "PUMA_MILVUS_CERTIFICATE goes with PUMA_MILVUS_KEY, which is not set"),
        ({"KEY": key}, "PUMA_MILVUS_KEY goes with PUMA_MILVUS_CERTIFICATE"),
        ({"CERTIFICATE": certificate, "KEY": key}, "PUMA_MILVUS_CERTIFICATE goes with PUMA_MILVUS_CA"),
        ({"CA": authority.certificate, "CERTIFICATE": certificate, "KEY": foreign}, "no certificate and its key"),
    ):
        with monkeypatch.context() as patch:
            for name, value in given.items():
                patch.setenv(f"PUMA_MILVUS_{name}", str(value))
            with pytest.raises(InputError, match=output):
                Index("milvus+https://127.0.0.1:1/my", dim=2)
    monkeypatch.setenv("PUMA_MILVUS_CA", str(authority.certificate))
    assert tls_options("a") == {"server_pem_path": str(authority.certificate)}


def test_what_is_no_handshake_is_left_to_others():
    for text in ("failed to connect to all addresses: connection refused", "auth check failed", "Socket closed"):
        assert handshake_failure(text) is None


def answering(version=None):
    """A gRPC server that knows nothing, or only tells its version: its port, and what ends it."""
    import grpc
    from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

    class Old(milvus_pb2_grpc.MilvusServiceServicer):
        def GetVersion(self, request, context):  # noqa: N802 - the service's own name
            return milvus_pb2.GetVersionResponse(version=version)

        def Connect(self, request, context):  # noqa: N802
            return milvus_pb2.ConnectResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    if version is not None:
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Old(), server)
    server.start()
    return port, server


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2.2.16", "the server is Milvus 2.2.16; 2.3 or newer is needed"),
        ("v1.1.1", "the server is Milvus v1.1.1; 2.3 or newer is needed"),
        (None, "what answers there is no Milvus of 2.3 or newer"),
    ],
)
def test_a_server_that_is_too_old_is_named(version, message):
    port, server = answering(version)
    try:
        with pytest.raises(InputError, match=rf"milvus://127.0.0.1:{port}/my: {message}"):
            Index(f"milvus://127.0.0.1:{port}/my", dim=2)
    finally:
        server.stop(None)


@pytest.mark.timeout(60)
def test_tls_to_a_port_without_it_is_said():
    port, server = answering("2.3.5")
    try:
        with pytest.raises(StorageError, match=r"the server does not talk TLS; write milvus:// instead"):
            Index(f"milvus+https://127.0.0.1:{port}/my", dim=2)
    finally:
        server.stop(None)


def refused(address, output):
    begun = time.monotonic()
    with pytest.raises(StorageError, match=output) as raised:
        Index(address, dim=4)
    assert address in str(raised.value)
    assert time.monotonic() - begun < 4 * SECONDS


def command(*arguments):
    """A command's exit code and its lines on stderr, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    whole = [sys.executable, "-m", "puma.cli", *arguments]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tls_with_an_authority_of_ones_own(tmp_path, authority, monkeypatch):
    other = make_authority(tmp_path / "other")
    with running_milvus(tmp_path / "server", "root:Milvus", tls=authority) as server:
        place = f"127.0.0.1:{server.port}/my"
        monkeypatch.setenv("PUMA_MILVUS_TOKEN", "root:Milvus")
        refused(f"milvus+https://{place}", r"is not trusted \(CERTIFICATE_VERIFY_FAILED.*; set PUMA_MILVUS_CA")
        refused(f"milvus://{place}", r"no answer .* \(if it talks TLS, write milvus\+https://\)")
        monkeypatch.setenv("PUMA_MILVUS_CA", str(other.certificate))
        refused(f"milvus+https://{place}", "certificate is not trusted .*; set PUMA_MILVUS_CA")
        monkeypatch.setenv("PUMA_MILVUS_CA", str(authority.certificate))
        by_name = f"milvus+https://{place.replace('127.0.0.1', 'localhost')}"
        refused(by_name, "certificate is not for this host; .*set PUMA_MILVUS_SERVER_NAME")
        code, output = command("index", "stats", by_name)
        assert (code, len(output)) == (1, 1), output  # none of gRPC's own words
        index = Index(f"milvus+https://{place}", dim=4)
        index.add(["a", "b"], np.eye(4, dtype=np.float32)[:2], ["text", "image"], [{"n": 1}, {"n": 2}])
        assert [hit.id for hit in index.search(np.eye(4, dtype=np.float32)[1], 1)[0]] == ["b"]
        monkeypatch.setenv("PUMA_MILVUS_SERVER_NAME", "server")
        assert len(Index(by_name, create=False)) == 2
        monkeypatch.setenv("PUMA_MILVUS_TOKEN", "root:wrong")
        refused(f"milvus+https://{place}", "refuses the user or token")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_asks_for_certificates(tmp_path, authority, monkeypatch):
    certificate, key = authority.signed("client")
    foreign = make_authority(tmp_path / "other").signed("client")
    with running_milvus(tmp_path / "server", tls=authority, mutual=True) as server:
        address = f"milvus+https://127.0.0.1:{server.port}/my"
        monkeypatch.setenv("PUMA_MILVUS_CA", str(authority.certificate))
        refused(address, "wants a certificate of the client's that it trusts; set PUMA_MILVUS_CERTIFICATE")
        monkeypatch.setenv("PUMA_MILVUS_CERTIFICATE", str(foreign[0]))
        monkeypatch.setenv("PUMA_MILVUS_KEY", str(foreign[1]))
        refused(address, "wants a certificate of the client's that it trusts")
        monkeypatch.setenv("PUMA_MILVUS_CERTIFICATE", str(certificate))
        monkeypatch.setenv("PUMA_MILVUS_KEY", str(key))
        Index(address, dim=4).add(["a"], np.eye(4, dtype=np.float32)[:1], ["text"])
        assert len(Index(address, create=False)) == 1
