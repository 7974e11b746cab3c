"""A read sees what any client has written before it, however many requests it makes; on a server they name one time."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from puma.index import Index
from puma.index.provenance import Place
from puma.index.reads import Read, end_read, one_read, time_of_read
from puma.search.searcher import Searcher
from support.encoders import ToyEncoder
from support.engines import placed
from support.index_child import BATCH, rows_of

RARE = {"type": "eq", "key": "rare", "value": "yes"}
READS = {
    "search": lambda index, batch, rows: index.search(rows["vectors"][-1], 1)[0][0].id == rows["ids"][-1],
    "get": lambda index, batch, rows: set(index.get(rows["ids"])) == set(rows["ids"]),
    "page": lambda index, batch, rows: [row.id for row in index.page(50, f"a-{batch:05d}")] == rows["ids"],
    "count": lambda index, batch, rows: len(index) == (batch + 1) * BATCH,
    "stats": lambda index, batch, rows: index.stats()["rows"] == (batch + 1) * BATCH,
    "scan": lambda index, batch, rows: rows["ids"][-1] in {row.id for part in index.scan() for row in part},
    "thumbnail": lambda index, batch, rows: index.thumbnail(rows["ids"][1]) is not None,
    "sources": lambda index, batch, rows: len(index.sources([f"/a/{batch}"])) == BATCH,
    # These two last: they need places, and that there are none may be remembered until then.
    "filter": lambda index, batch, rows: (
        rows["ids"][-1] in {hit.id for hit in index.search(rows["vectors"][:1], 9, where=RARE)[0]}
    ),
    "places": lambda index, batch, rows: len(index.get(rows["ids"])[rows["ids"][-1]].other_payloads) == 1,
}
"""Whether a read sees a batch, by what is read."""


def of_another_client(where, monkeypatch):
    """The same index; on a server, by a connection of its own."""
    with monkeypatch.context() as patch:
        patch.setenv("PUMA_MILVUS_TIMEOUT", "29")
        return Index(where(), create=False)


def test_each_read_sees_what_another_client_has_just_written(where, monkeypatch):
    index = Index(where(), dim=16)
    other = of_another_client(where, monkeypatch)
    for batch, (name, sees) in enumerate(READS.items()):
        rows = rows_of("a", batch)
        assert index.get(rows["ids"]) == {}
        other.add(**rows)
        if name in ("filter", "places"):
            other.add_places([Place("/elsewhere", rows["ids"][-1], json.dumps({"rare": "yes", "batch": batch}))])
        assert sees(index, batch, rows), name
    assert all(sees(index, batch, rows) for sees in READS.values())
    other.delete(rows["ids"][-1:])
    assert rows["ids"][-1] not in {hit.id for hit in index.search(rows["vectors"][-1], 3)[0]}


def test_a_modality_that_another_client_has_just_added_is_searched(where, monkeypatch):
    searcher = Searcher(ToyEncoder(), where())
    searcher.add(["a green meadow"], ["text"])
    assert [hit.id for hit in searcher.search("red")] == ["text"]
    vector = searcher.encoder.encode([searcher.stored_item("text")])
    of_another_client(where, monkeypatch).add(["image"], vector, ["image"])
    assert {hit.id for hit in searcher.search("red")} == {"text", "image"}


def test_what_is_written_within_a_read_is_seen_in_it(where):
    index = Index(where(), dim=16)
    with one_read():
        for batch in range(3):
            assert len(index) == batch * BATCH
            index.add(**rows_of("a", batch))
        index.delete(rows_of("a", 0)["ids"])
        assert len(index) == 2 * BATCH


@pytest.fixture
def requests(request, tmp_path, monkeypatch):
    """An index of a real server, and the options of all that it is asked from here on."""
    index = Index(placed(request, "milvus", tmp_path)(), dim=16)
    for batch in range(2):
        index.add(**rows_of("a", batch))
    index.add_places([Place("/elsewhere", rows_of("a", 0)["ids"][0], '{"rare": "yes"}')])
    client, given = index._engine.server.client, []
    for name in ("query", "search"):
        monkeypatch.setattr(client, name, noting(getattr(client, name), given))
    return index, given


def noting(method, given):
    """A client's method that notes which writes each of its requests must see."""

    def noted(*args, **options):
        given.append((options["consistency_level"], options.get("guarantee_timestamp")))
        return method(*args, **options)

    return noted


@pytest.mark.slow
def test_all_requests_of_a_read_name_one_time_of_the_server(requests):
    index, given = requests
    name = rows_of("a", 0)["ids"][1]
    reads = {
        "search": lambda: index.search(np.eye(16)[0], 3, where=RARE),
        "get": lambda: index.get([name]),
        "page": lambda: index.page(3, where=RARE),
        "scan": lambda: list(index.scan()),
        "thumbnail": lambda: index.thumbnail(name),
        "stats": index.stats,
        "sample": index.sample,
    }
    times = []
    for kind, read in reads.items():
        del given[:]
        read()
        assert {level for level, _ in given} == {"Customized"}, kind
        assert len(given) > 1, kind
        assert len({time for _, time in given}) == 1, kind
        times.append(given[0][1])
    assert times == sorted(set(times))  # the next read names a later one
    del given[:]
    with one_read():
        for read in reads.values():
            read()
    assert len({time for _, time in given}) == 1


@pytest.mark.slow
def test_a_server_that_does_not_tell_its_time_is_read_with_strong_consistency(requests, monkeypatch):
    from pymilvus.grpc_gen.milvus_pb2 import AllocTimestampRequest

    index, given = requests
    handler = index._engine.server.client._get_connection()
    unknown = handler._final_channel.unary_unary(
        "/milvus.proto.milvus.MilvusService/NoSuchRequest", AllocTimestampRequest.SerializeToString
    )
    monkeypatch.setattr(handler._stub, "AllocTimestamp", unknown)
    assert index.search(rows_of("a", 1)["vectors"][:1], 1)[0][0].id == rows_of("a", 1)["ids"][0]
    assert len(list(index.scan())) > 0
    assert set(given) == {("Strong", None)}


def test_a_read_that_goes_on_keeps_its_time_though_others_write_between():
    clock = itertools.count()

    def time():
        return time_of_read("server", lambda: next(clock))

    read = Read()
    with read.going_on():
        assert time() == 0
    with one_read():
        assert time() == 1
        end_read()
    with read.going_on():
        assert time() == 0
        with read.going_on(), one_read():
            assert time() == 0
    assert time() is None
