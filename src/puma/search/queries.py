"""Queries made ready: their instructions, what is to be embedded for them, and the words they are led away from. Loads
no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT, Item
from puma.search.merging import SINGLE

INSTRUCTIONS: dict[tuple[str, str | None], str] = {
    (TEXT, IMAGE): "Find a picture that shows this.",
    (TEXT, TEXT): "Find a text that means the same.",
    (TEXT, IMAGE_TEXT): "Find a captioned picture of this.",
    (TEXT, None): "Find what this describes.",
    (IMAGE, TEXT): "Find a text that describes this picture.",
    (IMAGE, IMAGE): "Find another picture of the same thing.",
    (IMAGE, IMAGE_TEXT): "Find a captioned picture of the same thing.",
    (IMAGE, None): "Find what this picture shows.",
    (IMAGE_TEXT, TEXT): "Find a text that fits the picture and the words.",
    (IMAGE_TEXT, IMAGE): "Find a picture like this one, changed as the words say.",
    (IMAGE_TEXT, IMAGE_TEXT): "Find a captioned picture that fits the picture and the words.",
    (IMAGE_TEXT, None): "Find what fits the picture and the words.",
}
"""The instruction a query gets if none is given, by its modality and the one searched for (None: any) and the
model brings none of its own (``Retriever.instructions``, those it was trained with)."""

MINUS_WEIGHT = 0.75
"""How much :func:`without` takes away, chosen by looking at what puma-mini finds: at 0.5 some of the unwanted is still
among the first, above 1 results leave the query's own subject."""

Modalities = str | Sequence[str] | None
"""What is searched for: one of the three modalities, several, or None for all."""


@dataclass(frozen=True)
class QueryBatch:
    """Queries that share what is searched for, ready to be embedded by whoever has the encoder.

    Args:
        items: the queries, and after them what their results should not be like; all of them again for every further
            set of instructions.
        instructions: one an item; None for none.
        count: how many of the items are queries, once.
        wanted: what each search looks for; one search with all its modalities, or one for each of several.
        blocks: for each search, which of the repetitions of the items it takes.
        merge: how the hits of several searches are put in order, see :mod:`puma.search.merging`.
    """

    items: tuple[Item, ...]
    instructions: tuple[str | None, ...]
    count: int
    wanted: tuple[Modalities, ...] = (None,)
    blocks: tuple[int, ...] = (0,)
    merge: str = SINGLE

    @property
    def size(self) -> int:
        """How many items there are, without their repetitions."""
        return len(self.items) // len(set(self.blocks))

    @property
    def instruction(self) -> str | None:
        """The first query's instruction, where it has only one; None where it has several or none."""
        return self.instructions[0] if len(set(self.blocks)) == 1 and self.instructions else None

    def vectors(self, embedded: np.ndarray) -> np.ndarray:
        """The queries' vectors for each search, led away from what is unwanted: float32 [searches, count, dim].

        Args:
            embedded: the items, each with its instruction: float32 [len(items), dim].
        """
        blocks = embedded.reshape(len(set(self.blocks)), -1, embedded.shape[1])
        return np.stack([self._led_away(blocks[block]) for block in self.blocks])

    def _led_away(self, embedded: np.ndarray) -> np.ndarray:
        queries, unwanted = embedded[: self.count], embedded[self.count :]
        if not len(unwanted) or not len(queries):
            return queries
        return np.stack([without(vector, unwanted) for vector in queries])


def without(vector: Any, others: Any, weight: float = MINUS_WEIGHT) -> np.ndarray:
    """A query's vector moved away from what is not wanted: ``vector - weight * (sum of others, each without the part
    of it that the query has itself)``, of unit length.

    The shared part stays because queries of one model are much alike ("vehicle" and "car" have a cosine of 0.96 with
    puma-mini): were it taken away, little of the query would be left.

    Args:
        vector: float [dim], of unit length.
        others: float [n, dim], of unit length; with none of them the vector stays as it is.
        weight: at least 0.

    Returns:
        float32 [dim].

    Raises:
        InputError: shapes do not fit, or the weight is negative.

    Examples:
        >>> without([1.0, 0.0], [[0.6, 0.8]], weight=1.0).astype(float).round(3).tolist()
        [0.781, -0.625]
    """
    start = np.asarray(vector, dtype=np.float64)
    away = np.asarray(others, dtype=np.float64)
    if start.ndim != 1 or (away.size and (away.ndim != 2 or away.shape[1] != len(start))):
        raise InputError(f"vector must be [dim] and others [n, dim], got {list(start.shape)} and {list(away.shape)}")
    if not (np.isfinite(weight) and weight >= 0):
        raise InputError(f"weight must be a number of at least 0, got {weight!r}")
    if away.size:
        start = start - weight * (away - (away @ start)[:, None] * start).sum(axis=0)
    return (start / np.linalg.norm(start)).astype(np.float32)
