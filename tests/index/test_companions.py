"""What is kept beside the rows: small images, sources and their forgetting; pages, scans, and indexes of format 1."""

import json

import numpy as np
import pyarrow as pa
import pytest

from puma.errors import IndexMismatchError, InputError
from puma.index import Index, lance
from puma.index.tables import FORMAT, METADATA_KEY, connect


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def filled(path, count=6, **more):
    index = Index(path)
    ids = [f"{n:02d}" for n in range(count)]
    index.add(ids, units(count, 8), ["image"] * count, [{"n": n} for n in range(count)], **more)
    return index, ids


def test_thumbnails_are_kept_by_content_and_told_with_rows_and_hits(where):
    index = Index(where("i"))
    vectors = units(4, 8)
    index.add(
        ["a", "b", "c", "d"],
        vectors,
        ["image", "image", "text", "image"],
        contents=["same", "same", "words", "it's"],
        thumbnails=[b"picture", None, None, b"\x00\xff" * 5000],
    )
    assert index.thumbnail("a") == index.thumbnail("b") == b"picture"
    assert index.thumbnail("d") == b"\x00\xff" * 5000
    assert index.thumbnail("c") is None
    assert index.thumbnail("nobody") is None
    assert [hit.thumbnail for hit in sorted(index.search(vectors[0], 4)[0], key=lambda hit: hit.id)] == [1, 1, 0, 1]
    assert [row.thumbnail for row in index.page(4)] == [True, True, False, True]
    # A row that is written again without its image (another payload) keeps it; a new image replaces the old.
    index.add(["a"], vectors[:1], ["image"], [{"again": 1}], contents=["same"])
    assert index.thumbnail("a") == b"picture"
    index.add(["b"], vectors[1:2], ["image"], contents=["same"], thumbnails=[b"newer"])
    assert index.thumbnail("a") == b"newer"
    assert index.stats()["thumbnails"] == 2
    index.delete(["a"])
    assert index.thumbnail("a") is None
    assert index.thumbnail("b") == b"newer"  # of the same content: it stays as long as one of them does
    index.delete(["b"])
    assert index.stats()["thumbnails"] == 1
    assert index.compact()["thumbnails_dropped"] == 0
    assert index.thumbnail("d") is not None


def test_sources_are_found_by_path_and_below_it(where):
    paths = ["/p/a.png", "/p/a.png.d/b.png", "/p/q/c.png", "/pp/d.png", "/p/100%_/e.png", "/p/it's/f.png"]
    index, ids = filled(where("i"), sources=paths)
    pairs = set(zip(paths, ids, strict=True))
    assert index.sources(["/p"]) == {pair for pair in pairs if pair[0].startswith("/p/")}
    assert index.sources(["/p/"]) == index.sources(["/p"])
    assert index.sources(["/p/a.png"]) == {("/p/a.png", "00")}
    assert index.sources(["/p/100%_"]) == {("/p/100%_/e.png", "04")}
    assert index.sources(["/p/it's", "/pp", "/p/it's/f.png"]) == {("/p/it's/f.png", "05"), ("/pp/d.png", "03")}
    assert index.sources(["/"]) == pairs
    assert index.sources([]) == index.sources(["/nowhere"]) == set()
    assert index.stats()["sources"] == 6
    index.note_sources([("/p/a.png", "00"), ("/copy/a.png", "00")])
    index.note_sources([("/copy/a.png", "00")])
    assert index.stats()["sources"] == 7


def test_rows_go_with_their_last_source(where):
    index, _ = filled(where("i"), sources=["/a", "/b", "/c", None, "/e", "/f"])
    index.note_sources([("/a2", "00"), ("/b2", "01")])
    assert index.forget_sources([("/a", "00"), ("/c", "02"), ("/nowhere", "03"), ("/nowhere", "04")]) == 1
    assert sorted(index.get(["00", "01", "02", "03", "04"])) == ["00", "01", "03", "04"]
    assert index.sources(["/a", "/c", "/e"]) == {("/e", "04")}
    assert index.forget_sources([("/a2", "00"), ("/b", "01"), ("/b2", "01")]) == 2
    assert [row.id for row in index.page(9)] == ["03", "04", "05"]
    assert index.forget_sources([]) == index.forget_sources([("/a", "00")]) == 0
    index.delete(["04"])
    assert index.sources(["/"]) == {("/f", "05")}
    assert index.verify() == []


def test_many_sources_are_forgotten_at_once(where):
    count = 1200
    index = Index(where("i"))
    ids = [f"{n:04d}" for n in range(count)]
    index.add(ids, units(count, 8), ["text"] * count, sources=[f"/x/{name}" for name in ids])
    index.note_sources((f"/y/{name}", name) for name in ids[:5])
    assert index.forget_sources((f"/x/{name}", name) for name in ids) == count - 5
    assert len(index) == 5
    assert index.sources(["/"]) == {(f"/y/{name}", name) for name in ids[:5]}


def test_indexes_without_companions_answer(where):
    index, _ = filled(where("i"))
    assert index.thumbnail("00") is None
    assert index.sources(["/"]) == set()
    assert index.forget_sources([("/a", "00")]) == 0
    assert index.compact().keys() >= {"thumbnails_dropped", "sources_dropped"}
    nothing = Index(where("nothing"))
    assert (nothing.thumbnail("a"), nothing.sources(["/"]), nothing.forget_sources([("/a", "a")])) == (None, set(), 0)
    assert (nothing.verify(), nothing.page(3), list(nothing.scan()), nothing.count()) == ([], [], [], 0)
    assert nothing.compact()["bytes_after"] == 0
    nothing.note_sources([("/a", "a")])
    assert not where.exists("nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thumbnails": [b"x"]}, "equally long"),
        ({"thumbnails": [b"x", "text"]}, r"thumbnails\[1\] must be bytes"),
        ({"thumbnails": [b"x", b""]}, r"thumbnails\[1\]"),
        ({"sources": ["/a", ""]}, "a source must be a string"),
        ({"sources": ["/a", "/\udcff"]}, "no valid text"),
        ({"contents": ["a", 7]}, "ids"),
    ],
)
def test_companions_that_are_not_as_described_are_refused_whole(where, arguments, message):
    index = Index(where("i"), dim=8)
    with pytest.raises(InputError, match=message):
        index.add(["a", "b"], units(2, 8), ["image", "image"], **arguments)
    assert len(index) == 0
    with pytest.raises(InputError, match="one string"):
        index.sources("/a")
    for lookup in (index.places, index.stamps):
        with pytest.raises(InputError, match="one string"):
            lookup("/a")
    with pytest.raises(InputError, match=r"ids\[0\]"):
        index.note_sources([("/a", "")])


def test_pages_are_in_the_order_of_ids(where):
    index = Index(where("i"))
    ids = ["b", "a", "Z", "ü", "é", "👩", "it's", "~", "aa", "1", "10", "2"]
    kinds = ["image", "text", "image,text"] * 4
    index.add(ids, units(12, 8), kinds, [{"n": n} for n in range(12)])
    assert [row.id for row in index.page(100)] == sorted(ids)
    assert [row.id for row in index.page(3, "it's")] == sorted(ids)[sorted(ids).index("it's") + 1 :][:3]
    assert index.page(3, "\U0010ffff") == []
    some = [name for name, kind in sorted(zip(ids, kinds, strict=True)) if kind != "text"]
    assert [row.id for row in index.page(100, None, ["image,text", "image"])] == some
    assert [row.id for row in index.page(2, modality="text")] == sorted(set(ids) - set(some))[:2]
    row = index.page(1, vectors=False)[0]
    assert (row.vector.shape, row.payload) == ((0,), {"n": 9})
    with pytest.raises(InputError, match="limit must be"):
        index.page(0)
    with pytest.raises(InputError, match=r"ids\[0\]"):
        index.page(1, "")
    with pytest.raises(InputError, match="several of them"):
        index.page(1, modality=[])
    with pytest.raises(InputError, match="several of them"):
        index.page(1, modality=7)


def test_scans_see_one_moment(tmp_path):
    index, ids = filled(tmp_path / "i", count=50)
    scan = index.scan(batch=7)
    seen = next(scan)
    index.add(["new"], units(1, 8, seed=9), ["text"])
    index.delete(ids[-5:])
    index.optimize()
    rows = [*seen, *(row for part in scan for row in part)]
    assert sorted(row.id for row in rows) == ids
    np.testing.assert_array_equal(np.stack([row.vector for row in sorted(rows, key=lambda row: row.id)]), units(50, 8))
    later = [row for part in index.scan(vectors=False) for row in part]
    assert len(later) == 46
    assert all(row.vector.shape == (0,) for row in later)


def format_1(path, count=30):
    """An index as PUMA made them before filters."""
    described = json.dumps({"format": 1, "dim": 8, "fingerprint": "model-a"}).encode()
    texts = [pa.field(name, pa.string(), nullable=False) for name in ("payload", "content")]
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("modality", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), 8), nullable=False),
            *texts,
        ],
        metadata={METADATA_KEY: described},
    )
    data = {
        "id": [f"{n:02d}" for n in range(count)],
        "modality": ["text", "image"] * (count // 2),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(units(count, 8).ravel()), 8),
        "payload": [json.dumps({"brand": f"b{n % 3}"}) for n in range(count)],
        "content": [f"c{n}" for n in range(count)],
    }
    path.mkdir()
    connect(path).create_table("items", data=pa.table(data, schema=schema))
    return Index(path)


B1 = {"type": "eq", "key": "brand", "value": "b1"}


def test_an_index_of_format_1_is_read_and_upgraded_by_its_next_write(tmp_path):
    index = format_1(tmp_path / "i")
    other = Index(tmp_path / "i")
    before = index.get(["03"])["03"]
    assert index.search(units(30, 8)[3], 1, "image")[0][0].id == "03"
    assert index.page(3, vectors=False)[0].payload == {"brand": "b0"}
    assert index.stats()["format"] == 1
    assert index.verify() == []
    with pytest.raises(InputError, match=r"made before filters; 'puma index compact"):
        index.search(units(1, 8), 1, where=B1)
    index.add(["new"], units(1, 8, seed=5), ["text"], [{"brand": "b1"}], thumbnails=[b"p"])
    assert index.stats()["format"] == FORMAT
    assert len(index) == len(other) == 31
    assert index.fingerprint == Index(tmp_path / "i").fingerprint == "model-a"
    for handle in (index, other):
        assert handle.count(where=B1) == 11
        assert len(handle.search(units(1, 8), 20, where=B1)[0]) == 11
    after = index.get(["03"])["03"]
    np.testing.assert_array_equal(after.vector, before.vector)
    assert (after.payload, after.content, after.modality) == (before.payload, before.content, before.modality)
    assert index.verify() == []


@pytest.mark.parametrize("upgrade", [Index.compact, Index.optimize, lambda index: index.delete(["00"])])
def test_upkeep_and_deletion_upgrade_too(tmp_path, upgrade, monkeypatch):
    monkeypatch.setattr(lance, "UPGRADE_ROWS", 7)
    index = format_1(tmp_path / "i")
    upgrade(index)
    assert index.stats()["format"] == FORMAT
    assert index.count(where=B1) == 10
    assert index.verify() == []


def test_a_later_format_is_refused(tmp_path):
    described = json.dumps({"format": FORMAT + 1, "dim": 8, "fingerprint": None}).encode()
    schema = pa.schema([pa.field("id", pa.string())], metadata={METADATA_KEY: described})
    connect(tmp_path / "i").create_table("items", schema=schema)
    with pytest.raises(IndexMismatchError, match="index of format 3; this PUMA reads format 2"):
        Index(tmp_path / "i")
