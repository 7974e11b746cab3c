"""Hit rate and recall at k, and what chance would reach: the one definition of both.

Here: the plain functions over qrels and runs, the same by ranks of positives for whole score matrices, and the closed
forms for a random ranking. Not here: reading files (:mod:`puma.evaluation.runs`, :mod:`puma.data.mbeir`), encoding
(:mod:`puma.evaluation.mbeir`). Nothing in this module loads torch.

One rule everywhere: ties count against us. A positive is ranked behind every candidate that is no positive and whose
score is equal or greater; a model that gives everything the same vector therefore scores nothing. NaN never ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
    return float(np.mean([hit_rate_from_ranks([ranks], k) for ranks, _ in _ranks_per_query(qrels, run)]))


def recall_at_k(qrels: Qrels, run: Run, k: int) -> float:
    """The mean over queries of the share of their positives among the first ``k``. Arguments, result and errors as
    :func:`hit_rate_at_k`.

    Examples:
        >>> recall_at_k({"q": {"a": 1, "b": 1}}, {"q": {"a": 0.9, "c": 0.5, "b": 0.4}}, 2)
        0.5
    """
    check_k(k)
    pairs = _ranks_per_query(qrels, run)
    return recall_from_ranks([ranks for ranks, _ in pairs], [total for _, total in pairs], k)


def _ranks_per_query(qrels: Qrels, run: Run) -> list[tuple[np.ndarray, int]]:
    """Of every query with a positive: the ranks of those found, and how many it has."""
    pairs = []
    for qid, grades in qrels.items():
        positives = {did for did, grade in grades.items() if grade > 0}
        if not positives:
            continue
        scores = run.get(qid, {})
        documents = list(scores)
        row = np.array([float(scores[did]) for did in documents], dtype=np.float64)
        places = [place for place, did in enumerate(documents) if did in positives]
        pairs.append((ranks_of_positives(row[None, :], [places])[0], len(positives)))
    if not pairs:
        raise InputError(
            f"qrels: no query with a positive (of {len(qrels)} queries); there is nothing to take a mean over"
        )
    return pairs


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
        # A positive waits for all others at its score or above, and for the positives before it.
        others = [int((row >= score).sum()) - int((own >= score).sum()) for score in own]
        ranks.append(np.array([1 + place + ahead for place, ahead in enumerate(others)], dtype=np.int64))
    return ranks


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
