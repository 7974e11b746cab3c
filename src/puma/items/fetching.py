"""The images of a batch fetched from an object store at once, before a model takes the batch. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from puma.errors import ImageError
from puma.items.ahead import in_order
from puma.items.digest import read_content
from puma.items.item import Item
from puma.items.objects import ObjectPath

HELD_BYTES = 256 * 2**20
"""Bytes of images that are fetched for one batch; what is beyond is fetched image by image, as it is opened."""


def fetched(items: Sequence[Item], held_bytes: int = HELD_BYTES) -> Sequence[Item]:
    """The items, with the bytes of those images that are objects of a store; others as they are. An image that cannot
    be read stays an object's path: whoever opens it says why.

    Raises:
        StorageError: the store cannot be reached.
    """
    found, held, wanted = list(items), 0, list[int]()
    for place, item in enumerate(items):
        if isinstance(item.image, ObjectPath):
            held += item.image.version.size if item.image.version is not None else 0
            if held > held_bytes:
                break
            wanted.append(place)
    if not wanted:
        return items
    jobs = ((partial(_fetched, items[place]), 0) for place in wanted)
    for place, item in zip(wanted, in_order(jobs), strict=True):
        found[place] = item
    return found


def _fetched(item: Item) -> Item:
    try:
        return Item(item.text, read_content(item)[1])
    except ImageError:
        return item
