"""Batches of items of like length, and their preparation on other threads ahead of the model."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from puma.errors import InputError
from puma.retriever.cores import usable_cores

if TYPE_CHECKING:
    import torch

CPU_PASS_TOKENS, GPU_PASS_TOKENS = 16, 2000
"""What a forward pass costs beside its tokens, in tokens (measured on puma-mini; on a GPU about the time in which a
decoder's kernels are started). On a CPU padding costs as much as text, so that unlike lengths are better divided."""
QUICK_CPU_PASS_TOKENS = 32
"""The same on a CPU where tokens cost half (:mod:`puma.retriever.encoding.quick_linear`)."""
CPU_MOST_TOKENS = 4096
"""Of a batch on a CPU: beyond it tensors leave the caches, and a token costs more (14 % at 10,000)."""


def pass_tokens(device: torch.device) -> int:
    """What a forward pass costs on a device beside its tokens, in tokens."""
    if device.type != "cpu":
        return GPU_PASS_TOKENS
    from puma.retriever.encoding.quick_linear import onednn_pays

    return QUICK_CPU_PASS_TOKENS if onednn_pays() else CPU_PASS_TOKENS


def length_sorted_batches(
    lengths: Sequence[int], most_rows: int, *, fixed: int | None = None, most_tokens: int | None = None
) -> list[list[int]]:
    """Row numbers in batches of like length, longest first, so that a shortage of memory shows at once.

    Args:
        lengths: in tokens.
        most_rows: of a batch.
        fixed: what a pass costs beside its tokens, in tokens. If given, rows are divided into the batches that cost
            least, padding counted; else every batch but the last is full.
        most_tokens: of a batch, padding counted; one row may have more.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    longest = [lengths[i] for i in order]
    if fixed is not None:
        ends = _cheapest_ends(longest, most_rows, fixed, most_tokens or sum(longest))
    else:
        ends, start = [], 0
        while start < len(order):
            rows = most_rows if most_tokens is None else min(most_rows, max(1, most_tokens // max(1, longest[start])))
            start = min(len(order), start + rows)
            ends.append(start)
    return [order[start:end] for start, end in itertools.pairwise([0, *ends])]


def _cheapest_ends(lengths: Sequence[int], most: int, fixed: int, most_tokens: int) -> list[int]:
    """Where to end the batches of rows sorted by falling length, so that the sum of ``fixed + rows * longest`` over the
    batches, each of at most ``most`` rows and ``most_tokens``, is smallest."""
    best, before = [0], [0]
    for end in range(1, len(lengths) + 1):
        cost, start = best[end - 1] + fixed + lengths[end - 1], end - 1
        for first in range(end - 2, max(0, end - most) - 1, -1):
            tokens = (end - first) * lengths[first]
            if tokens > most_tokens:
                break  # an earlier start is longer, and has more rows
            if best[first] + fixed + tokens < cost:
                cost, start = best[first] + fixed + tokens, first
        best.append(cost)
        before.append(start)
    ends, end = [], len(lengths)
    while end:
        ends.append(end)
        end = before[end]
    return ends[::-1]


Group = TypeVar("Group")
Prepared = TypeVar("Prepared")


def prefetched(
    groups: Iterable[Group], prepare: Callable[[Group], Prepared], threads: int = 1
) -> Iterator[tuple[Group, Prepared]]:
    """Prepare the next batches on other threads while the model works on this one.

    Args:
        groups: what ``prepare`` is called with, one a batch.
        prepare: called on one of the threads; it must be safe on several where there are several.
        threads: how many; as many batches, and one more, are in memory at most.

    Yields:
        (group, what was made of it), in the order of the groups. What ``prepare`` raises is raised here, at its group.
    """
    if threads < 1:
        raise InputError(f"threads={threads}: give a number of at least 1")
    left = iter(groups)
    coming: deque[tuple[Group, Future[Prepared]]] = deque()
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="puma-prepare") as pool:
        try:
            coming.extend((rows, pool.submit(prepare, rows)) for rows in itertools.islice(left, threads))
            while coming:
                rows, future = coming.popleft()
                made = future.result()
                coming.extend((rows, pool.submit(prepare, rows)) for rows in itertools.islice(left, 1))
                yield rows, made
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # on an early end: what has not begun need not


def preparing_threads(device: torch.device) -> int:
    """How many threads prepare batches of images for a model on this device: one where the model itself works on the
    cores, up to four where they are free (decoders and arrays leave Python's lock, the rest of the work holds it)."""
    return 1 if device.type == "cpu" else max(1, min(4, usable_cores() - 1))
