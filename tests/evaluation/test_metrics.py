"""Hit rate, recall and chance: hand-made cases, a slow definition, simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.evaluation.metrics import (
    chance_hit_rate,
    chance_mrr,
    chance_ndcg,
    chance_recall,
    find,
    hit_rate_at_k,
    hit_rate_from_ranks,
    means,
    mrr_at_k,
    mrr_from_ranks,
    ndcg_at_k,
    ndcg_from_ranks,
    ranks_of_positives,
    recall_at_k,
    recall_from_ranks,
)

QRELS = {"q1": {"a": 1}, "q2": {"b": 1, "c": 2, "z": 0}}


def test_by_hand():
    run = {"q1": {"a": 0.5, "x": 0.9}, "q2": {"b": 0.9, "z": 0.8, "c": 0.7}}
    assert hit_rate_at_k(QRELS, run, 1) == 0.5  # q1 second, q2 first
    assert hit_rate_at_k(QRELS, run, 2) == 1.0
    assert recall_at_k(QRELS, run, 1) == (0 + 1 / 2) / 2
    assert recall_at_k(QRELS, run, 2) == (1 + 1 / 2) / 2
    assert recall_at_k(QRELS, run, 3) == 1.0


def test_a_tie_with_a_wrong_candidate_counts_against_us():
    everything_equal = {"q1": dict.fromkeys("axyz", 1.0)}
    assert hit_rate_at_k({"q1": {"a": 1}}, everything_equal, 3) == 0.0
    assert hit_rate_at_k({"q1": {"a": 1}}, everything_equal, 4) == 1.0


def test_tied_positives_share_their_places():
    run = {"q": {"a": 1.0, "b": 1.0, "x": 0.5}}
    assert hit_rate_at_k({"q": {"a": 1, "b": 1}}, run, 1) == 1.0
    assert recall_at_k({"q": {"a": 1, "b": 1}}, run, 1) == 0.5
    assert recall_at_k({"q": {"a": 1, "b": 1}}, run, 2) == 1.0


def test_a_missing_query_is_a_miss_and_an_unjudged_one_is_ignored():
    assert hit_rate_at_k({"q1": {"a": 1}, "q2": {"b": 1}}, {"q1": {"a": 1.0}, "other": {"b": 1.0}}, 1) == 0.5
    assert hit_rate_at_k({"q1": {"a": 1}, "q2": {"b": 0}}, {"q1": {"a": 1.0}}, 1) == 1.0  # q2 has no positive


def test_nan_never_ranks():
    assert hit_rate_at_k({"q": {"a": 1}}, {"q": {"a": math.nan}}, 10) == 0.0
    assert hit_rate_at_k({"q": {"a": 1}}, {"q": {"x": math.nan, "a": -5.0}}, 1) == 1.0


def test_a_positive_that_was_never_ranked_lowers_recall():
    assert recall_at_k({"q": {"a": 1, "b": 1}}, {"q": {"a": 1.0}}, 10) == 0.5


def test_ndcg_and_mrr_by_hand():
    run = {"q1": {"a": 0.5, "x": 0.9}, "q2": {"b": 0.9, "z": 0.8, "c": 0.7}}
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    best = 2 + 1 * second  # c is graded 2, b 1
    assert ndcg_at_k(QRELS, run, 10) == pytest.approx((second + (1 + 2 * third) / best) / 2)
    assert ndcg_at_k(QRELS, run, 1) == pytest.approx((0 + 1 / 2) / 2)
    assert mrr_at_k(QRELS, run, 10) == (1 / 2 + 1) / 2
    assert mrr_at_k(QRELS, run, 1) == (0 + 1) / 2


def test_among_tied_positives_the_lower_grade_comes_first():
    tied = {"q": {"b": 1.0, "c": 1.0}}
    assert ndcg_at_k({"q": {"b": 1, "c": 2}}, tied, 1) == 1 / 2
    assert find({"q": {"b": 1, "c": 2}}, tied)[0].gains.tolist() == [1.0, 2.0]
    assert ndcg_at_k({"q": {"b": 1, "c": 2}}, {"q": {"b": 1.0, "x": 1.0}}, 1) == 0.0


@pytest.mark.parametrize("k", [0, -1, 1.5, "5", True, None])
def test_k_below_one_is_an_input_error(k):
    for metric in (hit_rate_at_k, recall_at_k, ndcg_at_k, mrr_at_k):
        with pytest.raises(InputError, match="k must be an integer of at least 1"):
            metric(QRELS, {}, k)


@pytest.mark.parametrize("qrels", [{}, {"q": {}}, {"q": {"a": 0}}])
def test_nothing_to_average_is_an_input_error(qrels):
    for metric in (hit_rate_at_k, recall_at_k, ndcg_at_k, mrr_at_k):
        with pytest.raises(InputError, match="no query with a positive"):
            metric(qrels, {}, 1)


def slow(qrels, run, k):
    """The definition, spelt out: list the candidates, worst order among ties, look at the first k."""
    hits, recalls = [], []
    for qid, grades in qrels.items():
        right = {did for did, grade in grades.items() if grade > 0}
        if not right:
            continue
        scores = {did: score for did, score in run.get(qid, {}).items() if not math.isnan(score)}
        top = sorted(scores, key=lambda did: (-scores[did], did in right))[:k]
        hits.append(any(did in right for did in top))
        recalls.append(sum(did in right for did in top) / len(right))
    return sum(hits) / len(hits), sum(recalls) / len(recalls)


@given(
    scores=st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, math.nan]), min_size=1, max_size=9), min_size=1, max_size=5
    ),
    rights=st.lists(st.sets(st.integers(0, 11), min_size=1), min_size=5, max_size=5),
    k=st.integers(1, 12),
)
@settings(max_examples=300, deadline=None)
def test_metrics_equal_the_slow_definition(scores, rights, k):
    run = {f"q{n}": {f"d{m}": score for m, score in enumerate(row)} for n, row in enumerate(scores)}
    qrels = {f"q{n}": {f"d{m}": 1 for m in right} for n, right in enumerate(rights)}
    hit, recall = slow(qrels, run, k)
    assert hit_rate_at_k(qrels, run, k) == pytest.approx(hit)
    assert recall_at_k(qrels, run, k) == pytest.approx(recall)


@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 6), pool=st.integers(1, 12), k=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_ranks_over_a_matrix_equal_the_plain_functions(seed, queries, pool, k):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (queries, pool)) / 4.0
    positives = [random.permutation(pool)[: random.integers(1, pool + 1)] for _ in range(queries)]
    ranks = ranks_of_positives(scores, positives)
    run = {str(n): {str(m): score for m, score in enumerate(row)} for n, row in enumerate(scores)}
    qrels = {str(n): {str(m): 1 for m in columns} for n, columns in enumerate(positives)}
    assert hit_rate_from_ranks(ranks, k) == pytest.approx(hit_rate_at_k(qrels, run, k))
    totals = [len(columns) for columns in positives]
    assert recall_from_ranks(ranks, totals, k) == pytest.approx(recall_at_k(qrels, run, k))


@pytest.mark.parametrize(("pool", "positives", "k"), [(10, 1, 1), (10, 3, 2), (7, 2, 5), (5, 5, 1), (6, 2, 9)])
def test_chance_equals_a_simulation(pool, positives, k):
    random = np.random.default_rng(0)
    scores = random.random((20_000, pool))
    ranks = ranks_of_positives(scores, [np.arange(positives)] * len(scores))
    assert chance_hit_rate(pool, positives, k) == pytest.approx(hit_rate_from_ranks(ranks, k), abs=0.015)
    assert chance_recall(pool, k) == pytest.approx(recall_from_ranks(ranks, [positives] * len(scores), k), abs=0.015)


@pytest.mark.parametrize(("pool", "grades", "k"), [(10, [1], 3), (10, [2, 1, 1], 2), (7, [3, 1], 10), (5, [1] * 5, 3)])
def test_chance_of_ndcg_and_mrr_equals_a_simulation(pool, grades, k):
    random = np.random.default_rng(0)
    draws = 20_000
    places = np.argsort(random.random((draws, pool)), axis=1)[:, : len(grades)] + 1
    order = np.argsort(places, axis=1)
    ranks = np.take_along_axis(places, order, axis=1)
    gains = np.array(grades, dtype=float)[order]
    ideal = np.array(sorted(grades, reverse=True), dtype=float)
    assert chance_mrr(pool, len(grades), k) == pytest.approx(mrr_from_ranks(list(ranks), k), abs=0.01)
    drawn = ndcg_from_ranks(list(ranks), list(gains), [ideal] * draws, k)
    assert chance_ndcg(pool, grades, ideal, k) == pytest.approx(drawn, abs=0.01)


def test_chance_of_mrr_equals_all_orders():
    def exact(pool, positives, k):
        orders = list(itertools.combinations(range(1, pool + 1), positives))
        return sum(1 / min(order) if min(order) <= k else 0 for order in orders) / len(orders)

    for pool, positives, k in [(6, 1, 3), (6, 2, 6), (7, 3, 2), (4, 4, 10)]:
        assert chance_mrr(pool, positives, k) == pytest.approx(exact(pool, positives, k), abs=1e-12)
    assert chance_mrr(6, 0, 3) == 0.0
    with pytest.raises(InputError):
        chance_mrr(3, 4, 1)


@given(
    ranks=st.lists(st.sets(st.integers(1, 30)), min_size=1, max_size=6),
    extra=st.integers(0, 3),
    k=st.integers(1, 30),
)
@settings(max_examples=150, deadline=None)
def test_how_the_figures_stand_to_one_another(ranks, extra, k):
    rows = [np.array(sorted(row), dtype=np.int64) for row in ranks]
    totals = [len(row) + extra + (not len(row)) for row in rows]
    gains, ideals = [np.ones(len(row)) for row in rows], [np.ones(total) for total in totals]
    hit, recall = hit_rate_from_ranks(rows, k), recall_from_ranks(rows, totals, k)
    ndcg, mrr = ndcg_from_ranks(rows, gains, ideals, k), mrr_from_ranks(rows, k)
    assert 0 <= recall <= hit <= 1
    assert hit / k - 1e-12 <= mrr <= hit
    assert 0 <= ndcg <= hit + 1e-12
    assert hit <= hit_rate_from_ranks(rows, k + 1)
    assert mrr <= mrr_from_ranks(rows, k + 1)


def test_chance_equals_the_closed_form():
    for pool, positives, k in [(500, 1, 10), (500, 4, 5), (20, 15, 10)]:
        closed = 1 - math.comb(pool - positives, k) / math.comb(pool, k)
        assert chance_hit_rate(pool, positives, k) == pytest.approx(closed, abs=1e-12)
    with pytest.raises(InputError):
        chance_hit_rate(3, 4, 1)


def test_means_leaves_out_what_a_row_lacks():
    assert means([{"x": 0.2, "y": 1}, {"x": 0.4}], ["x", "y"]) == {"x": pytest.approx(0.3)}
    assert means([], ["x"]) == {}
