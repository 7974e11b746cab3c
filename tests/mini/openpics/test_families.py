"""Families and the split: what belongs together stays together, and the shares come out."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.mini.openpics.families import Groups, concept_of, families, near_duplicates, split
from puma.mini.openpics.records import ImageRecord


def image(name: str, source: str = "a", **more: object) -> ImageRecord:
    return ImageRecord(f"{source}/{name}", source, "style", name, **more)  # type: ignore[arg-type]


def test_what_belongs_together() -> None:
    names = [
        "dog",
        "brown dog",
        "man farmer",
        "woman farmer",
        "farmer, dark skin tone",
        "flag of peru",
        "flag of chad",
        "sea",
        "lake",
    ]
    found = dict(zip(names, families([image(name) for name in names]), strict=True))
    assert found["dog"] == found["brown dog"]
    assert found["man farmer"] == found["woman farmer"] == found["farmer, dark skin tone"]
    assert found["flag of peru"] != found["flag of chad"]
    assert found["sea"] != found["lake"]


def test_sources_aliases_series_and_near_duplicates_join() -> None:
    images = [
        image("sofa", "a", aliases=("couch",)), image("couch", "b"), image("couches", "c"),
        image("step one", "a", series="s#"), image("other", "a", series="s#"), image("alone", "a"),
        image("twin", "b"),
    ]  # fmt: skip
    found = families(images, near=[(5, 6)])
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4]
    assert found[5] == found[6]
    assert len(set(found)) == 3


def test_a_noun_with_many_kinds_is_a_category() -> None:
    images = [image("flag"), *(image(f"kind{n} flag") for n in range(40))]
    assert len(set(families(images))) == 41


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40), st.randoms())
def test_groups_do_not_depend_on_order(pairs: list[tuple[int, int]], dice: random.Random) -> None:
    def grouped(joins: list[tuple[int, int]]) -> list[str]:
        groups = Groups()
        for one, other in joins:
            groups.join(f"{one:02}", f"{other:02}")
        return [groups.find(f"{n:02}") for n in range(31)]

    shuffled = dice.sample(pairs, len(pairs))
    assert grouped(pairs) == grouped(shuffled)
    slow = {n: {n} for n in range(31)}
    for one, other in pairs:
        merged = slow[one] | slow[other]
        for n in merged:
            slow[n] = merged
    assert grouped(pairs) == [f"{min(slow[n]):02}" for n in range(31)]


def test_near_duplicates_against_the_slow_way() -> None:
    dice = np.random.default_rng(0)
    thumbs = dice.integers(0, 255, (40, 64)).astype(np.uint8)
    thumbs[7] = np.clip(thumbs[3].astype(int) + dice.integers(-4, 5, 64), 0, 255)
    thumbs[20] = thumbs[11]
    used = list(range(2, 40))
    slow = [(i, j) for i in used for j in used if i < j and np.corrcoef(thumbs[i], thumbs[j])[0, 1] > 0.985]
    assert near_duplicates(thumbs, used) == slow == [(3, 7), (11, 20)]
    assert near_duplicates(thumbs, [0]) == []


def test_split_keeps_shares_and_only_tests_the_fit() -> None:
    names = [f"f{n}" for n in range(400) for _ in range(n % 3 + 1)]
    strata = {f"f{n}": "many" if n < 200 else "few" for n in range(400)}
    fit = {f"f{n}": n % 5 > 0 for n in range(400)}
    shares = {"many": {"test": 0.2, "val": 0.1}, "few": {"test": 0.1, "val": 0.05}}
    result = split(names, strata, shares, fit)
    assert Counter(result[f"f{n}"] for n in range(200)) == {"test": 40, "val": 20, "train": 140}
    assert Counter(result[f"f{n}"] for n in range(200, 400)) == {"test": 20, "val": 10, "train": 170}
    assert all(result[name] == "train" for name, able in fit.items() if not able)
    assert split(names[::-1], strata, shares, fit) == result


@pytest.mark.parametrize(("one", "other"), [("Red foxes", "a red fox")])
def test_concepts(one: str, other: str) -> None:
    assert concept_of(image(one)) == concept_of(image(other))
