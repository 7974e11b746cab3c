"""A fixed random sample of an index's rows by modality: what the scores of a query look like where nothing fits.
Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from puma.index.filters import as_sql
from puma.index.tables import matrix
from puma.items.item import MODALITIES

SAMPLED = 1000
"""Rows of each modality: the mean of their scores is known to a thirtieth of the scores' spread."""
REDRAWN_ROWS = 100_000
"""Up to here a sample is drawn anew for each version of the index (10 ms); beyond, only where the number of rows of a
modality has changed by more than :data:`CHANGED`."""
CHANGED = 0.02


@dataclass(frozen=True)
class _Drawn:
    version: int
    counts: dict[str, int]
    vectors: dict[str, np.ndarray]


class Sampler:
    """Draws samples of one table and keeps the latest. Any number of threads may call it at once.

    Args:
        dim: length of the vectors.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._drawn: _Drawn | None = None

    def sample(self, table: Any) -> dict[str, np.ndarray]:
        """By modality, for those that the table has rows of: float32 [at most SAMPLED, dim]."""
        known, version = self._drawn, int(table.version)
        if known is not None and known.version == version:
            return known.vectors
        counts = {name: int(table.count_rows(as_sql(None, (name,)))) for name in MODALITIES}
        counts = {name: count for name, count in counts.items() if count}
        vectors = known.vectors if known is not None and _alike(known.counts, counts) else self._draw(table)
        kept = known.counts if known is not None and vectors is known.vectors else counts
        self._drawn = _Drawn(version, kept, vectors)  # replaced, not changed: other threads may be reading
        return vectors

    def _draw(self, table: Any) -> dict[str, np.ndarray]:
        import pyarrow.compute as pc

        rows = table.search().with_row_id(True).select(["modality"]).to_arrow()
        numbers = rows["_rowid"].to_numpy().astype(np.uint64)
        vectors = {}
        for name in MODALITIES:
            own = numbers[np.asarray(pc.equal(rows["modality"], name))]
            if len(own):
                # By a hash of the row's number: a few new rows change few of the sample.
                chosen = np.sort(own[np.argsort(scrambled(own), kind="stable")[:SAMPLED]])
                found = table.take_row_ids(chosen.tolist()).select(["vector"]).to_arrow()
                vectors[name] = matrix(found["vector"], self.dim)
        return vectors


def scrambled(numbers: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random permutation of the 64-bit integers (the finaliser of splitmix64): uint64 [n] to uint64 [n].

    Examples:
        >>> scrambled(np.array([0, 1], dtype=np.uint64)).tolist()
        [0, 6238072747940578789]
    """
    mixed: np.ndarray = numbers
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _alike(before: dict[str, int], now: dict[str, int]) -> bool:
    if sum(now.values()) <= REDRAWN_ROWS or before.keys() != now.keys():
        return False
    return all(abs(now[name] - count) <= CHANGED * count for name, count in before.items())
