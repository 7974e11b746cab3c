"""What is Milvus' own: addresses, what cannot be reached or stored, ties, and a server killed in the middle of ingest.

What every engine promises is in the other files of this folder, by the fixture ``where``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from puma.cli import app as cli
from puma.errors import IndexMismatchError, InputError, StorageError
from puma.index import Index
from puma.index.filters import _scalar
from puma.index.milvus import reader
from puma.index.milvus.collections import ROW_FIELDS
from puma.index.milvus.connection import Address
from puma.index.milvus.expressions import hexed, stored_value, unhexed
from support import index_child
from support.encoders import ToyEncoder
from support.engines import free_port, placed, running_milvus
from support.index_child import BATCH, rows_of

pytest.importorskip("pymilvus", reason="needs the extra milvus")


@pytest.fixture
def lite(request, tmp_path):
    return placed(request, "milvus-lite", tmp_path)


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_addresses(monkeypatch):
    monkeypatch.delenv("PUMA_MILVUS_TOKEN", raising=False)
    plain = Address.parse("milvus://host/my")
    assert (plain.uri, plain.database, plain.name, plain.token) == ("http://host:19530", "", "my", "")
    secret = Address.parse("milvus+https://user:p%40ss@host:1/team/my.index")
    assert (secret.uri, secret.database, secret.name, secret.token) == ("https://host:1", "team", "my", "user:p@ss")
    assert secret.shown == "milvus+https://host:1/team/my.index"
    assert Address.parse("milvus://[::1]:5/my").uri == "http://[::1]:5"
    assert Address.parse("milvus-lite:///data/my").uri == "/data/my.db"
    monkeypatch.setenv("PUMA_MILVUS_TOKEN", "key")
    assert Address.parse("milvus://host/my").token == "key"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("milvus://host", "the name '' must be letters"),
        ("milvus://host/1st", "the name '1st' must be letters, digits and underscores"),
        ("milvus://user:secret@host/my-index", "index address 'milvus://host/my-index'"),
        ("milvus://host:port/my", "write milvus://HOST:PORT/NAME"),
        ("milvus:///my", "write milvus://HOST:PORT/NAME"),
        ("milvus://host/a/b/my", "milvus://HOST:PORT/DATABASE/NAME"),
        ("milvus-lite://folder/my", "three slashes"),
    ],
)
def test_what_is_no_address_is_refused_without_its_secret(address, message):
    with pytest.raises(InputError, match=message) as raised:
        Index(address)
    assert "secret" not in str(raised.value)


@pytest.mark.timeout(30)  # not the client's own quarter of an hour
def test_no_server_is_said_in_time(monkeypatch):
    monkeypatch.setenv("PUMA_MILVUS_TIMEOUT", "1")
    with pytest.raises(StorageError, match=r"milvus://127.0.0.1:\d+/my: no answer from the Milvus server within 1 s"):
        Index(f"milvus://user:secret@127.0.0.1:{free_port()}/my", dim=4)
    monkeypatch.setenv("PUMA_MILVUS_TIMEOUT", "soon")
    with pytest.raises(InputError, match="PUMA_MILVUS_TIMEOUT='soon': give a number of seconds above 0"):
        Index("milvus://127.0.0.1:1/my")


def test_consistency_is_for_the_user_to_weaken(lite, monkeypatch):
    monkeypatch.setenv("PUMA_MILVUS_CONSISTENCY", "Bounded")
    index = Index(lite("i"), dim=4)
    index.add(["a"], np.eye(4)[:1], ["text"])
    assert [hit.id for hit in index.search(np.eye(4)[0], 1)[0]] == ["a"]
    monkeypatch.setenv("PUMA_MILVUS_CONSISTENCY", "weak")
    with pytest.raises(InputError, match="PUMA_MILVUS_CONSISTENCY='weak': give one of Strong, Session, Bounded"):
        Index(lite("i"))


def test_a_collection_of_others_is_left_alone(lite):
    from pymilvus import MilvusClient

    client = MilvusClient(uri=Address.parse(lite("theirs")).uri)
    client.create_collection("theirs", dimension=4)
    with pytest.raises(InputError, match="has a collection 'theirs' that is no index of PUMA; choose another name"):
        Index(lite("theirs"), dim=4)
    assert client.list_collections() == ["theirs"]


def test_a_later_format_is_refused(lite, monkeypatch):
    Index(lite("i"), dim=4)
    monkeypatch.setattr("puma.index.milvus.collections.FORMAT", 0)
    with pytest.raises(IndexMismatchError, match=r"an index of format 1 on Milvus.*Update PUMA"):
        Index(lite("i"))


def test_long_payloads_are_kept_and_longer_ones_refused_whole(lite):
    index = Index(lite("i"), dim=4)
    long = {"text": "a long text " * 20_000}
    index.add(["a"], np.eye(4)[:1], ["text"], [long])
    assert index.get(["a"])["a"].payload == long
    noise = {"text": np.random.default_rng(0).bytes(100_000).hex()}
    with pytest.raises(InputError, match=r"the payload of 'c' has 200,012 characters.*Milvus stores 65,535"):
        index.add(["b", "c"], np.eye(4)[:2], ["text"] * 2, [None, noise])
    with pytest.raises(InputError, match="the thumbnail of 'd' has 60,000 bytes"):
        index.add(["d"], np.eye(4)[:1], ["image"], contents=["d"], thumbnails=[b"x" * 60_000])
    assert len(index) == 1
    assert index.verify() == []


def test_all_that_tie_with_the_last_are_ranked_by_id(lite):
    index = Index(lite("i"))
    ids = [f"{n:03d}" for n in np.random.default_rng(1).permutation(300)]
    index.add(ids, np.repeat(units(1, 16), 300, axis=0), ["text"] * 300)
    assert [hit.id for hit in index.search(units(1, 16), 3)[0]] == ["000", "001", "002"]


def test_more_results_than_a_server_gives_are_ranked_here(lite, monkeypatch):
    index = Index(lite("i"))
    vectors = units(200, 8)
    index.add([f"{n:03d}" for n in range(200)], vectors, ["text"] * 200)
    whole = index.search(vectors[:3], 150)
    monkeypatch.setattr(reader, "MOST", 100)
    assert index.search(vectors[:3], 150) == whole


def test_the_sample_is_the_same_each_time_and_follows_the_rows(lite):
    index = Index(lite("i"))
    vectors = units(1500, 8)
    index.add([f"{n:04d}" for n in range(1500)], vectors, ["text"] * 1400 + ["image"] * 100)
    found = index.sample()
    assert {name: len(rows) for name, rows in found.items()} == {"text": 1000, "image": 100}
    assert {row.tobytes() for row in found["text"]} <= {row.tobytes() for row in vectors[:1400]}
    again = Index(lite("i")).sample()
    assert all(np.array_equal(again[name], found[name]) for name in found)
    index.delete([f"{n:04d}" for n in range(1400, 1500)])
    assert index.sample().keys() == {"text"}


def test_damage_is_named(lite):
    index = Index(lite("i"))
    index.add(["a", "b"], np.eye(4)[:2], ["text", "image"], [{"n": 1}, {"n": 2}], thumbnails=[None, b"x"])
    assert index.verify() == []
    held = index._engine
    row = held.server.query(held.name, f'key == "{hexed("a")}"', [*ROW_FIELDS, "vector", "fields", "draw"], 1)[0]
    held.server.write(held.name, [{**row, "payload": '{"n": 7}', "checksum": 1}])
    held._thumbnails.drop(["b"])
    faults = index.verify()
    assert any("filters see otherwise than their payload: 'a'" in fault for fault in faults)
    assert any("not what was written (checksum): 'a'" in fault for fault in faults)
    assert any("whose thumbnail is lost: 'b'" in fault for fault in faults)


scalars = st.one_of(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**40), 2**40))


@given(scalars, scalars)
def test_what_is_stored_sorts_as_the_values_do(one, other):
    one, other = _scalar(one), _scalar(other)
    if one is None or other is None or isinstance(one, str) != isinstance(other, str):
        return
    assert (stored_value(one) < stored_value(other)) == (one < other)
    assert (stored_value(one) == stored_value(other)) == (one == other)


@given(st.text(max_size=20).filter(lambda text: text.isprintable()))
def test_texts_come_back(text):
    assert unhexed(hexed(text)) == text


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", ["milvus-lite", pytest.param("milvus", marks=pytest.mark.slow)])
def test_every_command_takes_the_address(request, name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PUMA_MODEL", "toy")
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())
    index, things = placed(request, name, tmp_path)("my"), tmp_path / "things"
    things.mkdir()
    for colour, rgb in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        Image.new("RGB", (8, 8), rgb).save(things / f"{colour}.png")
    (tmp_path / "texts.txt").write_text("blue whale\n\nred fox\n")
    code, out, _ = run(capsys, "index", "add", index, things, tmp_path / "texts.txt")
    assert (code, "4 added" in out) == (0, True)
    code, out, _ = run(capsys, "index", "add", index, things, tmp_path / "texts.txt")
    assert "0 added, 4 there already" in out
    hits = json.loads(run(capsys, "search", index, "green", "--modality", "image", "--json")[1])
    assert hits[0]["payload"]["image"].endswith("green.png")
    stats = json.loads(run(capsys, "index", "stats", index, "--json")[1])
    assert (stats["rows"], stats["engine"], stats["thumbnails"]) == (4, "milvus", 2)
    (things / "red.png").unlink()
    code, out, _ = run(capsys, "index", "add", index, things, "--sync")
    assert (code, "1 removed" in out) == (0, True)
    listed = json.loads(run(capsys, "index", "ls", index, "--json")[1])
    assert len(listed) == 3
    assert run(capsys, "index", "rm", index, listed[0]["id"])[0] == 0
    assert run(capsys, "index", "verify", index)[0] == 0
    assert json.loads(run(capsys, "index", "compact", index, "--json")[1])["sources_dropped"] == 0
    assert run(capsys, "index", "export", index, tmp_path / "out.jsonl")[1].endswith("2 items\n")


def answers(index):
    try:
        return bool(index.page(1))
    except StorageError:
        return False


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_ingest_loses_no_acknowledged_row(milvus_server, monkeypatch):
    """kill -9 of the server; the writer says that it is gone; the same command goes on when it is back."""
    server = milvus_server
    address = f"milvus://127.0.0.1:{server.port}/killed"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PUMA_MILVUS_TIMEOUT": "5",
    }
    command = [sys.executable, str(Path(index_child.__file__)), "write", address, "a"]
    writer = subprocess.Popen(
        [*command, "0", "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    acknowledged = [int(writer.stdout.readline()) for _ in range(6)]
    monkeypatch.setenv("PUMA_MILVUS_TIMEOUT", "5")
    held = Index(address, create=False)
    assert len(held) >= 6 * BATCH
    server.kill()
    try:
        rest, errors = writer.communicate(timeout=120)
    finally:
        server.start()
    acknowledged += map(int, rest.split())
    assert "no answer from the Milvus server within 5 s" in errors
    # Who had it open finds the server again, as soon as that has loaded its rows.
    end = time.monotonic() + 90
    while not answers(held) and time.monotonic() < end:
        time.sleep(0.5)
    assert len(held) >= len(acknowledged) * BATCH
    index = Index(address, create=False)
    wanted = {name for batch in acknowledged for name in rows_of("a", batch)["ids"]}
    stored = {row.id for part in index.scan(vectors=False) for row in part}
    assert wanted <= stored
    assert len(stored) <= len(wanted) + BATCH
    last = acknowledged[-1] + 3
    done = subprocess.run([*command, "0", str(last)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [row for part in index.scan() for row in part]
    assert [row.id for row in rows] == [name for batch in range(last) for name in rows_of("a", batch)["ids"]]
    assert index.stats()["thumbnails"] == last * BATCH // 2
    assert index.verify() == []


@pytest.mark.slow
def test_a_wrong_token_is_said_and_the_right_one_opens(tmp_path, monkeypatch):
    with running_milvus(tmp_path / "server", "root:Milvus") as server:
        where = f"127.0.0.1:{server.port}/my"
        monkeypatch.delenv("PUMA_MILVUS_TOKEN", raising=False)
        monkeypatch.setenv("PUMA_MILVUS_TIMEOUT", "5")
        for given in ("", "root:wrong@", "nobody:Milvus@"):
            with pytest.raises(StorageError, match=r"refuses the user or token; set PUMA_MILVUS_TOKEN") as raised:
                Index(f"milvus://{given}{where}", dim=4)
            assert "wrong" not in str(raised.value)
        Index(f"milvus://root:Milvus@{where}", dim=4).add(["a"], np.eye(4)[:1], ["text"])
        monkeypatch.setenv("PUMA_MILVUS_TOKEN", "root:Milvus")
        assert len(Index(f"milvus://{where}", create=False)) == 1
