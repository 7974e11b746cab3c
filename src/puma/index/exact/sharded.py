"""Exact search with the candidates cut into shards, each searched by a task of a Ray cluster, and the shards' results
merged. Loads no torch; ray is handed in by whoever is connected.

A score depends on its two rows alone (:mod:`puma.index.exact.rescoring`). So the k best of all are among the shards' k
best, ordered by score and number, and the candidates ahead of a positive are the sum over the shards: the results are
those of :mod:`puma.index.exact.streamed` to the last bit, ties included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.index.exact.matrices import Source, open_source
from puma.index.exact.memory import resident_bytes
from puma.index.exact.rescoring import stored_scores
from puma.index.exact.streamed import (
    checked_positives,
    checked_queries,
    count_ahead,
    found_rows,
    ranks_in_order,
    top_k,
)
from puma.index.interface import checked_k

SHARD_BYTES = 2**28
"""Vectors of a shard: read here, sent to a task, and held by it."""
TASK_BYTES = 2**30
"""What a task may hold beside what its process holds already."""


class ShardedSearch:
    """Exact search by tasks of a Ray cluster.

    Args:
        ray: the connected ray module.
        shard_rows: candidates of a shard; None for :data:`SHARD_BYTES` of them.
        ahead: shards on their way at once.

    Raises:
        InputError: ``shard_rows`` or ``ahead`` is below 1.
    """

    def __init__(self, ray: Any, shard_rows: int | None = None, ahead: int = 4) -> None:
        for name, value in (("shard_rows", shard_rows), ("ahead", ahead)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.ray, self.shard_rows, self.ahead = ray, shard_rows, ahead
        self._top_k, self._count = ray.remote(num_cpus=1)(_top_k), ray.remote(num_cpus=1)(_count)

    def top_k(self, queries: np.ndarray, source: Source, k: int, **_: Any) -> tuple[np.ndarray, np.ndarray]:
        """As :func:`puma.index.exact.streamed.top_k`, whose ``memory`` and ``progress`` are the tasks' own here."""
        k = checked_k(k)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), np.nan, dtype=np.float32)
        held = self.ray.put(np.asarray(queries))
        for start, part in self._shards(source, lambda shard: self._top_k.remote(held, shard, k)):
            ids, scores = merged(ids, scores, np.where(part[0] < 0, -1, part[0] + start), part[1], k)
        return ids, scores

    def ranks(
        self, queries: np.ndarray, source: Source, positives: Sequence[Sequence[int] | np.ndarray], **_: Any
    ) -> list[np.ndarray]:
        """As :func:`puma.index.exact.streamed.ranks_of_positives_streamed`."""
        with open_source(source, None) as rows:
            checked, query_ok = checked_queries(queries, rows)
            owner, place = checked_positives(positives, len(checked), rows.count)
            if len(owner):
                found = found_rows(rows, place) & query_ok[owner]
                owner, place = owner[found], place[found]
            own = stored_scores(checked, rows, owner, place) if len(owner) else np.empty(0)
        above = np.zeros(len(owner), dtype=np.int64)
        if len(owner):
            held = [self.ray.put(array) for array in (checked, owner, own)]
            for _start, part in self._shards(source, lambda shard: self._count.remote(*held, shard)):
                above += part
        return ranks_in_order(len(checked), owner, own, above)

    def _shards(self, source: Source, submit: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        """Each shard's first row and what its task gave, in any order; a few shards are on their way at once."""
        waiting: dict[Any, int] = {}
        with open_source(source, None) as rows:
            size = self.shard_rows or max(1, SHARD_BYTES // (4 * max(rows.dim, 1)))
            for start in range(0, rows.count, size):
                if len(waiting) == self.ahead:
                    yield self._next(waiting)
                shard = np.empty((min(size, rows.count - start), rows.dim), dtype=np.float32)
                rows.read(start, start + len(shard), shard, careful=True)
                waiting[submit(self.ray.put(shard))] = start
            while waiting:
                yield self._next(waiting)

    def _next(self, waiting: dict[Any, int]) -> tuple[int, Any]:
        (done,), _ = self.ray.wait(list(waiting), num_returns=1)
        return waiting.pop(done), self.ray.get(done)


def merged(
    ids: np.ndarray, scores: np.ndarray, more_ids: np.ndarray, more_scores: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of two lists a query, each best first with ids of -1 and scores of NaN at its end: by score, equal
    scores by id.

    Args:
        ids, more_ids: int64 [n, any]. scores, more_scores: float32, of them.
    """
    both, values = np.concatenate([ids, more_ids], axis=1), np.concatenate([scores, more_scores], axis=1)
    order = np.lexsort((both, np.where(both < 0, np.inf, -values)))[:, :k]
    return np.take_along_axis(both, order, axis=1), np.take_along_axis(values, order, axis=1)


def _top_k(queries: np.ndarray, shard: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return top_k(queries, shard, k, memory=resident_bytes() + TASK_BYTES, threads=1)


def _count(queries: np.ndarray, owner: np.ndarray, own: np.ndarray, shard: np.ndarray) -> np.ndarray:
    return count_ahead(queries, shard, owner, own, memory=resident_bytes() + TASK_BYTES)
