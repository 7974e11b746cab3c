"""Embedding of what is read once: items are embedded as they come, part after part, and a kill costs the part in work.

As :mod:`puma.evaluation.stored.resumable`, for items that nobody holds all at once: their number is not known
beforehand, and what was read of a part is dropped when it is embedded. Loads no torch.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from puma.errors import StorageError
from puma.evaluation.processes import processes, wait
from puma.evaluation.stored.resumable import Found
from puma.items.ahead import one_ahead
from puma.items.encoder import Batch, Encoder, embed_batches
from puma.items.item import Item
from puma.storage.vectors import VectorStore

HELD_BYTES = 128 * 2**20
"""A part ends early when the images' files that it holds take more than this."""


@dataclass(frozen=True)
class _Part:
    """Items that are embedded together, and a digest of their contents, of where they start and of the instruction."""

    number: int
    start: int
    items: list[Item]
    digest: str


def embed_stream(
    encoder: Encoder,
    store: VectorStore,
    name: str,
    found: Iterable[tuple[Item, str]],
    *,
    part_size: int,
    instruction: str | None = None,
    total: int | None = None,
    progress: bool = True,
) -> Found:
    """Embed items as they come; the next part is read while the encoder works on this one.

    Of several processes each reads everything, embeds its share of the parts, and gets the result.

    Args:
        store: an open one; every process has its own on the same folder.
        name: of the group in it.
        found: items and the digests of their contents, drawn by another thread. Images are best given as bytes: they
            are read when their part is embedded.
        part_size: items of a part, at most.
        instruction: goes before every item.
        total: about how many items will come, for the bar's time left; None where that is not known.
        progress: whether a bar goes to stderr.

    Returns:
        Vectors float32 [n, dim], a memory map; which items could be embedded; (position, reason) of the others.

    Raises:
        StorageError: what one process read is not what another one read: it has changed meanwhile.
    """
    rank, world = processes()
    group = store.group(name, None, encoder.dim)
    wait()  # nobody writes before everybody has seen what is there
    digests: list[str] = []
    drawn: deque[_Part] = deque()
    rows = 0
    hidden = not progress or rank > 0
    bar_of = tqdm(total=total, desc="embedding", unit="item", disable=hidden, smoothing=0.1)
    with bar_of as bar, closing(one_ahead(_parts(found, part_size, instruction))) as parts:

        def batches() -> Iterator[Batch]:
            nonlocal rows
            for part in parts:
                digests.append(part.digest)
                rows = part.start + len(part.items)
                finished = group.finished.get(part.number)
                if part.number % world != rank or (finished is not None and finished.digest == part.digest):
                    bar.update(len(part.items))
                    continue
                drawn.append(part)
                yield part.items, instruction

        for vectors, _, faults in embed_batches(encoder, batches()):
            part = drawn.popleft()
            own = [(part.start + place, reason) for place, reason in faults]
            group.write(part.number, part.start, vectors, part.digest, own)
            bar.update(len(vectors))
        if bar.total is not None:
            bar.total = bar.n  # the count was an estimate
    wait()
    group.reload()
    marks = [group.finished.get(number) for number in range(len(digests))]
    if any(mark is None or mark.digest != digest for mark, digest in zip(marks, digests, strict=True)):
        raise StorageError(
            f"{store.folder}: the processes of this run did not read the same, what they read has changed meanwhile; "
            "give the same command again, it goes on from what is the same"
        )
    group.end(rows)
    faults = sorted(fault for mark in marks if mark is not None for fault in mark.faults)
    readable = np.ones(rows, dtype=bool)
    readable[[place for place, _ in faults]] = False
    vectors = group.matrix()
    wait()  # the first process removes the folder as soon as it has the result
    return vectors, readable, faults


def _parts(found: Iterable[tuple[Item, str]], size: int, instruction: str | None) -> Generator[_Part]:
    items: list[Item] = []
    contents: list[str] = []
    number = start = held = 0

    def part() -> _Part:
        said = [str(start), "" if instruction is None else f"{len(instruction)} {instruction}", *contents]
        digest = hashlib.sha256("\0".join(said).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return _Part(number, start, items, digest)

    for item, content in found:
        items.append(item)
        contents.append(content)
        held += len(item.image) if isinstance(item.image, bytes) else 0
        if len(items) >= size or held > HELD_BYTES:
            yield part()
            number, start, held = number + 1, start + len(items), 0
            items, contents = [], []
    if items:
        yield part()
