"""Which candidates are negatives of which query. Pure functions on tensors of keys and scores."""

from __future__ import annotations

import math

import torch

from puma.errors import InputError

NONE = -1
"""The key that stands for "none": the padding of ``known``, and a content that is not known."""


def false_negatives(
    known: torch.Tensor,
    positive_key: torch.Tensor,
    candidate_key: torch.Tensor,
    content_key: torch.Tensor | None = None,
    positive: torch.Tensor | None = None,
) -> torch.Tensor:
    """Which candidates are right for a query without being its positive in this batch.

    A candidate is one if it has the positive's id, the id of another known positive, or the same content as any
    candidate of the batch that is right by its id. It works on keys alone, so on candidates gathered from any number of
    processes.

    Args:
        known: int64 [q, m]: keys of the known positives of each query, padded with -1.
        positive_key: int64 [q]: the key of each query's positive.
        candidate_key: int64 [c], >= 0: keys of the candidates' ids.
        content_key: int64 [c]: keys of the candidates' contents, -1 where unknown; None: contents are not compared.
        positive: int64 [q]: which candidate is each query's positive; None: candidate i is query i's.

    Returns:
        bool [q, c]; never True at a query's positive.

    Raises:
        InputError: the shapes do not fit.
    """
    q, c = positive_key.shape[0], candidate_key.shape[0]
    if known.ndim != 2 or known.shape[0] != q or positive_key.ndim != 1 or candidate_key.ndim != 1:
        raise InputError(
            f"known {list(known.shape)}, positive_key {list(positive_key.shape)} and candidate_key "
            f"{list(candidate_key.shape)} must be [q, m], [q] and [c]"
        )
    if content_key is not None and content_key.shape != (c,):
        raise InputError(f"content_key must be [c]=[{c}], got {list(content_key.shape)}")
    if positive is None:
        if c < q:
            raise InputError(f"{q} queries and {c} candidates: without positive=, candidate i is query i's, so c >= q")
        positive = torch.arange(q, device=candidate_key.device)
    # By way of the sorted keys: [q, m] look-ups, not [q, m, c] comparisons (a query may have thousands of positives).
    keys, place = torch.unique(candidate_key, return_inverse=True)
    wanted = torch.cat([positive_key[:, None], known], 1)  # [q, 1 + m]
    found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    row, column = ((keys[found] == wanted) & (wanted != NONE)).nonzero(as_tuple=True)
    by_key = torch.zeros(q, len(keys), dtype=torch.bool, device=candidate_key.device)
    by_key[row, found[row, column]] = True
    mask = by_key[:, place]  # [q, c]
    every = torch.arange(q, device=mask.device)
    if content_key is not None:
        contents, place = torch.unique(content_key, return_inverse=True)
        mask[every, positive] = True
        row, column = mask.nonzero(as_tuple=True)
        by_content = torch.zeros(q, len(contents), dtype=torch.bool, device=mask.device)
        by_content[row, place[column]] = True
        by_content[:, contents == NONE] = False
        mask = mask | by_content[:, place]
    mask[every, positive] = False
    return mask


def repeated(candidate_key: torch.Tensor) -> torch.Tensor:
    """bool [c]: the candidate stood before under the same key. It is one candidate, and counts once in a sum."""
    keys, place = torch.unique(candidate_key, return_inverse=True)
    order = torch.arange(len(place), device=place.device)
    first = torch.full((len(keys),), len(place), device=place.device).scatter_reduce(0, place, order, "amin")
    return order != first[place]


def compared(scores: torch.Tensor, exclude: torch.Tensor | None, margin: float | None = None) -> torch.Tensor:
    """bool [q, c]: the candidates that enter a query's sum: its positive (the diagonal) always, the others unless they
    are excluded or, with a margin, score above positive + margin.

    The margin is additive: a ratio would turn around for negative scores. No gradient passes through the choice.

    Args:
        scores: cosines [q, c].
        exclude: bool [q, c] or None.
        margin: in units of the cosine; 0 drops whatever beats the positive, 0.1 only what beats it clearly.

    Raises:
        InputError: the margin is not a finite number.
    """
    positives = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    keep = torch.ones_like(positives) if exclude is None else ~exclude
    if margin is not None:
        if not math.isfinite(margin):
            raise InputError(f"margin={margin!r}: give a finite number (cosine), or None for no margin")
        scores = scores.detach()
        keep = keep & (scores <= scores.diagonal()[:, None] + margin)
    return keep | positives
