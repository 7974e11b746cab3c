"""Work done on several threads ahead of whoever takes its results, in order and within bounds. Loads no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

THREADS = 8
"""Objects that are fetched at once."""
AHEAD, AHEAD_BYTES = 32, 64 * 2**20
"""Results that may wait to be taken, and bytes of the objects in them."""
_END = object()


def in_order(
    jobs: Iterable[tuple[Callable[[], T], int]],
    threads: int = THREADS,
    ahead: int = AHEAD,
    bytes_ahead: int = AHEAD_BYTES,
) -> Iterator[T]:
    """What the jobs give, in their order, worked on ahead.

    Args:
        jobs: each with the bytes that its result holds; 0 where that is not known. Drawn by the thread that takes the
            results.
        threads: jobs done at once.
        ahead: jobs that are under way or wait to be taken, at most.
        bytes_ahead: bytes of those jobs, at most; one job alone may hold more.

    Yields:
        What each job returned. What a job raises is raised here, at its place.
    """
    left, waiting, held = iter(jobs), deque[tuple[Future[T], int]](), 0
    drawn: tuple[Callable[[], T], int] | None = None
    with ThreadPoolExecutor(threads, thread_name_prefix="puma-fetching") as pool:
        try:
            while True:
                while len(waiting) < ahead:
                    drawn = drawn or next(left, None)
                    if drawn is None or (waiting and held + drawn[1] > bytes_ahead):
                        break
                    work, size = drawn
                    waiting.append((pool.submit(work), size))
                    held, drawn = held + size, None
                if not waiting:
                    return
                future, size = waiting.popleft()
                result = future.result()
                held -= size
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            close = getattr(left, "close", None)
            if close is not None:
                close()


def one_ahead(values: Generator[T]) -> Generator[T]:
    """Each value, while the next is being made on another thread. What making one raises is raised at its place."""
    with ThreadPoolExecutor(1, thread_name_prefix="puma-reading") as pool:
        coming = pool.submit(next, values, _END)
        try:
            while (value := coming.result()) is not _END:
                coming = pool.submit(next, values, _END)
                yield value  # type: ignore[misc]
        finally:
            coming.cancel()
            pool.submit(values.close).result()
