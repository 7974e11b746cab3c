"""Upkeep by itself: small additions are joined, the search index is made and follows, old versions go."""

import numpy as np
import pytest

from puma.errors import StorageError
from puma.index import Index, maintenance, reader
from puma.index.tables import THUMBNAILS, connect


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(reader, "FLAT_ROWS", 100)
    monkeypatch.setattr(maintenance, "FRAGMENTS", 6)
    monkeypatch.setattr(maintenance, "ROWS_A_FRAGMENT", 10_000)
    monkeypatch.setattr(maintenance, "SEGMENTS", 2)


def add(index, start, count, **more):
    ids = [f"{n:05d}" for n in range(start, start + count)]
    kinds = ["image" if n % 4 else "text" for n in range(start, start + count)]
    payloads = [{"n": n, "brand": f"b{n % 5}"} for n in range(start, start + count)]
    index.add(ids, units(count, 16, seed=start), kinds, payloads, **more)


def state(index, name="items"):
    return maintenance.state_of(connect(index.path).open_table(name))


def test_many_small_additions_keep_themselves_in_order(tmp_path, small):
    index = Index(tmp_path / "i")
    seen = []
    for turn in range(40):
        add(index, turn * 5, 5, thumbnails=[b"picture"] * 5)
        found = state(index)
        seen.append(found)
        assert found["fragments"] <= 7
        assert found["segments"] <= 3
        assert state(index, THUMBNAILS)["fragments"] <= 14
        if found["rows"] > 100:
            assert found["rows"] - found["indexed"] <= 51
    assert seen[10]["indexed"] == 0
    assert set(seen[-1]["columns"]) == {"id", "modality", "tokens", "vector"}
    assert index.stats()["search"] == "ivf_rq"
    assert index.stats()["indexed_rows"] == seen[-1]["indexed"]
    assert index.verify() == []
    brand = {"type": "eq", "key": "brand", "value": "b2"}
    truth = index.search(units(3, 16, seed=8), 12, "image", where=brand, exact=True)
    found = index.search(units(3, 16, seed=8), 12, "image", where=brand)
    assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in truth]


def test_small_indexes_are_left_alone(tmp_path):
    index = Index(tmp_path / "i")
    for turn in range(3):
        add(index, turn * 5, 5)
    assert state(index)["fragments"] == 3
    assert state(index)["columns"] == {}


def test_replacing_and_deleting_is_followed_by_every_index(tmp_path, small):
    index = Index(tmp_path / "i")
    add(index, 0, 300)
    assert index.stats()["search"] == "ivf_rq"
    index.add(["00007"], units(1, 16, seed=99), ["image,text"], [{"brand": "it's new"}])
    index.delete([f"{n:05d}" for n in range(100, 200)])
    for turn in range(2):  # before and after the indexes have taken it in
        assert index.count() == 200
        assert index.count(where={"type": "eq", "key": "brand", "value": "it's new"}) == 1
        assert index.count("image,text") == 1
        assert [hit.id for hit in index.search(units(1, 16, seed=99), 1)[0]] == ["00007"]
        assert index.count(where={"type": "eq", "key": "brand", "value": "b2"}) == 39
        found = index.search(units(1, 16, seed=3), 300)[0]
        assert len({hit.id for hit in found}) == len(found) == 200
        index.optimize() if turn else index.compact()
        assert state(index)["segments"] == 1
        assert state(index)["indexed"] == 200


def test_where_every_row_has_its_own_words_they_are_not_indexed(tmp_path, small, monkeypatch):
    monkeypatch.setattr(maintenance, "DISTINCT_TOKENS", 20)
    index = Index(tmp_path / "i")
    add(index, 0, 200)
    assert "tokens" not in state(index)["columns"]
    seven = {"type": "eq", "key": "n", "value": 7}
    assert index.count(where=seven) == 1
    monkeypatch.setattr(maintenance, "DISTINCT_TOKENS", 1000)
    index.optimize()
    assert "tokens" in state(index)["columns"]
    assert index.count(where=seven) == 1
    monkeypatch.setattr(maintenance, "DISTINCT_TOKENS", 20)
    index.optimize()
    assert "tokens" not in state(index)["columns"]


def test_compaction_gives_the_disk_back(tmp_path, small):
    index = Index(tmp_path / "i")
    for turn in range(30):
        add(index, 0, 20 + turn)  # the same rows again and again
    garbage = tmp_path / "i" / "items.lance" / "data" / "0a1b2c.lance"
    garbage.write_bytes(b"left by a writer that was killed" * 1000)
    done = index.compact()
    assert done["bytes_after"] == maintenance.folder_bytes(tmp_path / "i") < done["bytes_before"] / 3
    assert not garbage.exists()
    assert len(list((tmp_path / "i" / "items.lance" / "data").iterdir())) == 1
    assert len(index) == 49
    assert index.verify() == []


def test_ordinary_upkeep_keeps_the_versions_that_others_may_be_reading(tmp_path, small):
    index = Index(tmp_path / "i")
    add(index, 0, 50)
    scan = index.scan(batch=10)
    next(scan)
    for turn in range(20):
        add(index, 100 * turn, 10)
    index.optimize()
    assert sum(len(part) for part in scan) == 40
    assert maintenance.KEEP_VERSIONS.total_seconds() >= 60


def test_what_a_writer_leaves_to_others_is_done_with_the_next_write(tmp_path, small, monkeypatch):
    index = Index(tmp_path / "i")
    add(index, 0, 50)
    real = maintenance._build

    def beaten(*arguments):
        raise RuntimeError("lance error: Commit conflict for version 7")

    monkeypatch.setattr(maintenance, "_build", beaten)
    add(index, 50, 100)  # the rows are in, whatever becomes of the upkeep
    assert len(index) == 150
    assert state(index)["columns"] == {}
    monkeypatch.setattr(maintenance, "_build", real)
    add(index, 200, 1)
    assert "vector" in state(index)["columns"]


def test_a_failing_upkeep_does_not_make_an_acknowledged_write_fail(tmp_path, small, monkeypatch, caplog):
    calls = []

    def broken(*arguments):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(maintenance, "_build", broken)
    index = Index(tmp_path / "i")
    add(index, 0, 200)
    add(index, 200, 10)
    assert len(index) == 210
    assert len(calls) == 1  # not with every write
    assert "upkeep put off" in caplog.text
    with pytest.raises(StorageError, match="disk is full"):
        index.optimize()  # an explicit call raises
