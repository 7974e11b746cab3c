"""How many candidates reach a positive's score, counted block by block, near ties by exact scores. Loads no torch."""

from __future__ import annotations

import numpy as np

from puma.index.exact.rescoring import PAIRS, block_scores, lowered, pair_scores
from puma.index.exact.scanning import TILE, Space
from puma.index.exact.selection import EXACT_TILE

CROWDED = 1 / 32
"""The share of a block that may be too near to a positive before exact scores are taken of the whole block."""


class Counting:
    """Candidates at a positive's score or above it.

    Args:
        queries: float32 [n, dim].
        owner: int64 [p], ascending: whose each positive is.
        scores: float64 [p], the positives' scores.
        bound: see :func:`puma.index.exact.rescoring.score_bound`.
    """

    def __init__(self, queries: np.ndarray, owner: np.ndarray, scores: np.ndarray, bound: float) -> None:
        self.queries, self.owner, self.scores = queries, owner, scores
        self.above = np.zeros(len(owner), dtype=np.int64)
        self._least = lowered(scores, bound)
        self._sure = np.nextafter((scores + bound).astype(np.float32), np.float32(np.inf))
        turn = np.arange(len(owner)) - np.searchsorted(owner, owner)  # a query's positives are taken one by one
        self._turns = [np.flatnonzero(turn == number) for number in range(int(turn.max(initial=-1)) + 1)]

    def visit(self, start: int, rows: np.ndarray, lost: np.ndarray | None, space: Space) -> np.ndarray:
        """What a block adds to :attr:`above`. Safe in several threads."""
        above = np.zeros(len(self.owner), dtype=np.int64)
        for low in range(0, len(self.queries), TILE):
            queries = self.queries[low : low + TILE]
            scores, space_mask = space.scores(queries, rows, lost)
            for turn in self._turns:
                own = turn[slice(*np.searchsorted(self.owner[turn], [low, low + len(queries)]))]
                if not len(own):
                    continue
                lines = self.owner[own] - low
                part = scores if len(own) == len(queries) else scores[lines]
                near = np.greater_equal(part, self._least[own, None], out=space_mask[: len(own)])
                if not near.any():
                    continue
                sure = part > self._sure[own, None]
                above[own] += [np.count_nonzero(line) for line in sure]
                near ^= sure
                above[own] += self._decided(queries[lines], rows, near, self.scores[own], lost)
        return above

    @staticmethod
    def _decided(
        queries: np.ndarray, rows: np.ndarray, near: np.ndarray, scores: np.ndarray, lost: np.ndarray | None
    ) -> np.ndarray:
        """Per query, how many of the ``near`` candidates truly reach its score."""
        if np.count_nonzero(near) > CROWDED * near.size:
            counts = np.zeros(len(queries), dtype=np.int64)
            for first in range(0, len(queries), EXACT_TILE):
                part = slice(first, first + EXACT_TILE)
                reached = block_scores(queries[part], rows) >= scores[part, None]
                counts[part] = (reached & near[part]).sum(axis=1)
            return counts
        lines, columns = np.nonzero(near)
        reached = np.empty(len(lines), dtype=bool)
        for first in range(0, len(lines), PAIRS):
            part = slice(first, first + PAIRS)
            reached[part] = pair_scores(queries[lines[part]], rows[columns[part]]) >= scores[lines[part]]
        return np.bincount(lines[reached], minlength=len(queries))
