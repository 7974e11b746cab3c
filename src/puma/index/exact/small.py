"""Exact nearest neighbours by blocked matrix products, ties broken by id: the truth that every index is compared with.
Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from puma.index.interface import SCORE_DECIMALS, Hit, Row

BLOCK_FLOATS = 2**24
"""Largest block of scores or rows held at once, in floats (128 MiB)."""

Block = tuple[Sequence[str], np.ndarray]
"""Ids and their vectors [rows, dim], float32 or float64."""


def exact_search(queries: np.ndarray, blocks: Iterable[Block], k: int) -> list[list[tuple[str, float]]]:
    """The k best rows of every query over all blocks.

    Args:
        queries: float32 [n, dim], unit rows.
        blocks: any number of them, of any size; ids distinct over all.
        k: at least 1; more than there are rows returns all of them.

    Returns:
        Per query ``(id, cosine)``, cosine descending in [-1, 1] rounded to six decimals, equal ones by id ascending.
    """
    best: list[list[tuple[str, float]]] = [[] for _ in queries]
    wide = queries.astype(np.float64)
    for ids, matrix in blocks:
        # In double precision: in single, one vector stored twice scores differently by its place in the block.
        rows = max(1, BLOCK_FLOATS // max(len(queries), queries.shape[1]))
        for start in range(0, len(ids), rows):
            part = ids[start : start + rows]
            scores = rounded(wide @ matrix[start : start + rows].astype(np.float64, copy=False).T)
            for place, row in enumerate(scores):
                best[place] = _merged(best[place], part, row, k)
    return best


def hits_of(found: Sequence[Sequence[tuple[str, float]]], stored: Mapping[str, Row]) -> list[list[Hit]]:
    """What :func:`exact_search` found as hits, without the rows that were deleted meanwhile."""
    return [
        [
            Hit(name, score, stored[name].modality, stored[name].payload, stored[name].thumbnail)
            for name, score in row
            if name in stored
        ]
        for row in found
    ]


def rounded(scores: np.ndarray) -> np.ndarray:
    """Cosines as float64, clipped to [-1, 1] and rounded, so that what differs by rounding noise only is equal."""
    return np.round(np.clip(scores.astype(np.float64), -1.0, 1.0), SCORE_DECIMALS) + 0.0  # + 0.0: no negative zero


def _merged(old: list[tuple[str, float]], ids: Sequence[str], row: np.ndarray, k: int) -> list[tuple[str, float]]:
    if len(row) > k:
        floor = np.partition(row, len(row) - k)[len(row) - k]  # the k-th best score
        keep = np.flatnonzero(row >= floor)  # all that tie with it: the ids decide
    else:
        keep = np.arange(len(row))
    merged = old + [(ids[place], float(row[place])) for place in keep.tolist()]
    merged.sort(key=lambda pair: (-pair[1], pair[0]))
    return merged[:k]
