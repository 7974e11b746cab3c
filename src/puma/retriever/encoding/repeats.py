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
from PIL import Image, ImageFile

from puma.errors import ImageError
from puma.items.digest import image_digest
from puma.items.item import ImageSource, Item

Key = tuple[Any, ...]

CONTENT = "content"
"""The first of a key that is made of what is in the image, and so means the same at another time."""
FEW = 16
"""Images of a call up to this number are also looked up in, and kept for, other calls, by a digest of their content."""
SAMPLE_BYTES = 4096
"""Read from the middle of files that are of one length, before one is read whole."""


def are_few(images: Sequence[ImageSource | None]) -> bool:
    """Whether a call has images, and so few that they are kept for other calls."""
    return 0 < sum(image is not None for image in images) <= FEW


def first_of_each(
    items: Sequence[Item], instructions: Sequence[str | None]
) -> tuple[list[int], np.ndarray, list[Key | None]]:
    """Which items to embed, and which of those stands for each item.

    Args:
        items: n items.
        instructions: one an item.

    Returns:
        The positions of the m items that differ, in the order given; [n] numbers below m; and the :func:`image_keys` of
        those m.
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
    return firsts, which, [images[i] for i in firsts]


def image_keys(images: Sequence[ImageSource | None]) -> list[Key | None]:
    """Values that are equal for images of equal content, None where there is none. They hold for these images alone,
    and while they are in memory; an image that cannot be read equals itself alone: whoever opens it will say why.
    """
    known = [_without_a_look(image) for image in images]
    # One image given several times needs no reading, so objects are counted, not their places.
    objects: Objects = {}
    for image, (own, shape) in zip(images, known, strict=True):
        if image is not None and own is not None and shape is not None:
            objects[own] = shape, image
    contents = {own: _of_content(own, image) for own, (_, image) in _with_a_double(objects).items()}
    return [None if own is None else contents.get(own, own) for own, _ in known]


def content_keys(images: Sequence[ImageSource | None], keys: Sequence[Key | None]) -> list[Key | None]:
    """The :func:`image_keys` of images, made of the content of all that can be read, so that they say the same at
    another time."""
    known = dict(zip(keys, images, strict=True))
    contents = {key: _of_content(key, image) for key, image in known.items() if key is not None and image is not None}
    return [None if key is None else contents[key] for key in keys]


def _of_content(key: Key, image: ImageSource) -> Key:
    """The key that says what is in an image, the very one where it does already or the image cannot be read."""
    if key[0] == CONTENT:
        return key
    try:
        return CONTENT, isinstance(image, (bytes, str, os.PathLike)), image_digest(image)
    except ImageError:
        return key


Objects = dict[Key, tuple[Key, ImageSource]]


def _with_a_double(objects: Objects) -> Objects:
    """Those whose shape another one has, and then also a few bytes of their content."""
    shapes = Counter(shape for shape, _ in objects.values())
    left = {own: (shape, image) for own, (shape, image) in objects.items() if shapes[shape] > 1}
    samples = {own: (shape, _sample(image)) for own, (shape, image) in left.items()}
    counts = Counter(samples.values())
    return {own: entry for own, entry in left.items() if counts[samples[own]] > 1 and samples[own][1] is not None}


def _sample(image: ImageSource) -> bytes | None:
    """A little of an image's content; None where even that would take long, or cannot be had."""
    try:
        if isinstance(image, (str, os.PathLike)):
            if not os.path.isfile(image):
                return None  # a pipe would be waited for without end
            with open(image, "rb") as file:
                file.seek(os.path.getsize(image) // 2)
                return file.read(SAMPLE_BYTES)
        if isinstance(image, np.ndarray):
            return image[:: max(1, len(image) // 8), :: max(1, image.shape[1] // 8)].tobytes()
        if isinstance(image, Image.Image):
            # One that is opened and not yet read would have to be decoded, long before its turn.
            return image.resize((8, 8), Image.Resampling.NEAREST).tobytes() if _is_loaded(image) else None
    except (OSError, ValueError, IndexError):
        return None
    return image


def _is_loaded(image: Image.Image) -> bool:
    return not isinstance(image, ImageFile.ImageFile) or not image.tile


def _without_a_look(image: ImageSource | None) -> tuple[Key | None, Key | None]:
    """What is known of an image without a look at its content: what only the very same image has, and what all images
    of equal content have; None where there is none."""
    if image is None:
        return None, None
    if isinstance(image, bytes):
        return ("bytes", image), ("bytes", len(image))
    if isinstance(image, (str, os.PathLike)):
        try:
            status = os.stat(image)
        except OSError:
            return ("path", os.fspath(image)), None
        size = status.st_size
        return ("file", status.st_dev, status.st_ino, size, status.st_mtime_ns), ("file", size)
    if isinstance(image, Image.Image):
        return ("object", id(image)), ("image", image.size)
    return ("object", id(image)), ("array", image.shape)
