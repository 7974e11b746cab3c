"""Searches that ask for no modality or for several, over real indexes: against the slow obvious way, page by page."""

from collections import Counter

import numpy as np
import pytest

from puma.errors import InputError
from puma.index import Index
from puma.items import MODALITIES, Item
from puma.search import Searcher
from puma.search.merging import Level, level_of
from puma.search.queries import INSTRUCTIONS
from support.encoders import NamedEncoder
from support.served import png

COUNTS = {"text": 70, "image": 60, "image,text": 55}


class Counting(Index):
    """Counts the searches that are made."""

    asked: list

    def search(self, vectors, k, modality=None, **options):
        self.asked.append(modality)
        return super().search(vectors, k, modality, **options)


def fill(searcher, counts=COUNTS):
    for modality, count in counts.items():
        items = [
            Item(
                f"{modality} {number}" if "text" in modality else None,
                png((number, len(modality), 7)) if "image" in modality else None,
            )
            for number in range(count)
        ]
        names = [f"{modality}-{number:03}" for number in range(count)]
        searcher.add(items, names, [{"even": number % 2 == 0} for number in range(count)])
    searcher.index.asked = []
    searcher.encoder.seen_instructions.clear()
    return searcher


class Shared(NamedEncoder):
    """As NamedEncoder, with half of each vector the modality's own: cosines of different modalities do not compare."""

    def _one(self, item):
        row = super()._one(item)
        row[MODALITIES.index(item.modality)] += 3
        return row


@pytest.fixture
def searcher(tmp_path):
    return fill(Searcher(Shared(24), Counting(tmp_path / "index")))


def obvious(searcher, query, kinds=MODALITIES, instruction=None, keep=lambda row: True):
    """Every row's cosine with the query for its modality, and how far that stands out: all ids in order."""
    rows = [row for batch in searcher.index.scan() for row in batch]
    keys = []
    for kind in kinds:
        words = INSTRUCTIONS["text", kind] if instruction is None else instruction
        vector = searcher.encoder.encode([Item(query)], instruction=words)[0].astype(np.float64)
        own = {row.id: float(row.vector.astype(np.float64) @ vector) for row in rows if row.modality == kind}
        level = level_of(np.array(list(own.values())))
        fits = {row.id for row in rows if keep(row)}
        keys += [(-level.key(round(score, 6)), name) for name, score in own.items() if name in fits]
    return [name for _, name in sorted(keys)]


def ids(hits):
    return [hit.id for hit in hits]


@pytest.mark.parametrize("query", ["bird", "red fox", "something to eat"])
def test_as_the_slow_obvious_way(searcher, query):
    expected = obvious(searcher, query)
    assert ids(searcher.search(query, 185)) == expected
    assert ids(searcher.search(query, 10, exact=True)) == expected[:10]
    assert len({hit.modality for hit in searcher.search(query, 30)}) >= 2
    some = ("image", "image,text")
    assert ids(searcher.search(query, 20, some)) == obvious(searcher, query, some)[:20]
    assert ids(searcher.search(query, 20, instruction="Mine.")) == obvious(searcher, query, instruction="Mine.")[:20]


def test_each_modality_is_searched_once_and_hits_keep_their_cosine(searcher):
    found = searcher.search("bird", 12)
    assert searcher.index.asked == list(MODALITIES)
    assert searcher.encoder.seen_instructions == [INSTRUCTIONS["text", kind] for kind in MODALITIES]
    for kind in MODALITIES:
        alone = {hit.id: hit for hit in searcher.search("bird", 12, kind)}
        assert all(alone[hit.id] == hit for hit in found if hit.modality == kind)
    searcher.index.asked.clear()
    searcher.encoder.calls = 0
    searcher.search("bird", 12, instruction="Mine.")
    assert (searcher.index.asked, searcher.encoder.calls) == (list(MODALITIES), 1)  # one vector for all of them


def test_instructions_of_one_query_are_one_batch_where_the_encoder_takes_that(tmp_path):
    class Mixed(Shared):
        mixed_instructions = True
        batches: list

        def encode(self, items, *, instruction=None):
            if isinstance(instruction, list):
                self.batches.append(len(items))
                return np.concatenate(
                    [super(Mixed, self).encode([i], instruction=w) for i, w in zip(items, instruction, strict=True)]
                )
            return super().encode(items, instruction=instruction)

    mixed, plain = Mixed(24), Shared(24)
    mixed.batches = []
    one = fill(Searcher(mixed, Counting(tmp_path / "index")))
    found = one.search("bird", 20, minus=["fish"])
    assert mixed.batches == [6]
    assert ids(found) == ids(Searcher(plain, tmp_path / "index").search("bird", 20, minus=["fish"]))


def test_pages_join_to_the_whole(searcher):
    for merge in ("calibrated", "rank", "score", "single"):
        whole = searcher.search("bird", 60, merge=merge)
        pages = [searcher.search("bird", 7, offset=start, merge=merge) for start in range(0, 60, 7)]
        assert ids([hit for page in pages for hit in page])[:60] == ids(whole)
    assert len(searcher.search("bird", 500)) == sum(COUNTS.values())
    assert searcher.search("bird", 5, offset=185) == []


def test_the_other_ways_to_merge(searcher):
    lists = {kind: searcher.search("bird", 185, kind) for kind in MODALITIES}
    ranked = searcher.search("bird", 30, merge="rank")
    assert Counter(hit.modality for hit in ranked) == dict.fromkeys(MODALITIES, 10)
    assert {ranked[place].id for place in range(3)} == {lists[kind][0].id for kind in MODALITIES}
    by_score = searcher.search("bird", 185, merge="score")
    everything = sorted((hit for found in lists.values() for hit in found), key=lambda hit: (-hit.score, hit.id))
    assert by_score == everything
    searcher.index.asked.clear()
    searcher.encoder.seen_instructions.clear()
    single = searcher.search("bird", 185, merge="single")
    assert searcher.index.asked == [None]
    assert searcher.encoder.seen_instructions == [INSTRUCTIONS["text", None]]
    assert [hit.score for hit in single] == sorted((hit.score for hit in single), reverse=True)
    for bad in ("best", None):
        with pytest.raises(InputError, match="merge must be one of"):
            searcher.search("bird", merge=bad)
        with pytest.raises(InputError, match="merge must be one of"):
            searcher.search("bird", modality="text", merge=bad)


@pytest.mark.parametrize("kind", MODALITIES)
def test_an_index_of_one_modality_behaves_as_that_modality(tmp_path, kind):
    searcher = fill(Searcher(Shared(24), Counting(tmp_path / "index")), {kind: 12})
    found = searcher.search("bird", 5)
    assert searcher.index.asked == [kind]
    assert searcher.encoder.seen_instructions == [INSTRUCTIONS["text", kind]]
    assert found == searcher.search("bird", 5, kind)


def test_modalities_come_and_go(tmp_path):
    searcher = Searcher(Shared(24), Counting(tmp_path / "index"))
    searcher.index.asked = []
    assert searcher.search("bird", 5) == []
    fill(searcher, {"text": 60})
    assert {hit.modality for hit in searcher.search("bird", 60)} == {"text"}
    other = Searcher(Shared(24), tmp_path / "index")
    other.add([png((3, 200, 3))], ["late"])
    found = searcher.search("bird", 61)
    assert ids(found).count("late") == 1
    assert searcher.search("bird", 5, ("image", "image,text")) == [hit for hit in found if hit.id == "late"]
    searcher.index.delete(["late"])
    searcher.index.asked.clear()
    assert len(searcher.search("bird", 61)) == 60
    assert searcher.search("bird", 5, ("image", "image,text")) == []


def test_filters_and_a_modality_that_they_empty(searcher):
    even = {"type": "eq", "key": "even", "value": True}
    expected = obvious(searcher, "bird", keep=lambda row: row.payload["even"])
    assert ids(searcher.search("bird", 40, where=even)) == expected[:40]
    texts = {"type": "and", "filters": [even, {"type": "eq", "key": "modality", "value": "text"}]}
    assert {hit.modality for hit in searcher.search("bird", 100, where=texts)} == {"text"}


def test_minus_leads_each_modalitys_query_away(searcher):
    plain, led = searcher.search("bird", 30), searcher.search("bird", 30, minus=["fish"])
    assert ids(plain) != ids(led)
    for kind in MODALITIES:
        alone = searcher.search("bird", 30, kind, minus=["fish"])
        own = [hit for hit in led if hit.modality == kind]
        assert own == alone[: len(own)]


def test_a_modality_in_which_nothing_fits_takes_no_place(tmp_path):
    """Texts that are all alike to the query, with greater cosines than any image; ten images that fit."""
    rng = np.random.default_rng(5)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    class Fixed(NamedEncoder):
        def encode(self, items, *, instruction=None):
            return np.tile(np.eye(8, dtype=np.float32)[0], (len(items), 1))

    index = Index(tmp_path / "index", dim=8, fingerprint=Fixed(8).fingerprint)
    texts = np.concatenate([rng.normal(0.8, 0.01, (200, 1)), rng.normal(0, 0.2, (200, 7))], axis=1)
    images = np.concatenate([rng.normal(0.1, 0.02, (200, 1)), rng.normal(0, 0.4, (200, 7))], axis=1)
    images[:10, 0] = 0.7
    index.add([f"t{n}" for n in range(200)], unit(texts), ["text"] * 200)
    index.add([f"i{n}" for n in range(200)], unit(images), ["image"] * 200)
    searcher = Searcher(Fixed(8), index)
    assert {hit.modality for hit in searcher.search("bird", 10, merge="score")} == {"text"}
    assert set(ids(searcher.search("bird", 10))) == {f"i{n}" for n in range(10)}


def test_the_same_again_and_from_another_process_index(searcher, tmp_path):
    again = Searcher(Shared(24), tmp_path / "index")
    for query in ("bird", "car"):
        assert searcher.search(query, 50) == searcher.search(query, 50) == again.search(query, 50)
    many = searcher.search_many(["bird", "car", Item("fox", png((9, 9, 9)))], 20, minus=["sea"])
    assert many[:2] == [searcher.search(query, 20, minus=["sea"]) for query in ("bird", "car")]
    assert searcher.search_many([], 5) == []
    assert Level(0.0, 1.0).key(0.5) == 0.5
