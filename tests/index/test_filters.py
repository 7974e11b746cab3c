"""Filters: what the store returns against the slow meaning in Python, flat and indexed, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.index import Index, reader
from puma.index.filters import MAX_COMPARISONS, MAX_VALUES, as_sql, checked_filter, filter_fields, matches
from puma.items import MODALITIES
from support.engines import ELSEWHERE, placed

KEYS = ["brand", "price", "it's", 'a"b', "a.b", "$x", "", "ü", "id", "s:brand", "x') OR ('1'='1", "new\nline", "nul\0"]
TEXTS = [
    "b1",
    "b2",
    "",
    "it's",
    "' OR '1'='1",
    "'); DROP TABLE items; --",
    "%",
    "\\",
    "ナマズ",
    "true",
    "1",
    "nul\0x",
    "]",
]
LONG = "long " * 20
VALUES = [
    *TEXTS,
    LONG,
    LONG + "er",
    0,
    -0.0,
    1,
    1.0,
    2,
    3.5,
    -7,
    0.1 + 0.2,
    10**6,
    2**53 + 1,
    1e300,
    5e-324,
    True,
    False,
]
UNFIT = [None, [], ["b1"], {"b1": 1}, 10**400, "x" * 1001]


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def payloads(count, seed=0):
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        chosen = random.permutation(len(KEYS))[: random.integers(0, 8)]
        pool = VALUES + UNFIT
        payload = {KEYS[n]: pool[random.integers(0, len(pool))] for n in chosen}
        found.append(payload | {"text": "b1", "image": "/b1"})
    return found


COUNT = 400
IDS = [f"{n:03d}" for n in range(COUNT)]
KINDS = [MODALITIES[n % 3] for n in range(COUNT)]
PAYLOADS = payloads(COUNT)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A flat index and one with its search indexes (and rows that came after them), of the same rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "FLAT_ROWS", 100)
        folder = tmp_path_factory.mktemp("filters")
        vectors = units(COUNT, 16)
        fast = Index(folder / "fast")
        fast.add(IDS[:300], vectors[:300], KINDS[:300], PAYLOADS[:300])
        fast.optimize()
        fast.add(IDS[300:], vectors[300:], KINDS[300:], PAYLOADS[300:])
        fast.add(IDS[:20], vectors[:20], KINDS[:20], PAYLOADS[:20])  # rewritten: their old entries must not count
        assert fast.stats()["search"] == "ivf_rq"
    flat = Index(folder / "flat")
    flat.add(IDS, vectors, KINDS, PAYLOADS)
    assert flat.stats()["search"] == "exact"
    return {"flat": flat, "fast": fast}


comparisons = st.one_of(
    st.builds(
        lambda kind, key, value: {"type": kind, "key": key, "value": value},
        st.sampled_from(["eq", "ne"]),
        st.sampled_from(KEYS),
        st.sampled_from(VALUES),
    ),
    st.builds(
        lambda kind, key, value: {"type": kind, "key": key, "value": value},
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.sampled_from(KEYS),
        st.sampled_from([value for value in VALUES if not isinstance(value, bool)]),
    ),
    st.builds(
        lambda kind, key, value: {"type": kind, "key": key, "value": value},
        st.sampled_from(["in", "nin"]),
        st.sampled_from(KEYS),
        st.lists(st.sampled_from(VALUES), max_size=4),
    ),
    st.builds(
        lambda kind, value: {"type": kind, "key": "modality", "value": value},
        st.sampled_from(["in", "nin"]),
        st.lists(st.sampled_from(MODALITIES), max_size=3),
    ),
)
filters = st.recursive(
    comparisons,
    lambda inner: st.builds(
        lambda kind, parts: {"type": kind, "filters": parts},
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@given(where=filters, kinds=st.sampled_from([None, "image", ["image", "text"], list(MODALITIES)]))
@settings(max_examples=100, deadline=None)
def test_the_store_finds_what_the_slow_meaning_finds(stored, where, kinds):
    plain = checked_filter(where)
    wanted = MODALITIES if kinds is None else [kinds] if isinstance(kinds, str) else kinds
    expected = [
        name
        for name, modality, payload in zip(IDS, KINDS, PAYLOADS, strict=True)
        if modality in wanted and matches(modality, payload, plain)
    ]
    query = units(1, 16, seed=5)
    for index in stored.values():
        assert [row.id for row in index.page(1000, None, kinds, where, vectors=False)] == expected
        assert index.count(kinds, where) == len(expected)
        assert sorted(hit.id for hit in index.search(query, 1000, kinds, where=where)[0]) == expected


@given(where=filters)
@settings(max_examples=60, deadline=None)
def test_filters_come_before_ranking_in_indexed_search(stored, where):
    query = units(1, 16, seed=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "FLAT_ROWS", 100)
        few = stored["fast"].search(query, 5, where=where)[0]
        found = stored["fast"].search(query, 60, where=where)[0]
    fitting = {row.id for row in stored["flat"].page(1000, where=where, vectors=False)}
    assert len(few) == min(5, len(fitting))
    assert {hit.id for hit in few} <= fitting
    # So few partitions that all are visited, and so many hits that all rows are scored again: nothing is approximate.
    truth = stored["flat"].search(query, 60, where=where)[0]
    assert {hit.id for hit in found} == {hit.id for hit in truth}
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in truth], abs=2e-6)


@pytest.fixture(scope="module", params=ELSEWHERE)
def elsewhere(request, tmp_path_factory):
    """The same rows on each other engine."""
    index = Index(placed(request, request.param, tmp_path_factory.mktemp("filters"))("i"))
    index.add(IDS, units(COUNT, 16), KINDS, PAYLOADS)
    return index


@given(where=filters, kinds=st.sampled_from([None, "image", ["image", "text"], list(MODALITIES)]))
@settings(max_examples=60, deadline=None)
def test_other_engines_find_what_the_slow_meaning_finds(elsewhere, where, kinds):
    plain = checked_filter(where)
    wanted = MODALITIES if kinds is None else [kinds] if isinstance(kinds, str) else kinds
    rows = zip(IDS, KINDS, PAYLOADS, strict=True)
    expected = [name for name, kind, payload in rows if kind in wanted and matches(kind, payload, plain)]
    assert [row.id for row in elsewhere.page(1000, None, kinds, where, vectors=False)] == expected
    assert sorted(hit.id for hit in elsewhere.search(units(1, 16, seed=5), 1000, kinds, where=where)[0]) == expected


def test_a_filter_of_as_many_values_as_there_may_be(elsewhere):
    values = [f"no such brand {n}" for n in range(MAX_VALUES - 1)] + ["b1"]
    expected = sum(payload.get("brand") == "b1" for payload in PAYLOADS)
    assert elsewhere.count(where={"type": "in", "key": "brand", "value": values}) == expected > 0
    assert elsewhere.count(where={"type": "nin", "key": "brand", "value": values}) == COUNT - expected


def test_pages_go_on_where_the_last_one_ended(stored):
    where = {"type": "ne", "key": "brand", "value": "b1"}
    whole = [row.id for row in stored["flat"].page(1000, where=where)]
    pages, after = [], None
    while page := stored["flat"].page(37, after, where=where):
        pages += [row.id for row in page]
        after = page[-1].id
    assert pages == whole
    assert len(whole) < COUNT


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("brand=b3", "where must be a filter like"),
        ({}, r"where\.type must be one of eq, ne"),
        ({"type": "like", "key": "a", "value": "b"}, "got 'like'"),
        ({"type": ["eq"], "key": "a", "value": "b"}, r"where\.type"),
        ({"type": "eq", "value": "b"}, r"where\.key must be a string"),
        ({"type": "eq", "key": 3, "value": "b"}, r"where\.key must be a string"),
        ({"type": "eq", "key": "k" * 201, "value": "b"}, "at most 200"),
        ({"type": "eq", "key": "\ud800", "value": "b"}, r"where\.key"),
        ({"type": "eq", "key": "text", "value": "b"}, "searched for, not filtered"),
        ({"type": "eq", "key": "a"}, r"where\.value is missing"),
        ({"type": "eq", "key": "a", "value": None}, "got None"),
        ({"type": "eq", "key": "a", "value": float("nan")}, "got nan"),
        ({"type": "eq", "key": "a", "value": 10**400}, r"where\.value"),
        ({"type": "eq", "key": "a", "value": "\udc00"}, r"where\.value"),
        ({"type": "eq", "key": "a", "value": ["b"]}, r"where\.value"),
        ({"type": "gt", "key": "a", "value": True}, "numbers or texts"),
        ({"type": "in", "key": "a", "value": "b"}, "must be a list"),
        ({"type": "in", "key": "a", "value": ["b", None]}, r"value\[1\]"),
        ({"type": "in", "key": "a", "value": ["b"] * (MAX_VALUES + 1)}, "at most 1000"),
        ({"type": "eq", "key": "modality", "value": "video"}, "got 'video'"),
        ({"type": "gt", "key": "modality", "value": "image"}, "has no order"),
        ({"type": "and", "filters": []}, "one or more"),
        ({"type": "or", "filters": "ab"}, "one or more"),
        ({"type": "or", "filters": [{"type": "eq", "key": "a", "value": 1}, 5]}, r"where\.filters\[1\] must be"),
    ],
)
def test_what_is_no_filter_is_refused_and_named(stored, where, message):
    with pytest.raises(InputError, match=message):
        stored["flat"].search(units(1, 16), 3, where=where)


def test_filters_are_bounded_in_depth_and_width(stored):
    leaf = {"type": "eq", "key": "a", "value": 1}
    deep = leaf
    for _ in range(7):
        deep = {"type": "and", "filters": [deep]}
    assert stored["fast"].count(where=deep) == 0
    with pytest.raises(InputError, match="8 deep"):
        checked_filter({"type": "and", "filters": [deep]})
    wide = {"type": "or", "filters": [leaf] * MAX_COMPARISONS}
    assert stored["fast"].count(where=wide) == 0
    with pytest.raises(InputError, match="more than 100 comparisons"):
        checked_filter({"type": "or", "filters": [wide, leaf]})
    many = {"type": "in", "key": "brand", "value": [f"{LONG}{n}" for n in range(MAX_VALUES)]}
    assert stored["fast"].count(where=many) == 0


def test_what_is_stored_for_filters_keeps_kinds_apart():
    fields, tokens = filter_fields({"a": "1", "b": 1, "c": True, "d": None, "e": [1], "text": "t", "f": 2.5, "g": LONG})
    assert fields == f'{{"s:a": "1", "n:b": 1.0, "b:c": true, "n:f": 2.5, "s:g": "{LONG}"}}'
    assert tokens == ['["a", "1"]', '["b", 1]', '["c", true]']
    assert as_sql(None, None) is None
    assert as_sql(checked_filter({"type": "eq", "key": "it's", "value": "o'b"}), ("text",)) == (
        """(modality IN ('text')) AND (array_has_any(tokens, ['["it''s", "o''b"]']))"""
    )


def test_keys_that_json_turns_into_text_are_found(where):
    index = Index(where("i"))
    index.add(["a"], units(1, 8), ["text"], [{7: "seven", "long": "x" * 5000}])
    assert index.count(where={"type": "eq", "key": "7", "value": "seven"}) == 1
    assert index.page(1)[0].payload == {"7": "seven", "long": "x" * 5000}
