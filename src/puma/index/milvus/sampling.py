"""A fixed random sample of the vectors of each modality on Milvus, as on LanceDB. Loads no torch."""

from __future__ import annotations

import time

import numpy as np

from puma.index.milvus.connection import Server
from puma.index.milvus.expressions import one_of
from puma.index.reads import one_read
from puma.index.sampling import SAMPLED
from puma.items.item import MODALITIES

KEPT_SECONDS = 60.0
"""How long a sample is used though other clients may have written. This client's own writes are seen at once, and so is
the first row of a modality, whoever wrote it: what has no sample is not searched."""


class Sampler:
    """Draws samples and keeps the latest.

    A row's ``draw`` is a number that its id decides; the smallest of them are the sample, so that a few new rows change
    few of it.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._kept: tuple[float, dict[str, np.ndarray]] | None = None

    def forget(self) -> None:
        """Draw anew the next time."""
        self._kept = None

    @one_read()
    def sample(self) -> dict[str, np.ndarray]:
        """By modality, for those that there are rows of: float32 [at most SAMPLED, dim]."""
        kept = self._kept
        if kept is not None and time.monotonic() < kept[0] and not self._others(kept[1]):
            return kept[1]
        found = {name: self._draw(name) for name in MODALITIES}
        vectors = {name: rows for name, rows in found.items() if len(rows)}
        self._kept = time.monotonic() + KEPT_SECONDS, vectors
        return vectors

    def _others(self, kept: dict[str, np.ndarray]) -> bool:
        """Whether there are rows of a modality that a kept sample lacks; not asked where reads may miss writes."""
        without = [name for name in MODALITIES if name not in kept]
        if not without or not self.server.is_strong:
            return False
        return bool(self.server.query(self.server.address.name, one_of("modality", without), [], 1))

    def _draw(self, modality: str) -> np.ndarray:
        name, own = self.server.address.name, one_of("modality", [modality])
        count = self.server.count(name, own)
        if not count:
            return np.zeros((0, 0), dtype=np.float32)
        # A fifth more than needed in expectation: six standard deviations of their number, and then all.
        share = min(1.0, 1.2 * SAMPLED / count)
        below = f"{own} and draw < {int(share * 2**62)}" if share < 1 else own
        rows = [row for page in self.server.rows(name, below, ["draw", "vector"]) for row in page]
        rows.sort(key=lambda row: (row["draw"], row["key"]))
        return np.asarray([row["vector"] for row in rows[:SAMPLED]], dtype=np.float32)
