"""Items with several places: each payload kept, filters that match any of them, against a slow and obvious version."""

import itertools
import json

import numpy as np
import pytest

from puma.errors import InputError
from puma.index import Index, Place
from puma.index.filters import checked_filter, matches

PAYLOADS = [{"brand": "A", "price": 5}, {"brand": "B", "price": 50}, {"price": 7.5}, {"brand": "A", "price": 50}]
CONDITIONS = [
    {"type": "eq", "key": "brand", "value": "A"},
    {"type": "eq", "key": "brand", "value": "B"},
    {"type": "ne", "key": "brand", "value": "A"},
    {"type": "nin", "key": "brand", "value": ["A", "B"]},
    {"type": "lt", "key": "price", "value": 10},
    {"type": "gte", "key": "price", "value": 50},
    {"type": "eq", "key": "modality", "value": "image"},
]


def place(source, name, **payload):
    return Place(source, name, json.dumps(payload))


def filled(path, count=12, dim=8):
    """Items 0 to 11; item n has the payloads of n's bits, the first of them in its own row."""
    vectors = np.random.default_rng(0).normal(size=(count, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    payloads = [[payload for bit, payload in enumerate(PAYLOADS) if (n + 1) >> bit & 1] for n in range(count)]
    index = Index(path)
    ids = [f"{n:02d}" for n in range(count)]
    kinds = ["image" if n % 3 == 0 else "text" for n in range(count)]
    index.add(ids, vectors, kinds, [some[0] for some in payloads], sources=[f"/s/{name}/0" for name in ids])
    index.add_places(
        Place(f"/s/{name}/{n}", name, json.dumps(payload))
        for name, some in zip(ids, payloads, strict=True)
        for n, payload in enumerate(some)
    )
    return index, vectors, dict(zip(ids, payloads, strict=True)), dict(zip(ids, kinds, strict=True))


def test_filters_match_if_any_place_fits_whole(where):
    index, vectors, payloads, kinds = filled(where("i"))
    quick = where.engine != "milvus"
    pairs = [
        {"type": join, "filters": list(two)} for join in ("and", "or") for two in itertools.combinations(CONDITIONS, 2)
    ]
    for condition in [*CONDITIONS, *(pairs if quick else pairs[::10])]:
        checked = checked_filter(condition)
        for modality in (None, "text", ["image"]):
            wanted = {
                name
                for name, some in payloads.items()
                if any(matches(kinds[name], payload, checked) for payload in some)
                and (modality is None or kinds[name] in modality)
            }
            hits = index.search(vectors[0], 50, modality, where=condition)[0]
            assert {hit.id for hit in hits} == wanted, condition
            assert {row.id for row in index.page(50, modality=modality, where=condition)} == wanted
            assert index.count(modality, condition) == len(wanted)
            for hit in hits:
                assert matches(hit.modality, hit.payload, checked)
                every = [hit.payload, *hit.other_payloads]
                assert sorted(map(str, every)) == sorted(map(str, payloads[hit.id]))


def test_rows_say_all_their_payloads_and_their_own_stays_first(where):
    index, _, payloads, _ = filled(where("i"))
    rows = [*index.page(50), *index.get(list(payloads)).values(), *(row for part in index.scan(5) for row in part)]
    assert len(rows) == 36
    for row in rows:
        assert [row.payload, *row.other_payloads][0] == payloads[row.id][0]
        assert sorted(map(str, [row.payload, *row.other_payloads])) == sorted(map(str, payloads[row.id]))
    assert index.verify() == []
    again = Index(where("i"))
    assert again.add_places([place("/s/02/1", "02", brand="B", price=50)]) == []


def test_an_index_whose_items_have_one_payload_has_no_table_of_places(tmp_path):
    index = Index(tmp_path / "i")
    index.add(["a"], np.eye(4)[:1], ["text"], [{"n": 1}], sources=["/a"])
    assert index.add_places([place("/b", "a", n=1), place("/c", "gone", n=1)]) == []
    assert index.sources(["/"]) == {("/a", "a"), ("/b", "a")}
    assert (index.stats()["places"], (tmp_path / "i" / "places.lance").exists()) == (0, False)


def test_the_row_takes_another_payload_when_its_own_place_goes(where):
    index = Index(where("i"))
    index.add(["a"], np.eye(4)[:1], ["text"], [{"n": 1}], sources=["/a"])
    index.add_places([place("/b", "a", n=2), place("/c", "a", n=3)])
    assert index.forget_sources([("/a", "a")]) == 0
    row = index.get(["a"])["a"]
    assert (row.payload, row.other_payloads) == ({"n": 2}, ({"n": 3},))
    assert np.allclose(row.vector, np.eye(4)[0])
    assert index.count(where={"type": "eq", "key": "n", "value": 1}) == 0
    index.forget_places([place("/b", "a", n=2)])
    assert index.get(["a"])["a"].payload == {"n": 3}
    assert index.stats()["places"] == 0  # one payload is left: nothing needs to be listed
    assert index.forget_sources([("/b", "a"), ("/c", "a")]) == 1
    assert index.verify() == []


def test_the_last_place_of_an_item_is_not_dropped_alone(where):
    index = Index(where("i"))
    index.add(["a"], np.eye(4)[:1], ["text"], [{"n": 1}], sources=["/a"])
    both = [place("/a", "a", n=1), place("/a", "a", n=2)]
    index.add_places(both)
    index.forget_places(both)
    assert len(index.get(["a"])["a"].other_payloads) == 1


def test_a_row_that_is_replaced_or_deleted_loses_its_places(where):
    index = Index(where("i"))
    for name in "abc":
        index.add([name], np.eye(4)[:1], ["text"], [{"n": 1}], contents=["c"])
        index.add_places([place("/b", name, n=2)])
    index.add(["a"], np.eye(4)[:1], ["text"], [{"n": 9}], contents=["c"])  # another payload
    index.add(["b"], np.eye(4)[:1], ["text"], [{"n": 1}], contents=["other"])  # another content
    index.delete(["c"])
    assert [(row.payload, row.other_payloads) for row in index.page(9)] == [({"n": 9}, ()), ({"n": 1}, ())]
    assert index.count(where={"type": "eq", "key": "n", "value": 2}) == 0
    index.add_places([place("/b", "a", n=2)])
    index.add(["a"], np.eye(4)[:1], ["text"], [{"n": 9}], contents=["c"])  # as it is: a retry
    assert index.get(["a"])["a"].other_payloads == ({"n": 2},)


def test_what_was_given_directly_stays_when_its_file_goes(where):
    index = Index(where("i"))
    index.add(["a", "b"], np.eye(4)[:2], ["text", "text"], sources=[None, "/f"])
    index.add_places([place("/f", "a"), place("", "b")])
    assert index.forget_sources([("/f", "a"), ("/f", "b")]) == 0
    assert len(index) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("/a", "a"), "must be of puma.index.Place"),
        (Place("/a", "a", "[1]"), "must be a JSON object"),
        (Place("/a", "a", "{"), "must be a JSON object"),
        (Place("/a", "\n", "{}"), "control character"),
        (Place("/\udcff", "a", "{}"), "no valid text"),
    ],
)
def test_places_that_cannot_be_stored_are_refused(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        Index(tmp_path / "i", dim=4).add_places([given])


def test_a_damaged_place_is_named(tmp_path):
    index, *_ = filled(tmp_path / "i")
    index._engine._places.table.update(where="id = '02'", values={"payload": '{"brand": "Z"}'})
    assert any("place that is not what was written" in fault and "'02'" in fault for fault in index.verify())


def test_rows_of_an_overwritten_image_in_an_older_index_are_a_fault(tmp_path):
    index = Index(tmp_path / "i")
    payloads = [
        {"image": "/c/a.png"},
        {"image": "/c/a.png"},
        {"image": "/c/b.pdf#page=1"},
        {"image": "/c/b.pdf#page=2"},
    ]
    sources = ["/c/a.png", "/c/a.png", "/c/b.pdf", "/c/b.pdf"]
    index.add(["new", "old", "p1", "p2"], np.eye(4), ["text"] * 4, payloads, sources=sources)
    (fault,) = index.verify()
    assert fault.startswith("2 rows of one image file, which was overwritten")
    assert "'new', 'old'" in fault
    index.forget_sources([("/c/a.png", "old")])
    assert index.verify() == []


def test_an_index_of_the_version_before_opens_and_learns_places(tmp_path):
    """The tables are those of format 2; places and stamps are beside them and may be missing."""
    index = Index(tmp_path / "i")
    index.add(["a"], np.eye(4)[:1], ["text"], [{"n": 1}], sources=["/a"])
    assert sorted(path.name for path in (tmp_path / "i").glob("*.lance")) == ["items.lance", "sources.lance"]
    assert index.stats()["format"] == 2
    again = Index(tmp_path / "i")
    assert (again.places(["/"]), again.stamps(["/"])) == ([], {})
    again.add_places([place("/b", "a", n=2)])
    again.compact()
    assert [row.other_payloads for row in Index(tmp_path / "i").page(1)] == [({"n": 2},)]
