"""The mixed pool, from a tiny OpenPics that is built here and from files written by hand."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from puma.data import mbeir
from puma.errors import DataError
from puma.items import MODALITIES
from puma.mini.openpics.mixed import OWN_CONCEPT, SAME_FAMILY, mixed_pool


@pytest.mark.parametrize("split", ["val", "test"])
def test_equal_parts_no_image_twice_and_every_query_has_something_right(openpics, split):
    benchmark = mbeir.Benchmark(openpics)
    pool = mixed_pool(benchmark, split)
    counts = Counter(one.modality for one in pool.candidates)
    assert set(counts) == set(MODALITIES)
    assert len(set(counts.values())) == 1
    images = [one.image_path for one in pool.candidates if one.image_path]
    assert len(set(images)) == len(images)
    assert all((openpics / path).is_file() for path in images)
    assert len({one.did for one in pool.candidates}) == len(pool.candidates)
    assert pool.queries
    assert [query.qid for query in pool.queries] == list(pool.grades)
    said = {one.did: json.loads(one.src) for one in pool.candidates}
    for query in pool.queries:
        own = pool.grades[query.qid]
        assert OWN_CONCEPT in own.values()
        concept = query.qid.removeprefix("mixed ")
        assert {did for did, grade in own.items() if grade == OWN_CONCEPT} == {
            did for did, known in said.items() if known["concept"] == concept
        }
    assert mixed_pool(mbeir.Benchmark(openpics), split) == pool


def candidate(number, concept, family, text=None, image=None):
    known = {"name": concept, "concept": concept, "family": family} | ({"source": "noto"} if image else {})
    kind = "image,text" if text and image else "image" if image else "text"
    return mbeir.Candidate(f"20:{number}", text, image, kind, json.dumps(known))


@pytest.fixture
def by_hand(tmp_path):
    """Two concepts of one family and one of another; the fish's second image is only a query of task 3."""
    rows = [
        candidate(1, "fish", "fish", "fish"),
        candidate(2, "brown fish", "fish", "brown fish"),
        candidate(3, "car", "car", "car"),
        candidate(4, "fish", "fish", image="a.webp"),
        candidate(5, "car", "car", image="b.webp"),
        candidate(6, "fish", "fish", "sea, animal", "a.webp"),
        candidate(7, "brown fish", "fish", "river", "c.webp"),
    ]
    mbeir.write_pool(mbeir.global_pool_path(tmp_path, "val"), rows)
    mbeir.write_pool(mbeir.pool_path(tmp_path, "openpics", 3, "val"), rows[:3])
    src = json.dumps({"name": "fish", "concept": "fish", "family": "fish", "source": "noto"})
    query = mbeir.Query("20:1", None, "d.webp", "image", ("20:1",), task_id=3, src=src)
    mbeir.write_queries(mbeir.query_path(tmp_path, "openpics", 3, "val"), [query])
    mbeir.write_qrels(mbeir.qrels_path(tmp_path, "openpics", 3, "val"), {"20:1": {"20:1": 1}}, 3)
    prompts = [("image", "text", "OpenPics", 20, ("What is this?",) * 4)]
    mbeir.write_instructions(mbeir.instructions_path(tmp_path), prompts)
    return tmp_path, rows


def test_grades_and_parts_by_hand(by_hand):
    root, _ = by_hand
    pool = mixed_pool(mbeir.Benchmark(root), "val")
    kinds = {one.did: one.modality for one in pool.candidates}
    assert Counter(kinds.values()) == dict.fromkeys(MODALITIES, 2)
    # a.webp is a captioned image, so it is no image; the query's image is one.
    assert {did for did, kind in kinds.items() if kind == "image"} == {"20:5", "image d.webp"}
    assert {query.text for query in pool.queries} <= {"fish", "brown fish", "car"}
    fish = pool.grades["mixed fish"]
    assert (fish["20:6"], fish["20:7"], fish["image d.webp"]) == (OWN_CONCEPT, SAME_FAMILY, OWN_CONCEPT)
    assert "20:5" not in fish
    assert pool.grades["mixed brown fish"]["20:7"] == OWN_CONCEPT


def test_what_is_no_openpics_is_refused(by_hand):
    root, rows = by_hand
    mbeir.write_pool(mbeir.global_pool_path(root, "val"), [replace(rows[0], src=None), *rows[1:]])
    with pytest.raises(DataError, match="20:1: says no concept"):
        mixed_pool(mbeir.Benchmark(root), "val")
    mbeir.write_pool(mbeir.global_pool_path(root, "val"), rows[:5])
    with pytest.raises(DataError, match="no image,text to mix"):
        mixed_pool(mbeir.Benchmark(root), "val")
