"""The searches that a batch of queries makes, one for each modality, and their hits in one order. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from puma.index import Hit, Index
from puma.index.interface import checked_modality
from puma.index.reads import one_read
from puma.items.item import MODALITIES
from puma.search.merging import CALIBRATED, SINGLE, checked_merge, levels, merged
from puma.search.queries import Modalities, QueryBatch


def searches(index: Index, modality: Modalities, merge: str) -> tuple[Modalities, ...]:
    """What is searched for one after the other: each modality that is wanted and that the index has, or all at once.

    Raises:
        InputError: a modality or the way to merge is unknown.
    """
    kinds = checked_modality(modality) or MODALITIES
    if checked_merge(merge) == SINGLE or len(kinds) == 1:
        return (modality,)
    present = index.sample()
    return tuple(kind for kind in kinds if kind in present) or (modality,)


@one_read()
def find(
    index: Index,
    batch: QueryBatch,
    vectors: np.ndarray,
    k: int,
    *,
    where: Mapping[str, Any] | None = None,
    exact: bool = False,
) -> list[list[Hit]]:
    """The k best hits of each query; those of several searches in one order.

    Args:
        vectors: from :meth:`puma.search.queries.QueryBatch.vectors`.
        k, where, exact: as in :meth:`puma.Index.search`.
    """
    found = [
        index.search(own, k, kind, where=where, exact=exact) for own, kind in zip(vectors, batch.wanted, strict=True)
    ]
    if len(found) == 1:
        return found[0]
    names = [str(kind) for kind in batch.wanted]
    samples = index.sample() if batch.merge == CALIBRATED else {}
    answers = []
    for query, lists in enumerate(zip(*found, strict=True)):
        own = dict(zip(names, lists, strict=True))
        if batch.merge != CALIBRATED:
            answers.append(merged(own, batch.merge)[:k])
            continue
        # A modality whose last row another process has just deleted is in no sample, and its hits are gone too.
        rows = {name: vectors[place, query] for place, name in enumerate(names) if name in samples}
        known = levels(rows, samples)
        answers.append(merged({name: own[name] for name in known}, batch.merge, known)[:k])
    return answers
