"""Rows of a teacher's states computed shard by shard, so that a kill loses one shard at most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from tqdm import tqdm

from puma.storage.shards import Shards


def fill(
    shards: Shards,
    keys: Collection[bytes],
    states: Callable[[Sequence[bytes]], np.ndarray],
    *,
    size: int,
    unit: str,
    show_progress: bool,
) -> None:
    """Compute and keep the rows that are not there yet, with a progress bar.

    Args:
        keys: n different keys.
        states: the rows of some of them, [m, dim].
        size: rows a shard.
        unit: what the bar counts.
    """
    todo = [key for key in keys if key not in shards]
    done = len(keys) - len(todo)
    with tqdm(total=len(keys), initial=done, unit=unit, desc="teacher", disable=not show_progress) as bar:
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            shards.append(part, states(part))
            bar.update(len(part))
