"""The exact score of a query and a candidate, and a bound on how far a fast product may be from it. Loads no torch.

A score is the dot product of the two stored rows in double precision, the sum taken by ``numpy.vecdot`` row by row,
clipped to [-1, 1] and rounded to six decimals (:func:`puma.index.exact.small.rounded`). It depends on these two rows
alone: not on the block a candidate was in, nor on which thread had it. Matrix products, in single or double precision,
sum in an order of their own; they are only used to find what cannot matter, within the bounds given here.
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np

from puma.index.exact.matrices import Rows
from puma.index.exact.small import rounded
from puma.index.interface import SCORE_DECIMALS

LENGTH_TOLERANCE = 1e-2
"""How far the length of a stored row may be from 1: models that work in fp16 or bf16 leave some 0.004."""
CHUNK = 2048
"""Distinct candidates that are read at once for exact scores."""
PAIRS = 256
"""Pairs whose products are taken at once: they stay in the cache."""
PLACE_BITS = 40
"""Bits of a candidate's number where it shares an integer with its score."""
LEAST = np.float32(-2.0)
"""Below every score of unit rows: a threshold that keeps all of them."""
_HALF = 0.5 * 10.0**-SCORE_DECIMALS


def score_bound(dim: int) -> float:
    """How far the single-precision product of two rows may be from their score, clipping aside.

    ``dim * u / (1 - dim * u)`` times both lengths holds for every order of summation (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd edition, section 3.1); rounding to six decimals adds half of the last one.
    """
    noise = dim * 2.0**-24
    return noise / (1 - noise) * (1 + LENGTH_TOLERANCE) ** 2 + _HALF + 1e-7  # + the thresholds' own rounding


def lowered(scores: np.ndarray, by: float) -> np.ndarray:
    """Thresholds float32: products below have a score below ``scores`` even if both are off by half of ``by``."""
    wide = np.clip(scores.astype(np.float64), -1.0, 1.0) - by
    return np.where(wide <= -1.0, LEAST, np.nextafter(wide.astype(np.float32), LEAST))


def pair_scores(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Scores float64 [m] of rows [m, dim] with rows [m, dim] of float32: the definition."""
    scores = np.empty(len(queries))
    for start in range(0, len(queries), PAIRS):
        part = slice(start, start + PAIRS)
        scores[part] = np.vecdot(queries[part].astype(np.float64), candidates[part].astype(np.float64))
    return rounded(scores)


def block_scores(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Scores float64 [q, c] of all rows float32 [q, dim] with all rows [c, dim], equal to :func:`pair_scores`.

    By one matrix product in double precision; where its last bits could turn a rounding, by the definition.
    """
    products = queries.astype(np.float64) @ candidates.astype(np.float64).T
    np.clip(products, -1.0, 1.0, out=products)
    scaled = products * 10.0**SCORE_DECIMALS
    noise = 4 * (queries.shape[1] + 2) * 2.0**-53 * 10.0**SCORE_DECIMALS
    close = np.flatnonzero(np.abs(scaled - np.floor(scaled) - 0.5) < noise)
    scores = rounded(products)
    for start in range(0, len(close), PAIRS):
        rows, columns = np.divmod(close[start : start + PAIRS], len(candidates))
        scores[rows, columns] = pair_scores(queries[rows], candidates[columns])
    return scores


def stored_scores(
    queries: np.ndarray, source: Rows, rows: np.ndarray, places: np.ndarray, pool: Executor | None = None
) -> np.ndarray:
    """Scores float64 [m] of ``queries[rows]`` with the stored candidates ``places``; each of these is read once.

    Args:
        queries: float32 [n, dim].
        rows: int [m].
        places: int64 [m].
        pool: shares the work among its threads.
    """
    products = np.empty(len(rows))
    order = np.argsort(places)
    ordered = places[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))  # where each distinct candidate begins
    ends = np.append(first, len(ordered))

    def work(start: int) -> None:
        stop = min(start + CHUNK, len(first))
        candidates = source.gather(ordered[first[start:stop]]).astype(np.float64)
        pairs = slice(ends[start], ends[stop])
        local = np.repeat(np.arange(stop - start), np.diff(ends[start : stop + 1]))
        owners = rows[order[pairs]]
        ours = np.empty((PAIRS, queries.shape[1]), dtype=np.float32)
        wide, theirs = np.empty(ours.shape), np.empty(ours.shape)
        found = np.empty(len(owners))
        for low in range(0, len(owners), PAIRS):
            count = min(PAIRS, len(owners) - low)
            part = slice(low, low + count)
            # mode="clip": without it numpy copies twice, in case a place were out of range
            np.take(queries, owners[part], axis=0, out=ours[:count], mode="clip")
            np.take(candidates, local[part], axis=0, out=theirs[:count], mode="clip")
            wide[:count] = ours[:count]
            np.vecdot(wide[:count], theirs[:count], out=found[part])
        products[order[pairs]] = found

    starts = range(0, len(first), CHUNK)
    for _ in map(work, starts) if pool is None else pool.map(work, starts):
        pass
    return rounded(products)


def in_order(counts: np.ndarray, places: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of every query by score, equal ones by place.

    Args:
        counts: int64 [n], how many each query has, one query after the other.
        places: int64 [sum of counts], below 2**40.
        scores: float64, of these, as :func:`pair_scores` gives them.

    Returns:
        Places int64 [n, k] and scores float32 [n, k], best first; -1 and NaN where a query has fewer.
    """
    unit = 10**SCORE_DECIMALS
    # One integer holds both: a rounded score is a whole number of units, and sorting integers is fast.
    keys = ((unit - np.rint(scores * unit).astype(np.int64)) << PLACE_BITS) | places
    table = np.full((len(counts), max(k, int(counts.max(initial=0)))), np.iinfo(np.int64).max)
    table[np.arange(table.shape[1]) < counts[:, None]] = keys
    table.sort(axis=1)
    best = table[:, :k]
    gone = best == np.iinfo(np.int64).max
    found = np.where(gone, -1, best & (2**PLACE_BITS - 1))
    return found, np.where(gone, np.nan, (unit - (best >> PLACE_BITS)) / unit).astype(np.float32)
