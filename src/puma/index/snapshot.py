"""All rows of one version of a small index in memory, ready for exact search. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from puma.index.exact.small import Block
from puma.index.interface import Hit
from puma.index.tables import matrix

WIDE_FLOATS = 2**25
"""Up to this many floats are kept in double precision, ready for exact search (256 MiB)."""
BLOCKS = 16
"""Filtered copies kept beside all rows, as long as they are small."""


class Snapshot:
    """Rows of one version.

    Args:
        table: an Arrow table with id, modality, vector, payload and (unless of format 1) thumbnail.
        dim: length of the vectors.
    """

    def __init__(self, table: Any, dim: int) -> None:
        self.ids: list[str] = table["id"].to_pylist()
        self.modalities: list[str] = table["modality"].to_pylist()
        found = matrix(table["vector"], dim)
        self.matrix = found.astype(np.float64) if found.size <= WIDE_FLOATS else found
        self.payloads: list[str] = table["payload"].to_pylist()
        self.thumbnails = table["thumbnail"].to_pylist() if "thumbnail" in table.schema.names else [False] * len(table)
        self.place = {name: place for place, name in enumerate(self.ids)}
        self._blocks: dict[str, Block] = {}

    def block(self, condition: str | None) -> Block | None:
        """Ids and vectors of the rows that fit; None where that is not known yet (see :meth:`keep`)."""
        return (self.ids, self.matrix) if condition is None else self._blocks.get(condition)

    def keep(self, condition: str, ids: Iterable[str]) -> Block:
        """Learn which ids fit a condition."""
        places = sorted(self.place[name] for name in ids if name in self.place)
        block = [self.ids[place] for place in places], self.matrix[places]
        if self.matrix.size <= WIDE_FLOATS:
            latest = list(self._blocks.items())[1 - BLOCKS :]
            self._blocks = dict([*latest, (condition, block)])  # replaced, not changed: other threads may be reading
        return block

    def hit(self, name: str, score: float) -> Hit:
        """One found row."""
        place = self.place[name]
        payload = json.loads(self.payloads[place])
        return Hit(name, score, self.modalities[place], payload, self.thumbnails[place])
