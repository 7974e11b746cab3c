"""The random sample of an index's rows: which rows, how many, when it is drawn again."""

import numpy as np
import pytest

from puma.index import Index, sampling
from puma.index.sampling import SAMPLED, scrambled


def units(count, dim=8, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(path, **counts):
    index = Index(path, dim=8)
    for place, (kind, count) in enumerate(counts.items()):
        kinds = [kind.replace("captioned", "image,text")] * count
        index.add([f"{kind}{n}" for n in range(count)], units(count, seed=place), kinds)
    return index


def as_set(rows):
    return {row.tobytes() for row in rows}


def test_all_rows_where_they_are_few_and_only_modalities_that_there_are(tmp_path):
    assert Index(tmp_path / "none").sample() == {}
    assert Index(tmp_path / "empty", dim=8).sample() == {}
    found = filled(tmp_path / "index", text=30, captioned=2).sample()
    assert list(found) == ["text", "image,text"]
    assert as_set(found["text"]) == as_set(units(30))
    assert as_set(found["image,text"]) == as_set(units(2, seed=1))
    assert found["text"].dtype == np.float32


def test_a_large_modality_is_sampled_evenly_over_its_rows_and_always_the_same(tmp_path):
    index = filled(tmp_path / "index", text=4000, image=20)
    found = index.sample()
    assert found["text"].shape == (SAMPLED, 8)
    assert found["image"].shape == (20, 8)
    order = {row.tobytes(): place for place, row in enumerate(units(4000))}
    places = np.array([order[row.tobytes()] for row in found["text"]])
    assert len(set(places.tolist())) == SAMPLED
    quarters = np.bincount(places // 1000, minlength=4)
    assert quarters.min() > 200  # 250 each on average, with a standard deviation of 12
    again = Index(tmp_path / "index").sample()
    assert all((again[name] == found[name]).all() for name in found)
    assert index.sample() is found


def test_few_new_rows_change_few_of_the_sample(tmp_path):
    index = filled(tmp_path / "index", text=4000)
    before = as_set(index.sample()["text"])
    index.add([f"new{n}" for n in range(40)], units(40, seed=9), ["text"] * 40)
    assert len(before & as_set(index.sample()["text"])) >= SAMPLED - 40


def test_a_large_index_is_sampled_again_only_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "REDRAWN_ROWS", 50)
    index = filled(tmp_path / "index", text=200, image=100)
    found = index.sample()
    index.add(["one"], units(1, seed=5), ["text"])
    assert index.sample() is found
    for n in range(3):  # each a small change, together more than a fiftieth
        index.add([f"more{n}"], units(1, seed=6 + n), ["text"])
        index.sample()
    index.add(["last"], units(1, seed=20), ["text"])
    assert len(index.sample()["text"]) == 205
    index.add(["first captioned"], units(1, seed=30), ["image,text"])
    assert "image,text" in index.sample()  # a modality that is new is seen at once
    index.delete(["first captioned"])
    assert "image,text" not in index.sample()


@pytest.mark.parametrize("shift", [0, 2**32])
def test_scrambled_is_a_permutation(shift):
    numbers = np.arange(shift, shift + 5000, dtype=np.uint64)
    found = scrambled(numbers)
    assert len(set(found.tolist())) == 5000
    assert found.dtype == np.uint64
    halves = found > np.uint64(2**63)
    assert 2300 < halves.sum() < 2700
