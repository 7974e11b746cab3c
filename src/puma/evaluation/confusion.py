"""Modality confusion: the modality of each query's first hit, and how often it is the wrong one. Loads no torch.

A pool that mixes modalities lets a model answer with the wrong kind: a text query finds a text where an image was
asked for. Ties count against us here, too: where the best of a wrong modality scores as high as the best of the right
one, the wrong one is the top hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from puma.data.records import TASK_MODALITIES
from puma.items.item import MODALITIES

NONE = "none"
"""What a query without any hit counts as: one that could not be embedded, or that a run lacks."""


def top_modalities(best: np.ndarray, wanted: int) -> np.ndarray:
    """The modality of each query's top hit.

    Args:
        best: [queries, modalities], the best score of any candidate of each, -inf where there is none.
        wanted: the column of the modality asked for.

    Returns:
        int64 [queries]: columns of ``best``, -1 where nothing was found.

    Examples:
        >>> top_modalities(np.array([[0.5, 0.5, -np.inf], [0.2, 0.5, 0.1]]), wanted=1).tolist()
        [0, 1]
    """
    wrong = np.array(best, dtype=np.float64)
    wrong[:, wanted] = -np.inf
    first = wrong.argmax(axis=1)
    top = np.where(wrong.max(axis=1) >= best[:, wanted], first, wanted)
    return np.where(np.isneginf(best).all(axis=1), -1, top)


def shares(tops: np.ndarray) -> dict[str, float]:
    """The share of queries whose top hit has each modality, by name; they sum to 1 with :data:`NONE`, which is there
    only if some query found nothing."""
    found = {name: float((tops == code).mean()) for code, name in enumerate(MODALITIES)}
    return found | ({NONE: float((tops < 0).mean())} if (tops < 0).any() else {})


def wrong_modality(tops: np.ndarray, wanted: int) -> float:
    """The share of queries whose top hit is not of the modality asked for; no hit is a wrong one."""
    return float((tops != wanted).mean())


def confusion_table(tables: Mapping[str, Mapping[str, Any]], pool: str = "global") -> list[dict[str, Any]]:
    """The rows of the modality confusion table of one pool.

    Args:
        tables: ``{task id or label: table}`` as :func:`puma.evaluation.mbeir.evaluate` gives them.
        pool: ``local`` or ``global``.

    Returns:
        Per task that has the pool: ``task``, ``query`` and ``wanted`` (modalities), ``shares`` (by modality of the top
        hit), ``wrong`` (the share of queries whose top hit is of another modality than wanted).
    """
    rows = []
    for task, whole in tables.items():
        table = whole if pool == "local" else whole.get(pool, {})
        if "confusion" in table:
            query, wanted = TASK_MODALITIES[int(str(task).rpartition("task")[2])]
            found = dict(table["confusion"])
            row = {"task": task, "query": query, "wanted": wanted, "shares": found}
            rows.append(row | {"wrong": 1.0 - found.get(wanted, 0.0)})
    return rows
