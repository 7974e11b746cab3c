"""Embedding many items through any encoder: in batches, with progress, past images that cannot be used. Loads no torch.

An image may be one that cannot be opened, or one that opens and that the encoder's own processor refuses; either is
left out by itself, and the items around it are embedded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from tqdm import tqdm

from puma.errors import ImageError
from puma.items.item import Item
from puma.items.skips import Skip

__all__ = ["BATCH", "Skip", "embed_batches", "embed_readable"]

Batch = tuple[Sequence[Item], str | None]
"""Items to embed together, and the instruction before each of them."""
Embedded = tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]
"""What :func:`embed_readable` returns."""


class Encoder(Protocol):
    """What turns items into vectors: a Retriever, a baseline, a remote service. Evaluation, search and serving see
    only this."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """A short name that changes whenever the vectors would: an index refuses another one."""

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        """Embed items: float32 [n, dim], rows of unit length, in the order given. The instruction goes before every
        item; candidates take none."""


BATCH = 256
"""Items handed to the encoder at once; it cuts them into batches of its own."""


def embed_readable(
    encoder: Encoder,
    items: Sequence[Item],
    *,
    instruction: str | None = None,
    batch_size: int = BATCH,
    progress: str | None = None,
) -> Embedded:
    """Embed all items whose images can be opened and are taken by the encoder.

    Args:
        instruction: goes before every item.
        progress: a label for the progress bar on stderr; None for no bar.

    Returns:
        ``vectors`` float32 [n, dim], zero where an item could not be read; ``readable`` bool [n]; and
        ``(position, reason)`` of each that could not.
    """
    vectors = np.zeros((len(items), encoder.dim), dtype=np.float32)
    readable = np.ones(len(items), dtype=bool)
    faults: list[tuple[int, str]] = []

    def embed(places: list[int]) -> list[tuple[int, str]]:
        """Fill in these rows; returns what was refused. Halves are tried apart until one item is left to blame."""
        if not places:
            return []
        try:
            vectors[places] = encoder.encode([items[place] for place in places], instruction=instruction)
        except ImageError as error:
            if len(places) == 1:
                return [(places[0], str(error))]
            middle = len(places) // 2
            return embed(places[:middle]) + embed(places[middle:])
        return []

    with tqdm(total=len(items), desc=progress, unit="item", disable=progress is None, smoothing=0.1) as bar:
        for start in range(0, len(items), batch_size):
            places = list(range(start, min(start + batch_size, len(items))))
            try:
                vectors[places] = encoder.encode([items[place] for place in places], instruction=instruction)
            except ImageError:
                # Most often a file cannot be opened, and that is found without a forward pass.
                bad = _unreadable(items, places)
                gone = {place for place, _ in bad}
                bad += embed([place for place in places if place not in gone])
                faults += sorted(bad)
                readable[[place for place, _ in bad]] = False
            bar.update(len(places))
    return vectors, readable, faults


def embed_batches(encoder: Encoder, batches: Iterable[Batch]) -> Iterator[Embedded]:
    """Embed batches one after the other, each as a whole, and give what :func:`embed_readable` gives of each, in their
    order. An encoder with an ``embed_batches`` of its own (:class:`puma.items.remote.RayEncoder`) takes them several at
    once: it draws batches ahead of the results."""
    own = getattr(encoder, "embed_batches", None)
    if own is not None:
        yield from own(batches)
        return
    for items, instruction in batches:
        yield embed_readable(encoder, items, instruction=instruction, batch_size=max(len(items), 1))


def _unreadable(items: Sequence[Item], places: Sequence[int]) -> list[tuple[int, str]]:
    faults = []
    for place in places:
        try:
            items[place].open_image()
        except ImageError as error:
            faults.append((place, str(error)))
    return faults
