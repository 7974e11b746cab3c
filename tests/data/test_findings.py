"""Compact id sets against plain dicts; images looked up and sampled."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from puma.data.findings import BROKEN_IMAGE, LISTED, MISSING_IMAGE, Findings, Ids, Images, code_of, id_of, pairs_of
from puma.errors import InputError

IDS = st.tuples(st.integers(0, 12), st.integers(0, 2**40 - 1)).map(lambda pair: f"{pair[0]}:{pair[1]}")


@given(IDS)
def test_an_id_survives_its_number(identity):
    assert id_of(code_of(identity)) == identity


def test_numbers_too_large_have_no_code():
    assert code_of(f"3:{2**40}") is None
    assert code_of(f"{2**22}:1") is None


@given(st.lists(st.integers(0, 30), max_size=60), st.lists(st.integers(0, 40), max_size=20))
def test_ids_find_what_a_dict_finds(codes, asked):
    ids, first, again = Ids(), {}, []
    for line, code in enumerate(codes, start=1):
        ids.add(code, line, digest=code * 7)
        if code in first:
            again.append((code, first[code], line))
        first.setdefault(code, line)
    assert sorted(ids.close()) == sorted(again)
    found = ids.find(asked)
    assert [place >= 0 for place in found] == [code in first for code in asked]
    assert [ids.digests[place] for place, code in zip(found, asked, strict=True) if place >= 0] == [
        code * 7 for code in asked if code in first
    ]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_pairs_are_a_set_in_order(pairs):
    made = pairs_of((q for q, _ in pairs), (d for _, d in pairs))
    assert [tuple(pair) for pair in made.tolist()] == sorted(set(pairs))


def test_only_the_first_faults_are_listed_but_all_are_counted():
    findings = Findings("x")
    for line in range(LISTED + 5):
        findings.add("odd", "a", line, "m")
    findings.add("odd", "b", 1, "m")
    assert findings.counts == Counter(odd=LISTED + 6)
    assert len(findings.faults) == LISTED + 1
    assert (findings.count_in("a", "odd"), findings.count_in("b", "odd"), findings.count_in("b", "even")) == (25, 1, 0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(20):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def look(root: Path, wanted: str | int, order=range(21)) -> Findings:
    findings = Findings(str(root))
    images = Images(root, findings, wanted)
    for number in order:
        images.look(f"{number}.png", "file", number + 1)
        images.look(f"{number}.png", "again", number + 1)
    images.look(None, "file", 99)
    images.finish()
    return findings


def test_all_images_are_opened(images: Path):
    findings = look(images, "all")
    assert findings.counts == {MISSING_IMAGE: 2, BROKEN_IMAGE: 2}
    assert (findings.images, findings.opened) == (42, 40)
    assert "shows 20.png, which is missing" in findings.faults[-1].message
    broken = next(fault for fault in findings.faults if fault.kind == BROKEN_IMAGE)
    assert (broken.line, broken.message.startswith("shows 7.png, which cannot be used: ")) == (8, True)


def test_a_sample_does_not_depend_on_the_order(images: Path):
    found = {number: look(images, number) for number in (0, 5, 19, 100)}
    assert [findings.opened for findings in found.values()] == [0, 5, 19, 20]
    assert all(findings.counts[MISSING_IMAGE] == 2 for findings in found.values())
    assert found[100].counts[BROKEN_IMAGE] == 1
    chance = np.random.default_rng(0)
    for _ in range(5):
        order = [int(number) for number in chance.permutation(21)]
        for number in (5, 12):
            counted = look(images, number, order)
            assert (counted.counts, counted.opened) == (look(images, number).counts, number)


def test_none_looks_at_nothing(images: Path):
    findings = look(images, "none")
    assert (findings.images, findings.opened, findings.total) == (0, 0, 0)


@pytest.mark.parametrize("wanted", ["some", -1, "-3", True, "1.5"])
def test_another_number_of_images_is_refused(tmp_path: Path, wanted):
    with pytest.raises(InputError, match="all, none or how many"):
        Images(tmp_path, Findings("x"), wanted)
