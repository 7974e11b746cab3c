"""Two stages on run files: what each weight gives, ties, the tail, and a reranker that knows the answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.errors import DataError, InputError
from puma.evaluation.metrics import hit_rate_at_k
from puma.items import Item
from puma.search.reranking import combined, second_stage

ITEMS = {f"d{n}": Item(text=f"d{n}") for n in range(12)}
QUERIES = {"q": Item(text="q")}


class Named:
    """Scores by name; remembers its calls."""

    def __init__(self, scores):
        self.scores, self.calls = scores, []

    def rerank(self, query, instruction, candidates):
        self.calls.append((query.text, instruction, [item.text for item in candidates]))
        return np.array([self.scores.get(item.text, 0.0) for item in candidates], dtype=np.float32)


RUNS = st.dictionaries(st.sampled_from(sorted(ITEMS)), st.integers(-5, 5).map(lambda n: n / 10), min_size=1)


@given(RUNS, st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 13))
def test_a_reranker_that_knows_nothing_changes_no_figure(scores, weight, depth):
    run = {"q": scores}
    second = second_stage(Named({}), run, QUERIES, ITEMS, None, depth=depth)
    after = combined(run, second, weight)
    assert set(after["q"]) == set(scores)
    for did in scores:
        for k in (1, 2, 5):
            old, new = (hit_rate_at_k({"q": {did: 1}}, found, k) for found in (run, after))
            assert new == old if weight < 1 else new <= old  # alone it ties everything, and ties count against us


@given(RUNS, st.integers(1, 13))
def test_weight_0_is_the_first_stage_bit_for_bit(scores, depth):
    run = {"q": scores}
    after = combined(run, second_stage(Named({"d1": 5.0}), run, QUERIES, ITEMS, None, depth=depth), 0.0)["q"]
    ranked = sorted(scores, key=lambda did: (-scores[did], did))
    assert sorted(after, key=lambda did: (-after[did], did)) == ranked
    assert all(after[did] == scores[did] for did in ranked[:depth])


def test_the_first_by_the_second_stage_come_before_all_others():
    run = {"q": {"d0": 0.9, "d1": 0.8, "d2": 0.7, "d3": 0.6, "d4": 0.5}}
    reranker = Named({"d0": -9.0, "d1": -8.0, "d3": 100.0})
    second = second_stage(reranker, run, QUERIES, ITEMS, "Find.", depth=2)
    assert reranker.calls == [("q", "Find.", ["d0", "d1"])]
    after = combined(run, second, 1.0)["q"]
    assert sorted(after, key=lambda did: -after[did]) == ["d1", "d0", "d2", "d3", "d4"]
    assert after["d2"] - after["d3"] == pytest.approx(0.1)


def test_who_ties_with_the_last_comes_along():
    run = {"q": {"d0": 0.9, "d1": 0.5, "d2": 0.5, "d3": 0.5, "d4": 0.1}}
    assert set(second_stage(Named({}), run, QUERIES, ITEMS, None, depth=2)["q"]) == {"d0", "d1", "d2", "d3"}


def test_between_the_two_the_scores_are_mixed():
    run, second = {"q": {"d0": 0.5, "d1": 0.4}}, {"q": {"d0": 0.0, "d1": 1.0}}
    assert combined(run, second, 0.25)["q"] == {"d0": 0.375, "d1": pytest.approx(0.55)}


def test_faults():
    run = {"q": {"d0": 0.5}}
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="weight="):
            combined(run, {}, weight)
    with pytest.raises(InputError, match="depth=0"):
        second_stage(Named({}), run, QUERIES, ITEMS, None, depth=0)
    with pytest.raises(DataError, match="names q, which"):
        second_stage(Named({}), run, {}, ITEMS, None)
    with pytest.raises(DataError, match="names other, which"):
        second_stage(Named({}), {"q": {"other": 1.0}}, QUERIES, ITEMS, None)
