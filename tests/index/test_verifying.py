"""What ``verify`` finds: every kind of damage that the store can suffer is made here, and named."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest

from puma.index import Index, reader
from puma.index.interface import NewRow
from puma.index.tables import SOURCES, THUMBNAILS, connect, item_batch


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def sound(tmp_path):
    """An index with images and sources in which nothing is wrong."""
    index = Index(tmp_path / "i")
    index.add(
        [f"{n:02d}" for n in range(40)],
        units(40, 8),
        ["image", "text"] * 20,
        [{"n": n, "brand": f"b{n % 3}"} for n in range(40)],
        contents=[f"c{n}" for n in range(40)],
        thumbnails=[b"picture %d" % n if n % 2 == 0 else None for n in range(40)],
        sources=[f"/photos/{n}.png" for n in range(40)],
    )
    assert index.verify() == []
    return index


def table_of(index, name="items"):
    return connect(index.path).open_table(name)


def row(**changes):
    plain = NewRow("bad", units(1, 8, seed=7)[0], "text", '{"brand": "b1"}', "cbad", False)
    return dataclasses.replace(plain, **changes)


def changed(batch, column, value):
    return batch.set_column(batch.schema.get_field_index(column), batch.schema.field(column), pa.array([value]))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda: item_batch([row(id="07")], 8, None), "1 ids that occur more than once: '07'"),
        (lambda: item_batch([row(vector=np.full(8, np.inf, np.float32))], 8, None), "NaN or infinity: 'bad'"),
        (lambda: item_batch([row(vector=np.ones(8, np.float32))], 8, None), "not of length 1: 'bad'"),
        (lambda: item_batch([row(modality="video")], 8, None), "unknown modality: 'bad'"),
        (lambda: changed(item_batch([row()], 8, None), "payload", "{nothing"), "no JSON object: 'bad'"),
        (lambda: changed(item_batch([row()], 8, None), "payload", "[1]"), "no JSON object: 'bad'"),
        (lambda: item_batch([row(thumbnail=True)], 8, None), "rows whose thumbnail is lost: 'bad'"),
        (
            lambda: changed(item_batch([row()], 8, None), "content", "other"),
            r"not what was written \(checksum\): 'bad'",
        ),
        (lambda: changed(item_batch([row()], 8, None), "payload", '{"brand": "b2"}'), "filters see otherwise"),
    ],
)
def test_rows_that_are_not_as_they_should_be(sound, batch, message):
    table_of(sound).add(batch())
    found = sound.verify()
    assert any(re.search(message, line) for line in found), found


def test_messages_name_a_few_ids_and_count_the_others(sound):
    table_of(sound).add(item_batch([row(id=f"bad{n}", modality="video") for n in range(5)], 8, None))
    assert sound.verify() == ["5 rows of unknown modality: 'bad0', 'bad1', 'bad2', ..."]


def test_what_lies_beside_the_rows(sound):
    table_of(sound, THUMBNAILS).delete("content = 'c4'")
    assert sound.verify() == ["1 rows whose thumbnail is lost: '04'"]
    table_of(sound, THUMBNAILS).update(where="content = 'c6'", values={"data": b"picture 7"})
    assert "1 thumbnails that are damaged: 'c6'" in sound.verify()


def test_what_a_kill_leaves_beside_the_rows_is_no_fault_and_compacted_away(sound):
    table_of(sound).delete("id IN ('00', '01')")
    assert sound.verify() == []
    done = sound.compact()
    assert (done["thumbnails_dropped"], done["sources_dropped"]) == (1, 2)
    assert sound.verify() == []
    assert sound.stats()["thumbnails"] == 19


@pytest.mark.parametrize(
    ("name", "damage"),  # a path of a source with one letter changed is still a path: nothing can tell
    [(name, damage) for name in ("items", THUMBNAILS) for damage in ("cut", "gone", "flipped")]
    + [(SOURCES, "cut"), (SOURCES, "gone")],
)
def test_files_that_are_cut_short_gone_or_rotten(sound, name, damage):
    file = max((sound.path / f"{name}.lance" / "data").iterdir(), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        file.unlink()
    else:
        place = content.index(b"picture 8" if name == THUMBNAILS else b'"b2"')
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
    found = Index(sound.path).verify()
    wanted = {"items": "of items|rows", THUMBNAILS: "thumbnails", SOURCES: "of sources cannot be read"}[name]
    assert any(re.search(wanted, line) for line in found), found


def test_a_search_index_that_cannot_be_read_is_named_and_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "FLAT_ROWS", 100)
    index = Index(tmp_path / "i")
    index.add([f"{n:03d}" for n in range(300)], units(300, 16), ["text"] * 300)
    index.optimize()
    assert index.verify() == []
    for file in (tmp_path / "i" / "items.lance" / "_indices").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    broken = Index(tmp_path / "i")
    assert any("search index cannot be read" in line for line in broken.verify())
    broken.compact()
    assert Index(tmp_path / "i").verify() == []
    assert Index(tmp_path / "i").stats()["search"] == "ivf_rq"


def test_rows_that_the_search_index_does_not_find_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "FLAT_ROWS", 100)
    index = Index(tmp_path / "i")
    vectors = units(300, 16)
    index.add([f"{n:03d}" for n in range(300)], vectors, ["text"] * 300)
    index.optimize()
    table = table_of(index)
    real = type(table).search

    def blind(self, query=None, *rest, **named):
        return real(self, None if query is None else -np.asarray(query), *rest, **named)

    monkeypatch.setattr(type(table), "search", blind)
    assert any("not found by the search index" in line for line in index.verify())
