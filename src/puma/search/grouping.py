"""Near-duplicates among hits: the same picture in another size or file, found by the cosine of their vectors. Loads no
torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puma.errors import InputError
from puma.index import Hit, Index

NEAR = 0.99
"""Cosine from which two items of one modality count as near-duplicates. With puma-mini a picture and its copy as JPEG
of quality 40, or at half its size, are above it (0.992 and 0.998 at least, of 400), and so are 8 of the 79,800 pairs
of unlike pictures (benchmarks/score_cutoffs.py)."""
FETCHED = 4
"""Hits that are fetched for each group wanted."""


def group_places(vectors: np.ndarray, modalities: Sequence[str], near: float = NEAR) -> list[list[int]]:
    """Places in groups: each place joins the first group whose first member is near, or begins one.

    So groups keep the order of their best members, and further places at the end change no group but by joining it.

    Args:
        vectors: [n, dim], unit rows, best first.
        modalities: of each; only like ones are grouped.
        near: cosine, above -1.

    Raises:
        InputError: lengths differ.

    Examples:
        >>> group_places(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), ["image"] * 3)
        [[0, 2], [1]]
    """
    if len(vectors) != len(modalities):
        raise InputError(f"vectors and modalities must be as many, got {len(vectors)} and {len(modalities)}")
    groups: list[list[int]] = []
    for place, vector in enumerate(np.asarray(vectors, dtype=np.float64)):
        alike = (group for group in groups if modalities[group[0]] == modalities[place])
        joined = next((group for group in alike if float(vectors[group[0]] @ vector) >= near), None)
        if joined is None:
            groups.append([place])
        else:
            joined.append(place)
    return groups


def grouped(index: Index, hits: Sequence[Hit], near: float = NEAR) -> list[list[Hit]]:
    """Hits, best first, in groups of near-duplicates, each with its best one first.

    Args:
        index: that the hits are of; their vectors are read from it.
    """
    rows = index.get([hit.id for hit in hits]) if hits else {}
    kept = [hit for hit in hits if hit.id in rows]  # another process may have removed one meanwhile
    if not kept:
        return []
    vectors = np.stack([rows[hit.id].vector for hit in kept])
    return [[kept[place] for place in group] for group in group_places(vectors, [hit.modality for hit in kept], near)]
