"""The index against brute force, its refusals, several handles, and a real kill -9 in the middle of ingest."""

import os
import random
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import IndexMismatchError, InputError, StorageError
from puma.index import Hit, Index, reader
from puma.index.exact.small import exact_search

MODALITIES = ["text", "image", "image,text"]


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def filled(path, count=60, dim=8, seed=0, **keywords):
    index = Index(path, **keywords)
    vectors = units(count, dim, seed)
    ids = [f"item-{n:05d}" for n in range(count)]
    index.add(ids, vectors, [MODALITIES[n % 3] for n in range(count)], [{"n": n} for n in range(count)])
    return index, ids, vectors


def brute_force(ids, vectors, query, k, keep=None):
    pairs = [(round(float(vector @ query), 6), name) for name, vector in zip(ids, vectors, strict=True)]
    pairs = [pair for place, pair in enumerate(pairs) if keep is None or keep(place)]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:k]


@pytest.mark.parametrize("modality", [None, *MODALITIES])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_small_indexes_are_exact_and_filter_before_ranking(where, modality, k):
    index, ids, vectors = filled(where("i"))
    queries = units(5, 8, seed=9)
    for query, hits in zip(queries, index.search(queries, k, modality), strict=True):
        expected = brute_force(ids, vectors, query, k, lambda n: modality in (None, MODALITIES[n % 3]))
        assert [hit.id for hit in hits] == [name for _, name in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected], abs=2e-6)
        assert all(modality in (None, hit.modality) for hit in hits)
        assert all(hit.payload == {"n": ids.index(hit.id)} for hit in hits)


def test_equal_scores_come_in_the_order_of_ids(where):
    index = Index(where("i"))
    same = np.repeat(units(1, 16), 50, axis=0)
    ids = [f"{n:02d}" for n in np.random.default_rng(1).permutation(50)]
    index.add(ids, same, ["text"] * 50)
    assert [hit.id for hit in index.search(same[0], 5)[0]] == ["00", "01", "02", "03", "04"]


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 40), k=st.integers(1, 12), block=st.integers(1, 41))
@settings(max_examples=80, deadline=None)
def test_exact_search_does_not_depend_on_the_blocks(seed, rows, k, block):
    random = np.random.default_rng(seed)
    vectors = np.sign(random.normal(size=(rows, 4))).astype(np.float32) / 2  # many ties, products without rounding
    ids = [f"{n:02d}" for n in random.permutation(rows)]
    blocks = [(ids[start : start + block], vectors[start : start + block]) for start in range(0, rows, block)]
    for query, found in zip(vectors[:3], exact_search(vectors[:3], blocks, k), strict=True):
        assert [(score, name) for name, score in found] == brute_force(ids, vectors, query, k)


def test_large_indexes_find_what_exact_search_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "FLAT_ROWS", 1000)
    random = np.random.default_rng(0)
    centres = random.normal(size=(60, 32))
    vectors = centres[random.integers(0, 60, 4000)] + 0.5 * random.normal(size=(4000, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Index(tmp_path / "i")
    rare = [int(n) for n in random.permutation(4000)[:3]]
    kinds = ["image" if n in rare else "text" for n in range(4000)]
    index.add([str(n) for n in range(4000)], vectors, kinds)
    index.optimize()
    assert index.stats()["search"] == "ivf_rq"
    queries = vectors[:100]
    exact, fast = index.search(queries, 10, exact=True), index.search(queries, 10)
    found = [len({hit.id for hit in a} & {hit.id for hit in b}) / 10 for a, b in zip(exact, fast, strict=True)]
    assert np.mean(found) >= 0.95
    for hits in fast:
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    # Three images among thousands of texts: all three come back, and never a text.
    assert {hit.id for hit in index.search(queries[0], 10, "image")[0]} == {str(n) for n in rare}
    # The same where the index has visited no partition that holds them, without reading what does not fit.
    with monkeypatch.context() as patch:
        patch.setattr(reader.Reader, "_approximate", lambda self, vectors, k, condition: [[] for _ in vectors])
        patch.setattr(reader.Reader, "_snapshot", None)
        assert {hit.id for hit in index.search(queries[0], 10, "image")[0]} == {str(n) for n in rare}
    index.add(["new"], queries[:1], ["text"])  # not in the approximate index yet, found nevertheless
    assert "new" in {hit.id for hit in index.search(queries[0], 2)[0]}


@pytest.mark.parametrize("k", [1, 3, 10, 40])
def test_large_indexes_re_score_enough_however_few_are_asked_for(tmp_path, monkeypatch, k):
    monkeypatch.setattr(reader, "FLAT_ROWS", 1000)
    random = np.random.default_rng(0)
    centres = random.normal(size=(20, 64))
    rows = centres[random.integers(0, 20, 4100)] + 0.7 * random.normal(size=(4100, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    index = Index(tmp_path / "i")
    index.add([str(n) for n in range(4000)], rows[:4000], ["text"] * 4000)
    index.optimize()
    exact, fast = index.search(rows[4000:], k, exact=True), index.search(rows[4000:], k)
    found = [len({hit.id for hit in a} & {hit.id for hit in b}) / k for a, b in zip(exact, fast, strict=True)]
    assert np.mean(found) >= 0.99


def test_streamed_exact_search_equals_the_one_in_memory(tmp_path, monkeypatch):
    index, _, _ = filled(tmp_path / "i", count=200)
    queries = units(4, 8, seed=3)
    cached = index.search(queries, 9, "image", exact=True)
    monkeypatch.setattr(reader, "CACHE_FLOATS", 0)
    assert index.search(queries, 9, "image", exact=True) == cached


def test_dimensions_that_the_fast_index_cannot_take_stay_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "FLAT_ROWS", 20)
    index, ids, vectors = filled(tmp_path / "i", dim=10)
    index.optimize()
    assert index.stats()["search"] == "exact"
    assert index.search(vectors[3], 1)[0][0].id == ids[3]


def test_adding_again_replaces_and_deleting_removes(where):
    index, ids, vectors = filled(where("i"))
    index.add(ids[:10], vectors[:10], ["text"] * 10, [{"again": True}] * 10)
    assert len(index) == 60
    assert index.search(vectors[1], 1)[0][0] == Hit(ids[1], 1.0, "text", {"again": True})
    assert index.delete([ids[0], "it's not there"]) == 1
    assert len(index) == 59
    assert ids[0] not in index.get(ids)
    assert index.delete([]) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_found_wherever_the_engine_has_put_them(where, monkeypatch, seed):
    """Rows that were written apart, replaced and deleted, some of them in parts that an engine has finished."""
    chance = random.Random(seed)
    monkeypatch.setattr("puma.index.milvus.connection.PAGE", chance.choice([1, 2, 5]))
    index, stored = Index(where("rows"), dim=8), {}
    for step in range(5):
        ids = chance.sample([f"{letter}{digit}" for letter in "abcdef" for digit in range(5)], chance.randint(1, 8))
        index.add(ids, np.eye(8)[: len(ids)], ["text"] * len(ids), [{"step": step}] * len(ids))
        stored |= dict.fromkeys(ids, step)
        if chance.random() < 0.7:
            index.optimize()
        for name in chance.sample(sorted(stored), 1):
            index.delete([name])
            del stored[name]
        names = sorted(stored)
        assert {row.id: row.payload["step"] for part in index._engine.scan(256, False) for row in part} == stored
        assert {name: row.payload["step"] for name, row in index.get(names).items()} == stored
        assert [row.id for row in index.page(4)] == names[:4]
        assert [row.id for row in index.page(99, after="c")] == [name for name in names if name > "c"]
        assert len(index) == len(stored)
    assert index.verify() == []


def test_ids_and_payloads_of_any_writing(where):
    index = Index(where("i"), dim=4)
    names = ["it's", 'a "quote"', "x' OR '1'='1", "ナマズ", "👩‍🚀", "%_\\"]
    payloads = [{"deep": {"list": [1, None, "ü"]}, "name": name} for name in names]
    index.add(names, units(6, 4), ["text"] * 6, payloads)
    assert {name: row.payload for name, row in index.get(names).items()} == dict(zip(names, payloads, strict=True))
    assert index.delete(["x' OR '1'='1"]) == 1
    assert len(index) == 5


def test_empty_indexes_answer(where):
    assert len(Index(where("nothing"))) == 0
    assert Index(where("nothing")).search(units(2, 4), 3) == [[], []]
    assert not where.exists("nothing")
    index = Index(where("made"), dim=4)
    assert index.search(units(2, 4), 3) == [[], []]
    assert index.search(np.zeros((0, 4)), 3) == []
    assert index.stats()["rows"] == 0
    index.optimize()
    index.add([], np.zeros((0, 4)), [])
    assert len(index) == 0


def test_reopening_keeps_rows_dimension_and_model(where):
    _, ids, vectors = filled(where("i"), fingerprint="model-a")
    again = Index(where("i"), create=False)
    assert (len(again), again.dim, again.fingerprint) == (60, 8, "model-a")
    again.optimize()  # compaction must keep what the index knows of its model
    assert Index(where("i")).fingerprint == "model-a"
    assert again.search(vectors[7], 1)[0][0].id == ids[7]


def test_another_model_is_refused_with_a_way_out(where):
    filled(where("i"), fingerprint="model-a")
    with pytest.raises(IndexMismatchError, match=r"made with model model-a, this one is model-b.*new index"):
        Index(where("i"), fingerprint="model-b")
    with pytest.raises(IndexMismatchError, match="length 8, the model makes 16"):
        Index(where("i"), dim=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.full((2, 4), np.nan)}, r"vectors\[0\] holds NaN"),
        ({"vectors": np.array([[1, 0, 0, 0], [2, 0, 0, 0]])}, r"vectors\[1\] has length 2.0000, not 1"),
        ({"vectors": np.zeros((2, 4))}, "length 0.0000"),
        ({"vectors": np.eye(5)[:2]}, r"must be \[n, 4\], got \[2, 5\]"),
        ({"vectors": np.eye(4)[:1]}, "equally long"),
        ({"ids": ["a", "a"]}, "'a' occurs twice"),
        ({"ids": ["a", ""]}, r"ids\[1\]"),
        ({"ids": ["a", "b\n"]}, "control character"),
        ({"ids": ["a", 3]}, r"ids\[1\]"),
        ({"ids": "ab"}, "sequence of strings"),
        ({"modalities": ["text", "video"]}, "got 'video'"),
        ({"modalities": "text"}, "equally long"),
        ({"payloads": [{}, {"x": {1, 2}}]}, "payload of 'b' cannot be written as JSON"),
        ({"payloads": [{}, {"x": float("nan")}]}, "payload of 'b'"),
        ({"payloads": [{}, "text"]}, "must be a dict"),
    ],
)
def test_bad_rows_are_refused_whole(where, change, message):
    index = Index(where("i"), dim=4)
    rows = {"ids": ["a", "b"], "vectors": np.eye(4)[:2], "modalities": ["text", "image"], "payloads": None} | change
    with pytest.raises(InputError, match=message):
        index.add(**rows)
    assert len(index) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((units(1, 8), 0), "k must be"),
        ((units(1, 8), 1.5), "k must be"),
        ((units(1, 8), 1, "video"), "modality must be one of"),
        ((units(1, 4), 1), r"query vectors must be \[n, 8\]"),
        ((units(1, 8) * 3, 1), "has length 3"),
        ((units(1, 8) * np.inf, 1), "NaN or infinity"),
    ],
)
def test_bad_queries_are_refused(tmp_path, arguments, message):
    index, _, _ = filled(tmp_path / "i")
    with pytest.raises(InputError, match=message):
        index.search(*arguments)


def test_places_that_are_no_index(tmp_path):
    with pytest.raises(InputError, match="no index there; make one with"):
        Index(tmp_path / "none", create=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        Index(tmp_path / "file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match="not an index; an index is a folder that PUMA fills"):
        Index(tmp_path / "photos", dim=4)
    with pytest.raises(InputError, match="no engine for"):
        Index("ftp://host")
    with pytest.raises(InputError, match="dim must be"):
        Index(tmp_path / "i", dim=0)


def test_a_half_made_index_is_made_whole_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "i" / "items.lance" / "data").mkdir(parents=True)  # what a kill before the first version leaves
    index, _, _ = filled(tmp_path / "i")
    assert len(index) == 60
    for manifest in (tmp_path / "i" / "items.lance" / "_versions").iterdir():
        manifest.write_bytes(b"damaged")
    with pytest.raises(StorageError, match="cannot be opened"):
        Index(tmp_path / "i")


def test_other_handles_see_new_rows(where):
    early = Index(where("i"))
    writer, ids, vectors = filled(where("i"))
    reader = Index(where("i"))
    assert len(early) == len(reader) == 60
    assert reader.search(vectors[0], 1)[0][0].id == ids[0]
    writer.add(["new"], units(1, 8, seed=77), ["image"])
    assert reader.search(units(1, 8, seed=77), 1)[0][0].id == "new"
    writer.delete(["new"])
    assert reader.search(units(1, 8, seed=77), 1)[0][0].id != "new"


WRITER = """
import sys
import numpy as np
from puma.index import Index

index = Index(sys.argv[1])
prefix = sys.argv[2]
random = np.random.default_rng(0)
for batch in range(int(sys.argv[3])):
    rows = random.normal(size=(50, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index.add([f"{prefix}-{batch}-{n}" for n in range(50)], rows, ["text"] * 50, [{"batch": batch}] * 50)
    print(batch, flush=True)
"""


def start_writer(path, prefix, batches):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), prefix, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_kill_in_the_middle_of_ingest_loses_no_acknowledged_row(tmp_path):
    for attempt, after in enumerate((1, 7)):
        path = tmp_path / f"i{attempt}"
        with start_writer(path, "a", 100_000) as writer:
            acknowledged = [int(writer.stdout.readline()) for _ in range(after)]
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().split()]  # written before the kill landed
        assert writer.returncode == -signal.SIGKILL
        index = Index(path, create=False)
        ids = [f"a-{batch}-{n}" for batch in acknowledged for n in range(50)]
        assert set(ids) <= set(index.get(ids))
        assert len(index) in (len(ids), len(ids) + 50)  # at most the batch under way, whole
        index.add([f"a-{len(acknowledged)}-{n}" for n in range(50)], units(50, 16), ["text"] * 50)  # the retry
        assert len(index) == len(ids) + 50


def test_two_processes_may_write_at_once(tmp_path):
    Index(tmp_path / "i", dim=16)
    writers = [start_writer(tmp_path / "i", prefix, 6) for prefix in "ab"]
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(Index(tmp_path / "i")) == 600


def test_the_index_loads_no_torch():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = (
        "import sys, puma.index, puma.search.ingest, puma.evaluation.metrics, puma.evaluation.runs\n"
        "import puma.index.lance, lancedb\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_an_open_index_is_bound_to_a_model_without_opening_it_again(where):
    index = Index(where("i"))
    index.bind(4, "m1")
    assert (index.dim, index.fingerprint, len(index)) == (4, "m1", 0)
    index.bind(4, "m1")
    with pytest.raises(IndexMismatchError, match="length 4, the model makes 5"):
        index.bind(5, "m1")
    with pytest.raises(IndexMismatchError, match="made with model m1"):
        index.bind(4, "m2")
    with pytest.raises(IndexMismatchError, match="made with model m1"):
        Index(where("new"), fingerprint="m1").bind(4, "m2")
    assert not where.exists("new")
    assert not where.exists("i")  # the first addition makes it
    index.add(["a"], np.eye(4)[:1], ["text"])
    assert (Index(where("i")).dim, Index(where("i")).fingerprint) == (4, "m1")
