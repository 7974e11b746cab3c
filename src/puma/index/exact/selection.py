"""The running best of every query: fast products come in block by block, what cannot be among the k best goes. Loads no
torch.

A product is at most ``bound`` from its score. If k products of a query are t or more, no candidate whose product is
below ``t - 2 * bound`` is among its k best, whatever the exact scores are: that is the running threshold. What is kept
is therefore always a superset of the k best of all rows merged so far, whichever block a row was in and however late a
thread learned of the threshold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from puma.index.exact.rescoring import LEAST, block_scores, lowered
from puma.index.exact.scanning import TILE, Space

SLACK = 256
"""Candidates kept beyond 3 k, so that a small k does not tidy up all the time."""
CROWDED = 0.25
"""The share of a block that may be kept before exact scores are taken of the whole block."""
EXACT_TILE = 64
"""Queries whose exact scores with a whole block are taken at once."""
SHRUNK_FLOATS = 2**21
"""Floats that are tidied up at once."""

Kept = list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]
"""Per tile of queries: the first of them, how many candidates each keeps [tile], their columns, their products."""


def capacity(k: int) -> int:
    """Candidates a query can hold."""
    return 3 * k + SLACK


def _slots(rows: np.ndarray, first: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    """Places in a flat [n, width] of ``counts`` neighbours each, from column ``first`` of each of ``rows`` on."""
    return np.repeat(rows * width + first - (counts.cumsum() - counts), counts) + np.arange(counts.sum())


class Selection:
    """The best candidates so far of each query.

    Args:
        queries: float32 [n, dim].
        k: wanted.
        bound: see :func:`puma.index.exact.rescoring.score_bound`.
        exact: ``(query, places) -> scores float64``, for queries with more near ties than there is room for.
    """

    def __init__(
        self, queries: np.ndarray, k: int, bound: float, exact: Callable[[int, np.ndarray], np.ndarray]
    ) -> None:
        count = len(queries)
        self.queries, self.k, self.bound, self._exact = queries, k, bound, exact
        self.capacity = capacity(k)
        self.products = np.empty((count, self.capacity), dtype=np.float32)
        self.places = np.empty((count, self.capacity), dtype=np.int64)
        self.held = np.zeros(count, dtype=np.int64)
        self.threshold = np.full(count, LEAST, dtype=np.float32)
        self.floor = np.full(count, -np.inf)
        """The k-th score of all rows merged when it was last taken: a later row must be above, since ties go to the
        earlier one. Minus infinity if it was never taken."""
        self._fresh = np.zeros(count, dtype=np.int64)

    def visit(self, start: int, rows: np.ndarray, lost: np.ndarray | None, space: Space) -> Kept:
        """What a block may add to each query's best. Safe in several threads, while this one merges others."""
        kept: Kept = []
        block = len(rows)
        for low in range(0, len(self.queries), TILE):
            queries = self.queries[low : low + TILE]
            scores, mask = space.scores(queries, rows, lost)
            threshold = self.threshold[low : low + TILE].copy()
            full = int((threshold > LEAST).sum())
            hits = np.flatnonzero(np.greater_equal(scores, threshold[:, None], out=mask))
            crowd = CROWDED * scores.size
            if len(hits) > crowd and self.k < block:
                best = np.partition(scores, block - self.k, axis=1)[:, block - self.k]
                np.maximum(threshold, lowered(best, 2 * self.bound), out=threshold)
                hits = np.flatnonzero(np.greater_equal(scores, threshold[:, None], out=mask))
            if len(hits) > crowd + (len(queries) - full) * min(self.k, block):
                kept += self._by_exact_scores(low, queries, rows, lost)
                continue
            begins = np.arange(len(queries) + 1) * block
            counts = np.diff(np.searchsorted(hits, begins))
            columns = (hits - np.repeat(begins[:-1], counts)).astype(np.int32)
            kept.append((low, counts, columns, scores.reshape(-1)[hits]))
        return kept

    def _by_exact_scores(self, low: int, queries: np.ndarray, rows: np.ndarray, lost: np.ndarray | None) -> Kept:
        """A block full of near ties: its k best by exact scores, ties to the earlier row."""
        kept: Kept = []
        for first in range(0, len(queries), EXACT_TILE):
            part = queries[first : first + EXACT_TILE]
            floor = self.floor[low + first : low + first + len(part)].copy()
            scores = block_scores(part, rows)
            if lost is not None:
                scores[:, lost] = -np.inf
            mask = scores > floor[:, None]
            if self.k < len(rows):
                scores = np.where(mask, scores, -np.inf)
                best = np.partition(scores, len(rows) - self.k, axis=1)[:, len(rows) - self.k, None]
                above, ties = scores > best, mask & (scores == best)
                mask = above | (ties & (ties.cumsum(axis=1) <= self.k - above.sum(axis=1, keepdims=True)))
            columns = np.nonzero(mask)[1].astype(np.int32)
            kept.append((low + first, mask.sum(axis=1), columns, scores[mask].astype(np.float32)))
        return kept

    def merge(self, start: int, kept: Kept) -> None:
        """Add what :meth:`visit` took from the block that begins at row ``start``; blocks in ascending order."""
        for low, counts, columns, products in kept:
            tile = slice(low, low + len(counts))
            ends = counts.cumsum()
            over = self.held[tile] + counts > self.capacity
            for row in np.flatnonzero(over):
                part = slice(ends[row] - counts[row], ends[row])
                self._squeeze(low + int(row), start + columns[part].astype(np.int64), products[part])
            if over.any():
                stay = np.repeat(~over, counts)
                columns, products, counts = columns[stay], products[stay], np.where(over, 0, counts)
            slots = _slots(low + np.arange(len(counts)), self.held[tile], counts, self.capacity)
            self.products.reshape(-1)[slots] = products
            self.places.reshape(-1)[slots] = start + columns.astype(np.int64)
            self.held[tile] += counts
            self._fresh[tile] += counts
        unset = (self.threshold == LEAST) & (self._fresh > 0)
        due = np.flatnonzero((unset | (self._fresh >= self.k + 8)) & (self.held >= self.k))
        size = max(1, SHRUNK_FLOATS // self.capacity)
        for first in range(0, len(due), size):
            self._shrink(due[first : first + size])

    def _shrink(self, rows: np.ndarray) -> None:
        """Raise the thresholds of queries that hold at least k, and drop what is below."""
        width = int(self.held[rows].max())
        products, places = self.products[rows, :width], self.places[rows, :width]
        products[np.arange(width) >= self.held[rows, None]] = -np.inf
        best = np.partition(products, width - self.k, axis=1)[:, width - self.k]
        threshold = np.maximum(self.threshold[rows], lowered(best, 2 * self.bound))
        keep = products >= threshold[:, None]
        counts = keep.sum(axis=1)
        slots = _slots(rows, np.zeros(len(rows), dtype=np.int64), counts, self.capacity)
        self.products.reshape(-1)[slots] = products[keep]
        self.places.reshape(-1)[slots] = places[keep]
        self.held[rows], self.threshold[rows], self._fresh[rows] = counts, threshold, 0

    def _squeeze(self, query: int, places: np.ndarray, products: np.ndarray) -> None:
        """Add to a query that has no room for all of it."""
        held = int(self.held[query])
        places = np.concatenate([self.places[query, :held], places])
        products = np.concatenate([self.products[query, :held], products])
        best = np.partition(products, len(products) - self.k)[len(products) - self.k]
        threshold = np.maximum(self.threshold[query], lowered(best, 2 * self.bound))
        keep = products >= threshold
        places, products = places[keep], products[keep]
        if len(places) > self.k + (self.capacity - self.k) // 2:  # near ties: let the exact scores decide
            scores = self._exact(query, places)
            order = np.lexsort((places, -scores))[: self.k]
            places, products = places[order], scores[order].astype(np.float32)
            self.floor[query] = scores[order[-1]]
            threshold = np.maximum(threshold, lowered(products[-1], 2 * self.bound))
        self.places[query, : len(places)], self.products[query, : len(places)] = places, products
        self.held[query], self.threshold[query], self._fresh[query] = len(places), threshold, 0

    def best(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Of queries first..last all that may be among the k best: ``(how many of each query, their places)``."""
        found = [self._candidates(query) for query in range(first, last)]
        return np.array([len(places) for places in found]), np.concatenate(found)

    def _candidates(self, query: int) -> np.ndarray:
        held = int(self.held[query])
        products = self.products[query, :held]
        if held > self.k:
            best = np.partition(products, held - self.k)[held - self.k]
            return self.places[query, :held][products >= lowered(best, 2 * self.bound)]
        return self.places[query, :held]

    def saved(self) -> dict[str, np.ndarray]:
        """All that is needed to go on, as plain arrays."""
        width = int(self.held.max(initial=0))
        return {
            "products": self.products[:, :width],
            "places": self.places[:, :width],
            "held": self.held,
            "threshold": self.threshold,
            "floor": self.floor,
        }

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`saved`."""
        width = saved["products"].shape[1]
        self.products[:, :width], self.places[:, :width] = saved["products"], saved["places"]
        self.held[:], self.threshold[:], self.floor[:] = saved["held"], saved["threshold"], saved["floor"]
