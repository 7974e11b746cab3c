"""One pass over all candidates in blocks, shared among threads, its results handed over in the blocks' order. Loads no
torch.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from puma.errors import DataError
from puma.index.exact.matrices import Rows
from puma.index.exact.rescoring import LENGTH_TOLERANCE

AHEAD = 2
"""Blocks under way or waiting to be merged, in multiples of the threads."""
TILE = 1024
"""Queries of one matrix product."""


class Space:
    """What a thread needs for a block, allocated once: candidates, scores, and which of these are of interest."""

    def __init__(self, block: int, dim: int, queries: int) -> None:
        tile = min(TILE, queries)
        self.rows = np.empty((block, dim), dtype=np.float32)
        self._scores = np.empty(tile * block, dtype=np.float32)
        self._mask = np.empty(tile * block, dtype=bool)

    def scores(self, queries: np.ndarray, rows: np.ndarray, lost: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Products [queries, rows] and a mask of that shape to write to; minus infinity for lost rows."""
        shape = (len(queries), len(rows))
        scores = self._scores[: shape[0] * shape[1]].reshape(shape)
        np.matmul(queries, rows.T, out=scores)
        if lost is not None:
            scores[:, lost] = -np.inf
        return scores, self._mask[: scores.size].reshape(shape)


Visit = Callable[[int, np.ndarray, "np.ndarray | None", Space], Any]
"""``(first row's place, rows float32 [b, dim], mask bool [b] of lost rows or None, space) -> result``."""


@contextlib.contextmanager
def workers(threads: int) -> Iterator[Executor | None]:
    """Threads that compute side by side, each with a BLAS of one thread; None if there is to be one in all."""
    with threadpool_limits(1, user_api="blas"):
        if threads == 1:
            yield None
            return
        pool = ThreadPoolExecutor(threads, thread_name_prefix="puma-search")
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def scan(
    source: Rows,
    first: int,
    block: int,
    spaces: list[Space],
    pool: Executor | None,
    visit: Visit,
    merge: Callable[[int, int, Any], None],
) -> None:
    """Call ``visit`` on every block from row ``first`` on, and ``merge(start, stop, result)`` in order, in this thread.

    While a block is visited, at least all blocks more than ``AHEAD * len(spaces)`` before it have been merged.

    Raises:
        DataError: a stored row is neither of unit length nor lost (all zeros, or NaN in it).
    """
    free: SimpleQueue[Space] = SimpleQueue()
    for space in spaces:
        free.put(space)

    def work(start: int, stop: int) -> Any:
        space = free.get()
        try:
            rows = space.rows[: stop - start]
            source.read(start, stop, rows)
            return visit(start, rows, _lost(source, rows, start), space)
        finally:
            free.put(space)

    bounds = [(start, min(start + block, source.count)) for start in range(first, source.count, block)]
    if pool is None:
        for start, stop in bounds:
            merge(start, stop, work(start, stop))
        return
    waiting: deque[tuple[int, int, Future[Any]]] = deque()
    try:
        for start, stop in bounds:
            if len(waiting) == AHEAD * len(spaces):
                low, high, result = waiting.popleft()
                merge(low, high, result.result())
            waiting.append((start, stop, pool.submit(work, start, stop)))
        while waiting:
            low, high, result = waiting.popleft()
            merge(low, high, result.result())
    except BaseException:
        for _, _, result in waiting:
            result.cancel()
        raise


def lost_rows(rows: np.ndarray, name: str, first: int = 0) -> np.ndarray | None:
    """Which rows float32 [n, dim] stand for nothing: all zeros, or NaN among them; None if none does.

    Raises:
        DataError: another row is not of unit length.
    """
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.vecdot(rows, rows))
    odd = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE))
    if not len(odd):
        return None
    lost = np.zeros(len(rows), dtype=bool)
    lost[odd] = np.isnan(rows[odd]).any(axis=1) | ~rows[odd].any(axis=1)
    wrong = odd[~lost[odd]]
    if len(wrong):
        raise DataError(
            f"{name}[{first + int(wrong[0])}] has length {lengths[wrong[0]]:.4f}, not 1; divide each row by its norm "
            "(rows of zeros or NaN stand for items that could not be embedded)"
        )
    return lost


def _lost(source: Rows, rows: np.ndarray, start: int) -> np.ndarray | None:
    with np.errstate(all="ignore"):
        squares = np.vecdot(rows, rows)
    if np.abs(squares - 1).max(initial=0) <= LENGTH_TOLERANCE:  # false for NaN as well
        return None
    source.read(start, start + len(rows), rows, careful=True)
    lost = lost_rows(rows, "source", start)
    if lost is not None:
        rows[lost] = 0
    return lost
