"""Batches of items of like length, and their preparation on other threads ahead of the model."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from puma.errors import InputError
from puma.items.item import TEXT, Item
from puma.retriever.cores import usable_cores

if TYPE_CHECKING:
    import torch

CPU_PASS_CHARACTERS = 400
"""What a forward pass costs on a CPU beside its texts, in characters of text. There padding costs as much as text, so
texts of unlike lengths are better divided (docs/log.md, 2026-11-23: three times as many a second)."""
PROMPT_CHARACTERS = 48
"""About what the prompt adds to a text."""


def length_sorted_groups(
    items: Sequence[Item],
    batch_size: int,
    instructions: Sequence[str | None] | None = None,
    pass_characters: int | None = None,
) -> list[list[int]]:
    """Row numbers in batches of like kind and length: images apart from texts, longest first, so that padding is
    small and a shortage of memory shows at once.

    Args:
        instructions: one an item, which lengthen it.
        pass_characters: what a forward pass costs beside its texts, in characters of text. If given, texts are divided
            into the batches that cost least, padding counted; else every batch but the last is full.
    """
    lengths = [len(item.text or "") for item in items]
    if instructions is not None:
        lengths = [length + len(instruction or "") for length, instruction in zip(lengths, instructions, strict=True)]
    order = sorted(range(len(items)), key=lambda i: (items[i].modality != TEXT, lengths[i]), reverse=True)
    groups: list[list[int]] = []
    for with_image in (True, False):
        rows = [i for i in order if (items[i].image is not None) == with_image]
        ends = list(range(batch_size, len(rows), batch_size)) + [len(rows)] * bool(rows)
        if not with_image and pass_characters is not None:
            ends = _cheapest_ends([lengths[i] + PROMPT_CHARACTERS for i in rows], batch_size, pass_characters)
        groups += [rows[start:end] for start, end in itertools.pairwise([0, *ends])]
    return groups


def _cheapest_ends(lengths: Sequence[int], most: int, fixed: int) -> list[int]:
    """Where to end the batches of rows sorted by falling length, so that the sum of ``fixed + rows * longest`` over the
    batches, of at most ``most`` rows each, is smallest."""
    best, before = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        costs = [
            (best[start] + fixed + (end - start) * lengths[start], start) for start in range(max(0, end - most), end)
        ]
        cost, start = min(costs)
        best.append(cost)
        before.append(start)
    ends, end = [], len(lengths)
    while end:
        ends.append(end)
        end = before[end]
    return ends[::-1]


Prepared = TypeVar("Prepared")


def prefetched(
    groups: Sequence[list[int]], prepare: Callable[[list[int]], Prepared], threads: int = 1
) -> Iterator[tuple[list[int], Prepared]]:
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
    coming: deque[tuple[list[int], Future[Prepared]]] = deque()
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
