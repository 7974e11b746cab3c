"""Items that are given more than once: each is embedded once a call.

Images are compared by content, and only those that can be equal are read for it: files of one length, arrays and images
of one shape.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from puma.errors import ImageError
from puma.items.digest import image_digest
from puma.items.item import ImageSource, Item

Key = tuple[Any, ...]

CONTENT = "content"
"""The first of a key that is made of what is in the image, and so means the same at another time."""


def first_of_each(items: Sequence[Item], instructions: Sequence[str | None]) -> tuple[list[int], np.ndarray]:
    """Which items to embed, and which of those stands for each item.

    Args:
        items: n items.
        instructions: one an item.

    Returns:
        The positions of the m items that differ, in the order given; and [n] numbers below m.
    """
    images = image_keys([item.image for item in items])
    places: dict[Hashable, int] = {}
    firsts: list[int] = []
    which = np.empty(len(items), dtype=np.int64)
    for i, (item, instruction) in enumerate(zip(items, instructions, strict=True)):
        place = places.setdefault((item.text, images[i], instruction), len(firsts))
        if place == len(firsts):
            firsts.append(i)
        which[i] = place
    return firsts, which


def image_keys(images: Sequence[ImageSource | None], *, digest_all: bool = False) -> list[Key | None]:
    """Values that are equal for images of equal content, None where there is none. An image that cannot be read equals
    itself alone: whoever opens it will say why.

    Args:
        images: n images.
        digest_all: read all of them, so that the values say the same at another time; else they hold for these images
            alone, and while they are in memory.
    """
    objects = [_object_key(image) for image in images]
    shapes = [None if image is None else _shape(image) for image in images]
    # One image given several times needs no reading, so objects are counted, not their places.
    alike = Counter(shape for _, shape in set(zip(objects, shapes, strict=True)) if shape is not None)
    digests: dict[Key, Key] = {}
    keys: list[Key | None] = []
    for image, own, shape in zip(images, objects, shapes, strict=True):
        if image is None or own is None or (not digest_all and (shape is None or alike[shape] == 1)):
            keys.append(own)
            continue
        if own not in digests:
            try:
                digests[own] = CONTENT, isinstance(image, (bytes, str, os.PathLike)), image_digest(image)
            except ImageError:
                digests[own] = own
        keys.append(digests[own])
    return keys


def _object_key(image: ImageSource | None) -> Key | None:
    """Equal for what is surely the same image, without a look at its content."""
    if image is None:
        return None
    if isinstance(image, bytes):
        return "bytes", image
    if isinstance(image, (str, os.PathLike)):
        try:
            status = os.stat(image)
        except OSError:
            return "path", os.fspath(image)
        return "file", status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return "object", id(image)


def _shape(image: ImageSource) -> Key | None:
    """What equal images have in common and is known at once; None where nothing is."""
    if isinstance(image, bytes):
        return None  # compared as they are
    if isinstance(image, (str, os.PathLike)):
        try:
            return "file", os.stat(image).st_size
        except OSError:
            return None
    if isinstance(image, Image.Image):
        return "image", image.size
    return "array", image.shape
