"""Hit rate, recall, precision, nDCG and MRR at k, and what chance reaches: the one definition of each. Loads no torch.

One rule everywhere: ties count against us. A positive is ranked behind every candidate that is no positive and whose
score is equal or greater; a model that gives everything the same vector therefore scores nothing. Among tied positives
the lower grade comes first. NaN never ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from puma.errors import InputError

Qrels = Mapping[str, Mapping[str, float]]
"""``{query id: {document id: grade}}``; a grade above 0 is a positive."""
Run = Mapping[str, Mapping[str, float]]
"""``{query id: {document id: score}}``; higher is better."""


def hit_rate_at_k(qrels: Qrels, run: Run, k: int) -> float:
    """The share of queries with at least one positive among the first ``k``: what M-BEIR's tables call recall.

    Args:
        qrels: queries without a positive are left out of the mean.
        run: a query that is missing here counts as a miss; queries that are not in ``qrels`` are ignored.
        k: at least 1.

    Returns:
        A rate in [0, 1].

    Raises:
        InputError: ``k`` is below 1 or no integer, or ``qrels`` holds no positive at all.

    Examples:
        >>> hit_rate_at_k({"q": {"a": 1}}, {"q": {"a": 0.9, "b": 0.4}}, 1)
        1.0
        >>> hit_rate_at_k({"q": {"a": 1}}, {"q": {"a": 0.9, "b": 0.9}}, 1)
        0.0
    """
    check_k(k)
    return hit_rate_from_ranks([found.ranks for found in find(qrels, run)], k)


def recall_at_k(qrels: Qrels, run: Run, k: int) -> float:
    """The mean over queries of the share of their positives among the first ``k``. Arguments, result and errors as
    :func:`hit_rate_at_k`.

    Examples:
        >>> recall_at_k({"q": {"a": 1, "b": 1}}, {"q": {"a": 0.9, "c": 0.5, "b": 0.4}}, 2)
        0.5
    """
    check_k(k)
    found = find(qrels, run)
    return recall_from_ranks([one.ranks for one in found], [len(one.ideal) for one in found], k)


def ndcg_at_k(qrels: Qrels, run: Run, k: int) -> float:
    """The mean over queries of DCG at ``k`` over the best DCG at ``k`` its judgements allow. A positive's gain is its
    grade, the discount ``1 / log2(rank + 1)`` (Järvelin and Kekäläinen 2002, as trec_eval's ``ndcg_cut``). Arguments,
    result and errors as :func:`hit_rate_at_k`.

    Examples:
        >>> ndcg_at_k({"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.9, "c": 0.8}}, 10)
        0.5
    """
    check_k(k)
    found = find(qrels, run)
    return ndcg_from_ranks([one.ranks for one in found], [one.gains for one in found], [one.ideal for one in found], k)


def precision_at_k(qrels: Qrels, run: Run, k: int) -> float:
    """The mean over queries of the share of positives among the first ``k`` places; places that a run leaves empty are
    wrong (as trec_eval's ``P``). Arguments, result and errors as :func:`hit_rate_at_k`.

    Examples:
        >>> precision_at_k({"q": {"a": 2, "b": 1}}, {"q": {"a": 0.9, "c": 0.5, "b": 0.4}}, 2)
        0.5
    """
    check_k(k)
    return float(np.mean([(found.ranks <= k).sum() / k for found in find(qrels, run)]))


def mrr_at_k(qrels: Qrels, run: Run, k: int) -> float:
    """The mean over queries of ``1 / rank`` of the first positive, 0 where it is not among the first ``k``. Arguments,
    result and errors as :func:`hit_rate_at_k`.

    Examples:
        >>> mrr_at_k({"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.9}}, 10)
        0.5
    """
    check_k(k)
    return mrr_from_ranks([found.ranks for found in find(qrels, run)], k)


@dataclass(frozen=True)
class Found:
    """One query's positives as a ranking shows them.

    ``ranks`` int64 [found], from 1, ascending; ``gains`` float64 [found], the grade at each of these ranks; ``ideal``
    float64 [positives], the grades of all its positives, those never ranked included, descending.
    """

    ranks: np.ndarray
    gains: np.ndarray
    ideal: np.ndarray


def find(qrels: Qrels, run: Run) -> list[Found]:
    """What a run found, per query with a positive, in the order of ``qrels``. Raises InputError if there is none."""
    found = []
    for qid, row in qrels.items():
        grades = {did: float(grade) for did, grade in row.items() if grade > 0}
        if not grades:
            continue
        scores = run.get(qid, {})
        documents = list(scores)
        values = np.array([float(scores[did]) for did in documents], dtype=np.float64)
        places = [place for place, did in enumerate(documents) if did in grades]
        ranks = ranks_of_positives(values[None, :], [places])[0]
        gains = gains_in_order(values[places], np.array([grades[documents[place]] for place in places]))
        found.append(Found(ranks, gains, np.array(sorted(grades.values(), reverse=True))))
    if not found:
        raise InputError(
            f"qrels: no query with a positive (of {len(qrels)} queries); there is nothing to take a mean over"
        )
    return found


def gains_in_order(scores: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """The grades of a query's positives in the order of their ranks: best score first, of equal scores the lower grade
    first; those scored NaN are left out. Both arguments [positives]."""
    order = np.lexsort((grades, -scores))
    return np.asarray(grades, dtype=np.float64)[order[~np.isnan(scores[order])]]


def ranks_of_positives(scores: np.ndarray, positives: Sequence[Sequence[int] | np.ndarray]) -> list[np.ndarray]:
    """The ranks of every query's positives when ties count against us.

    Args:
        scores: [queries, candidates], any float type; NaN ranks behind everything.
        positives: per query, the distinct columns that are right for it.

    Returns:
        Per query the ranks of its positives, from 1, ascending. Positives scored NaN have no rank and are left out.
    """
    if scores.ndim != 2 or len(scores) != len(positives):
        raise InputError(
            f"scores must be [queries, candidates] with one row per entry of positives, got {list(scores.shape)} "
            f"for {len(positives)} queries"
        )
    ranks = []
    for row, columns in zip(scores, positives, strict=True):
        own = row[np.asarray(columns, dtype=np.int64)]
        own = np.sort(own[~np.isnan(own)])[::-1]
        ranks.append(ranks_from_others(at_or_above(row, own) - at_or_above(own, own)))
    return ranks


def at_or_above(values: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """How many ``values`` are equal to or greater than each of ``floors``: int64 [floors]. NaN is neither."""
    if not len(floors):
        return np.zeros(0, dtype=np.int64)
    reached = np.sort(values[values >= floors.min()])
    return len(reached) - np.searchsorted(reached, floors, side="left")


def ranks_from_others(others: np.ndarray) -> np.ndarray:
    """Ranks of a query's positives, best first: each waits for the ``others`` at its score or above, int64
    [positives], and for the positives before it."""
    return 1 + np.arange(len(others), dtype=np.int64) + others


def hit_rate_from_ranks(ranks: Sequence[np.ndarray], k: int) -> float:
    """Hit rate at ``k`` from :func:`ranks_of_positives`; an empty entry is a miss."""
    check_k(k)
    if not len(ranks):
        raise InputError("ranks: no query to take a mean over")
    return float(np.mean([bool(len(row)) and bool(row.min() <= k) for row in ranks]))


def recall_from_ranks(ranks: Sequence[np.ndarray], totals: Sequence[int], k: int) -> float:
    """Recall at ``k`` from :func:`ranks_of_positives` and the number of positives of each query (those that were never
    ranked included)."""
    check_k(k)
    if not len(ranks) or len(ranks) != len(totals) or min(totals) < 1:
        raise InputError("totals: one count of positives, at least 1, is needed for each query")
    return float(np.mean([(row <= k).sum() / total for row, total in zip(ranks, totals, strict=True)]))


def ndcg_from_ranks(
    ranks: Sequence[np.ndarray], gains: Sequence[np.ndarray], ideals: Sequence[np.ndarray], k: int
) -> float:
    """nDCG at ``k`` from the fields of :class:`Found`, one entry per query in each."""
    check_k(k)
    if not len(ranks) or not len(ranks) == len(gains) == len(ideals) or min(map(len, ideals)) < 1:
        raise InputError("ideals: the grades of at least one positive are needed for each query")
    best = [_dcg(np.arange(1, len(ideal) + 1), ideal, k) for ideal in ideals]
    return float(np.mean([_dcg(r, g, k) / top for r, g, top in zip(ranks, gains, best, strict=True)]))


def mrr_from_ranks(ranks: Sequence[np.ndarray], k: int) -> float:
    """MRR at ``k`` from :func:`ranks_of_positives`; an empty entry counts 0."""
    check_k(k)
    if not len(ranks):
        raise InputError("ranks: no query to take a mean over")
    return float(np.mean([1.0 / row.min() if len(row) and row.min() <= k else 0.0 for row in ranks]))


def _dcg(ranks: np.ndarray, gains: np.ndarray, k: int) -> float:
    return float((gains[ranks <= k] / np.log2(ranks[ranks <= k] + 1.0)).sum())


def chance_hit_rate(pool: int, positives: int, k: int) -> float:
    """The expected hit rate at ``k`` of a random ranking: ``1 - C(pool - positives, k) / C(pool, k)``.

    Args:
        pool: candidates that are ranked.
        positives: how many of them are right, 0..pool.
    """
    _check_pool(pool, positives, k)
    miss = 1.0
    for place in range(min(k, pool)):
        miss *= max(pool - positives - place, 0) / (pool - place)
    return 1.0 - miss


def chance_recall(pool: int, k: int) -> float:
    """The expected recall at ``k`` of a random ranking, whatever the number of positives: ``min(k, pool) / pool``."""
    _check_pool(pool, 0, k)
    return min(k, pool) / pool


def chance_ndcg(pool: int, grades: Sequence[float] | np.ndarray, ideal: Sequence[float] | np.ndarray, k: int) -> float:
    """The expected nDCG at ``k`` of a random ranking: each place holds each positive with probability ``1 / pool``.

    Args:
        grades: of the positives that are in the pool.
        ideal: of all positives, descending.
    """
    _check_pool(pool, len(grades), k)
    places = np.arange(1, min(k, pool) + 1)
    expected = float(np.sum(grades)) / pool * _dcg(places, np.ones(len(places)), k)
    return expected / _dcg(np.arange(1, len(ideal) + 1), np.asarray(ideal, dtype=np.float64), k)


def chance_mrr(pool: int, positives: int, k: int) -> float:
    """The expected MRR at ``k`` of a random ranking: the sum over ranks of ``1 / rank`` times the probability that the
    first positive stands there. Arguments as :func:`chance_hit_rate`."""
    _check_pool(pool, positives, k)
    total, none_before = 0.0, 1.0
    for place in range(min(k, pool - positives + 1)):
        here = positives / (pool - place)
        total += none_before * here / (place + 1)
        none_before *= 1.0 - here
    return total


def means(rows: Iterable[Mapping[str, float]], keys: Sequence[str]) -> dict[str, float]:
    """The plain mean of each key over tables of rates; a key that some row lacks is left out."""
    rows = list(rows)
    return {key: float(np.mean([row[key] for row in rows])) for key in keys if rows and all(key in row for row in rows)}


def check_k(k: int) -> None:
    """Raise InputError unless ``k`` is an integer of at least 1."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k must be an integer of at least 1, got {k!r}")


def _check_pool(pool: int, positives: int, k: int) -> None:
    check_k(k)
    if pool < 1 or not 0 <= positives <= pool:
        raise InputError(f"a pool needs at least one candidate and 0..pool positives, got pool={pool}, {positives=}")
