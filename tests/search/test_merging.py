"""Hits of several modalities in one order: closed forms of each way, ties, small modalities, bad input."""

import numpy as np
import pytest

from puma.errors import InputError
from puma.index import Hit
from puma.search.merging import ENOUGH_ROWS, LEAST_SPREAD, Level, checked_merge, level_of, levels, merged


def hits(modality, **scores):
    return [Hit(name, score, modality) for name, score in scores.items()]


def ids(found):
    return [hit.id for hit in found]


def test_by_score_by_rank_and_calibrated():
    lists = {"text": hits("text", a=0.9, b=0.8, c=0.7), "image": hits("image", d=0.6, e=0.2), "image,text": []}
    assert ids(merged(lists, "score")) == ["a", "b", "c", "d", "e"]
    assert ids(merged(lists, "rank")) == ["a", "d", "b", "e", "c"]
    known = {"text": Level(0.7, 0.04), "image": Level(0.1, 0.01), "image,text": Level(0.0, 1.0)}
    # Keys by hand: a .2 / .2 = 1, b .5, c 0; d .5 / .1 = 5, e 1. The tie of a and e goes to the greater cosine.
    assert [round(known[hit.modality].key(hit.score), 9) for hit in lists["text"] + lists["image"]] == [1, 0.5, 0, 5, 1]
    assert ids(merged(lists, "calibrated", known)) == ["d", "a", "e", "b", "c"]


@pytest.mark.parametrize("merge", ["score", "rank", "calibrated"])
def test_what_is_equal_goes_by_id_whatever_the_lists_order(merge):
    lists = {"text": hits("text", b=0.5, d=0.5), "image": hits("image", a=0.5, c=0.5)}
    known = dict.fromkeys(lists, Level(0.1, 0.04))
    found = ids(merged(lists, merge, known))
    assert found == (["a", "b", "c", "d"])
    assert ids(merged(dict(reversed(lists.items())), merge, known)) == found


@pytest.mark.parametrize("merge", ["score", "rank", "calibrated"])
def test_the_first_n_need_only_the_first_n_of_each_list(merge):
    rng = np.random.default_rng(3)
    lists = {}
    for name in ("text", "image", "image,text"):
        scores = np.sort(np.round(rng.normal(0.3, 0.1, 30), 2))[::-1]  # with ties
        found = [Hit(f"{name}{place:02}", float(score), name) for place, score in enumerate(scores)]
        lists[name] = sorted(found, key=lambda hit: (-hit.score, hit.id))
    known = {"text": Level(0.3, 0.1), "image": Level(0.2, 0.2), "image,text": Level(0.25, 0.05)}
    whole = merged(lists, merge, known)
    assert len(whole) == 90
    for n in (1, 2, 7, 30):
        assert merged({name: found[:n] for name, found in lists.items()}, merge, known)[:n] == whole[:n]


def test_rank_is_reciprocal_rank_fusion_for_any_constant():
    lists = {"text": hits("text", a=0.9, b=0.4, c=0.3), "image": hits("image", d=0.8, e=0.7)}
    for constant in (0, 60, 1000):
        fused = [
            (-1 / (constant + place), -hit.score, hit.id)
            for found in lists.values()
            for place, hit in enumerate(found, start=1)
        ]
        assert [name for *_, name in sorted(fused)] == ids(merged(lists, "rank"))


def test_the_level_of_a_sample():
    assert level_of(np.array([0.1, 0.2, 0.3, 0.6])) == Level(0.3, pytest.approx(0.3))  # above .3 only .6
    assert level_of(np.array([0.4])) == Level(0.4, LEAST_SPREAD)
    assert level_of(np.full(9, 0.25)) == Level(0.25, LEAST_SPREAD)


def test_levels_from_samples_and_with_few_rows_from_the_whole_index():
    rng = np.random.default_rng(0)
    samples = {"text": rng.normal(size=(400, 8)).astype(np.float32), "image": np.eye(8, dtype=np.float32)[:1]}
    vectors = {"text": np.eye(8, dtype=np.float32)[2], "image": np.eye(8, dtype=np.float32)[0]}
    found = levels(vectors, samples)
    assert found["text"] == level_of(samples["text"][:, 2])
    everything = level_of(np.append(samples["text"][:, 2], np.float32(1)))
    share = 1 / ENOUGH_ROWS
    assert found["image"].mean == pytest.approx(share * 1 + (1 - share) * everything.mean)
    assert found["image"].spread == pytest.approx(share * LEAST_SPREAD + (1 - share) * everything.spread)
    # So a single captioned image that fits stands out, though its sample is itself alone.
    assert found["image"].key(1.0) > found["text"].key(0.9)
    assert levels({}, samples) == {}


def test_nothing_found_anywhere():
    assert merged({}, "score") == merged({"text": [], "image": []}, "rank") == []


@pytest.mark.parametrize("bad", ["", "best", None, 3, ["rank"]])
def test_an_unknown_way_is_named(bad):
    with pytest.raises(InputError, match="merge must be one of 'calibrated', 'rank', 'score', 'single', got"):
        checked_merge(bad)
