"""The score that decides: one value per pair of rows, however it is come by, and the bound on the fast products."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.index.exact.matrices import open_source
from puma.index.exact.rescoring import block_scores, in_order, lowered, pair_scores, score_bound, stored_scores
from puma.index.exact.small import rounded


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def all_pairs(queries, candidates):
    lines, columns = np.divmod(np.arange(len(queries) * len(candidates)), len(candidates))
    return pair_scores(queries[lines], candidates[columns]).reshape(len(queries), len(candidates))


@pytest.mark.parametrize("dim", [3, 64, 576, 3584])
def test_products_stay_within_the_bound_of_the_score(dim):
    queries, candidates = units(50, dim), units(700, dim, seed=1)
    candidates[:50] = queries * np.float32(1.009)  # the longest rows that are let in
    off = np.abs(np.clip(queries @ candidates.T, -1, 1) - all_pairs(queries, candidates))
    assert 0 < off.max() <= score_bound(dim)


def test_the_score_of_a_pair_depends_on_nothing_else():
    queries, candidates = units(37, 577), units(37, 577, seed=1)
    together = pair_scores(queries, candidates)
    assert together.tolist() == [pair_scores(q[None], c[None])[0] for q, c in zip(queries, candidates, strict=True)]
    raw = np.empty(candidates.nbytes + 64, dtype=np.uint8)
    for shift in (4, 20, 36):  # another place in memory
        moved = raw[shift : shift + candidates.nbytes].view(np.float32).reshape(candidates.shape)
        moved[...] = candidates
        assert (pair_scores(queries[::-1], moved[::-1]) == together[::-1]).all()


def test_whole_blocks_equal_pairs_where_roundings_are_at_stake():
    random = np.random.default_rng(0)
    signs = (np.sign(random.normal(size=(60, 256))) / 16).astype(np.float32)  # scores are multiples of 1/128, and
    scores = all_pairs(signs, signs)  # those of 1/128 itself lie halfway between two numbers of six decimals
    assert ((np.abs(signs.astype(np.float64) @ signs.T * 1e6) % 1) == 0.5).any()
    assert (block_scores(signs, signs) == scores).all()
    queries, candidates = units(30, 91), units(400, 91, seed=1)
    assert (block_scores(queries, candidates) == all_pairs(queries, candidates)).all()
    assert (block_scores(queries, candidates) == rounded(queries.astype(np.float64) @ candidates.T)).all()


def halfway(query, count):
    """Rows whose score with the query lies halfway between two numbers of six decimals, as near as doubles can tell."""
    rows = units(count, len(query) - 5, seed=4) * np.float32(0.9)
    rows = np.concatenate([rows, np.zeros((count, 5), dtype=np.float32)], axis=1)
    for row in rows:
        for place in range(-5, 0):  # every place takes the rest down by the precision of a float32
            exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, row, strict=True))
            wanted = Fraction(2 * int(exact * 10**6) + 1, 2 * 10**6)
            row[place] = np.float32(float((wanted - exact) / Fraction(float(query[place]))))
    return rows


def test_whole_blocks_equal_pairs_halfway_between_two_roundings():
    query = units(1, 120)[0]
    query[-5:] = 0.25
    query = (query / np.linalg.norm(query)).astype(np.float32)
    rows = halfway(query, 300)
    wide = query.astype(np.float64), rows.astype(np.float64)
    sums = {tuple(rounded(way)) for way in (wide[1] @ wide[0], (wide[1] * wide[0]).sum(axis=1), np.vecdot(*wide))}
    assert len(sums) > 1  # the order of summation does turn roundings here
    queries = np.repeat(query[None], 3, axis=0)
    assert (block_scores(queries, rows) == pair_scores(np.repeat(query[None], 300, axis=0), rows)).all()
    assert (pair_scores(rows, np.repeat(query[None], 300, axis=0)) == block_scores(rows, queries).T).all()


@given(st.floats(-1.2, 1.2), st.floats(0, 1e-3), st.floats(-1.01, 1.01))
def test_thresholds_never_rule_out_what_may_still_win(best, bound, product):
    threshold = lowered(np.array([best], dtype=np.float32), 2 * bound)[0]
    if np.float32(product) < threshold:
        # Even at the far end of its range, the score is below the near end of the best one's.
        assert min(product, 1) + bound < max(min(float(np.float32(best)), 1), -1) - bound + 1e-7


def test_stored_scores_come_in_the_order_asked():
    queries, candidates = units(9, 33), units(500, 33, seed=1)
    random = np.random.default_rng(2)
    rows, places = random.integers(0, 9, 3000), random.integers(0, 500, 3000)
    with open_source(candidates) as source:
        assert (stored_scores(queries, source, rows, places) == pair_scores(queries[rows], candidates[places])).all()
        assert len(stored_scores(queries, source, rows[:0], places[:0])) == 0


@given(st.data())
@settings(max_examples=60)
def test_order_is_by_score_then_place(data):
    counts = np.array(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5)))
    k = data.draw(st.integers(1, 10))
    total = int(counts.sum())
    scores = np.array(
        data.draw(st.lists(st.sampled_from([-1.0, -0.000001, 0.0, 0.123457, 1.0]), min_size=total, max_size=total))
    )
    places = np.array(
        data.draw(st.lists(st.integers(0, 2**40 - 1), min_size=total, max_size=total, unique=True)), dtype=np.int64
    )
    ids, best = in_order(counts, places, scores, k)
    start = 0
    for number, count in enumerate(counts):
        own = sorted(zip(-scores[start : start + count], places[start : start + count], strict=True))[:k]
        start += count
        assert ids[number].tolist() == [int(place) for _, place in own] + [-1] * (k - len(own))
        assert best[number, : len(own)].tolist() == [float(np.float32(-score)) for score, _ in own]
        assert np.isnan(best[number, len(own) :]).all()
