"""Hard negatives, chosen: against a slow, obvious version; every guard alone; bad rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.errors import InputError
from puma.training.mining import Rules, choose, choose_above
from puma.training.mining.choosing import UNKNOWN

DISTINCT = np.arange(100)


def slow(scores, order, positives, contents, rules, alike):
    """One candidate after the other, by falling score."""
    limit = None
    if rules.margin is not None:
        own = [scores[column] for column in positives if not np.isnan(scores[column])]
        if not own:
            return []
        limit = max(own) + rules.margin
    refused = {contents[column] for column in positives} | set(alike)
    taken, seen, passed = [], set(), 0
    scored = [column for column in range(len(scores)) if not np.isnan(scores[column]) and column not in positives]
    for column in sorted(scored, key=lambda column: (-scores[column], order[column])):
        code = contents[column]
        if code != UNKNOWN and (code in refused or code in seen):
            continue
        seen.add(code)
        passed += 1
        if passed <= rules.skip_top or (limit is not None and scores[column] > limit + 1e-9):
            continue
        taken.append(column)
    return taken[: rules.negatives]


@st.composite
def cases(draw):
    count = draw(st.integers(1, 25))
    value = st.one_of(st.integers(-3, 3).map(lambda tenth: tenth / 10), st.just(float("nan")))
    scores = np.array(draw(st.lists(value, min_size=count, max_size=count)))
    contents = np.array(draw(st.lists(st.integers(UNKNOWN, 12), min_size=count, max_size=count)))
    order = np.array(draw(st.permutations(range(count))))
    positives = sorted(draw(st.sets(st.integers(0, count - 1), max_size=3)))
    margin = draw(st.one_of(st.none(), st.sampled_from([-0.2, 0.0, 0.1])))
    rules = Rules(draw(st.integers(1, 6)), draw(st.integers(0, 4)), margin)
    return scores, order, positives, contents, rules, draw(st.sets(st.integers(0, 12), max_size=2))


@given(cases())
def test_equals_the_slow_way(case):
    scores, order, positives, contents, rules, alike = case
    found = choose(scores, order, positives, contents, rules, alike=alike)
    assert found.columns == slow(*case)
    assert not set(found.columns) & set(positives)


def test_the_margin_is_added_and_holds_for_negative_scores_too():
    scores = np.array([-0.5, -0.45, -0.4, -0.6])  # a ratio of the positive's score would turn around here
    pick = lambda margin: choose(scores, DISTINCT[:4], [0], DISTINCT[:4], Rules(9, 0, margin)).columns  # noqa: E731
    assert pick(None) == [2, 1, 3]
    assert pick(0.05) == [1, 3]
    assert pick(0.0) == [3]
    assert pick(-0.2) == []


def test_a_score_exactly_at_the_margin_stays():
    scores = np.array([0.7, 0.8, 0.1])
    assert choose(scores, DISTINCT[:3], [0], DISTINCT[:3], Rules(1, 0, 0.1)).columns == [1]


def test_the_best_positive_sets_the_margin():
    scores = np.array([0.1, 0.6, 0.5, 0.7])
    assert choose(scores, DISTINCT[:4], [0, 1], DISTINCT[:4], Rules(9, 0, 0.0)).columns == [2]


def test_contents_of_positives_and_of_the_query_are_guarded_and_counted():
    scores, contents = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([4, 4, 5, 6, 6])
    found = choose(scores, DISTINCT[:5], [0], contents, Rules(9, 0, None), alike={5})
    assert found.columns == [3]  # 1 is the positive again, 2 the query again, 4 is 3 again
    assert (found.alike, found.beyond, found.judged) == (2, 0, True)


def test_without_a_scored_positive_a_margin_chooses_nothing():
    scores = np.array([np.nan, 0.8])
    assert choose(scores, DISTINCT[:2], [0], DISTINCT[:2], Rules(1, 0, 0.0)).judged is False
    assert choose(scores, DISTINCT[:2], [0], DISTINCT[:2], Rules(1, 0, None)).columns == [1]


def test_only_part_of_a_large_pool_is_sorted_and_the_result_is_whole():
    random = np.random.default_rng(0)
    scores, contents = np.round(random.normal(size=5000), 2), random.integers(0, 40, 5000)
    order, rules = random.permutation(5000), Rules(30, 3, 1.0)
    positives = [7]
    assert choose(scores, order, positives, contents, rules).columns == slow(
        scores, order, positives, contents, rules, ()
    )


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ({"negatives": 0}, "negatives=0"),
        ({"skip_top": -1}, "skip_top=-1"),
        ({"margin": float("nan")}, "margin=nan"),
    ],
)
def test_rules_out_of_range_are_refused(fault, match):
    with pytest.raises(InputError, match=match):
        Rules(**fault)


@given(cases())
def test_above_equals_the_slow_way(case):
    scores, order, positives, contents, rules, _ = case
    floor = 0.1 if positives else float("nan")
    others = [column for column in range(len(scores)) if scores[column] >= floor - 1e-9]
    taken, seen = [], set()
    for column in sorted(others, key=lambda column: (-scores[column], order[column])):
        if contents[column] == UNKNOWN or contents[column] not in seen:
            seen.add(contents[column])
            taken.append(column)
    assert choose_above(scores, order, floor, contents, rules.negatives) == taken[: rules.negatives]


def test_above_takes_ties_and_no_margin():
    scores = np.array([0.3, 0.9, 0.7 + 0.1, 0.5])
    found = choose_above(scores, np.arange(4), 0.8, DISTINCT[:4], 5)
    assert found == [1, 2]
    assert choose_above(scores, np.arange(4), float("nan"), DISTINCT[:4], 5) == []


def test_a_count_of_other_modalities_below_zero_is_refused():
    with pytest.raises(InputError, match="other_modality=-1: give 0 or more"):
        Rules(other_modality=-1)
