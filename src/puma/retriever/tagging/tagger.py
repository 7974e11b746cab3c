"""Tags of photographs: the name of the likeliest class, written beside the image for the model to read. Loads no torch.

A small model learns little from a class that its vision tower knows but no training image showed. The tower's own
classifier still names it; puma-mini finds photographs of things it never saw by that name (docs/results.md). Drawings
get no tag: the classifier is right for photographs alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL
from PIL import Image

from puma.errors import ImageError
from puma.items.item import IMAGE, Item, TaggedItem
from puma.retriever.encoding.image_cache import ByteCache
from puma.retriever.encoding.repeats import CONTENT, Key, content_keys, image_keys
from puma.retriever.images.decoding import within_limits
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.tagging.statistics import pixel_statistics

FOLDER = "puma_tagger"
"""Where a retriever's folder holds the classifier."""
BATCH = 32
"""Images a pass of the classifier."""
WORKERS = 2
"""Threads that decode."""

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From pixel values float32 [n, 3, height, width] to the likeliest class int64 [n] and how much an image's features are
those of a photograph, float32 [n]."""


@dataclass(frozen=True)
class Tagger:
    """Gives photographs a tag.

    Args:
        names: of the classes.
        images: what is done to images before the network.
        network: classifies them.
        fingerprint: changes whenever a tag, or the shift, could.
        statistics: float32 [:data:`~puma.retriever.tagging.statistics.COUNT`], the weights of an image's pixel
            statistics; an image is a photograph where their sum and the network's number are above 0.
        shift: float32 [2, dim], what is taken off the vectors of tagged images without an instruction and with one: a
            part of what a tag does to all images alike, which would make them pass for images with a text.
        module: the network's torch module, where it has one: what is written to a folder.
    """

    names: tuple[str, ...]
    images: Preprocessing
    network: Network
    fingerprint: str
    statistics: np.ndarray
    shift: np.ndarray
    module: Any = None

    def tagged(
        self,
        items: Sequence[Item],
        own: Any = None,
        cache: ByteCache | None = None,
        keys: Sequence[Key | None] | None = None,
    ) -> list[Item]:
        """The items, those that are images alone and photographs with their tag.

        Images that cannot be opened, or are tagged already, come back as they are.

        Args:
            items: n items.
            own: what the retriever does to images. Where that is the same, the items hold the small images made here,
                so that none is decoded twice. With a cache and without ``keys`` they keep the images that were given,
                of which the caller will still make keys.
            cache: where tags are looked up, and kept: what is there is not opened.
            keys: of the items' images, as :func:`puma.retriever.encoding.repeats.image_keys` gives them, by content
                where there is a cache. Images with equal keys are opened once. None: with a cache they are made here;
                without one every image is opened.
        """
        found = list(items)
        places = [k for k, item in enumerate(items) if item.modality == IMAGE and not isinstance(item, TaggedItem)]
        small = own == self.images and (cache is None or keys is not None)
        if keys is None and cache is not None:
            images = [items[k].image for k in places]
            keys = content_keys(images, image_keys(images))
        elif keys is not None:
            keys = [keys[k] for k in places]
        alike: dict[Hashable, list[int]] = {}
        for n, k in enumerate(places):
            alike.setdefault(k if keys is None else keys[n], []).append(k)
        kept: dict[Hashable, bytes] = {}
        if cache is not None:
            kept = {key: under for key in alike if (under := self._kept_under(key)) is not None}
            stored = cache.get(kept.values())
            for key in [key for key, under in kept.items() if under in stored]:
                for k in alike.pop(key):
                    found[k] = _with_tag(items[k], stored[kept[key]].decode())
        if not alike:
            return found
        left = list(alike)
        with ThreadPoolExecutor(WORKERS if len(left) > 1 else 1) as pool:
            for start in range(0, len(left), BATCH):
                part = left[start : start + BATCH]
                opened = pool.map(self._opened, [items[alike[key][0]] for key in part])
                made = {key: image for key, image in zip(part, opened, strict=True) if image is not None}
                tags = dict(zip(made, self._tags(list(made.values())), strict=True))
                for key, tag in tags.items():
                    for k in alike[key]:
                        found[k] = _with_tag(replace(items[k], image=made[key]) if small else items[k], tag)
                if cache is not None:
                    cache.put({kept[key]: tag.encode() for key, tag in tags.items() if key in kept})
        return found

    def corrected(self, vectors: np.ndarray, items: Sequence[Item], instructions: Sequence[str | None]) -> np.ndarray:
        """Unit vectors with the shift taken off those of tagged images.

        Args:
            vectors: float32 [n, dim], unit rows; changed in place.
            items: the n items, as :meth:`tagged` returned them.
            instructions: one an item.
        """
        rows = [row for row, item in enumerate(items) if isinstance(item, TaggedItem)]
        if rows:
            moved = vectors[rows] - self.shift[[int(bool(instructions[row])) for row in rows]]
            vectors[rows] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        return vectors

    def _tags(self, images: Sequence[Image.Image]) -> list[str]:
        """The tag of each image; empty for drawings."""
        if not images:
            return []
        classes, photo = self.network(self.images(images))
        photo = photo + np.stack([pixel_statistics(image) for image in images]) @ self.statistics
        return [self.names[k] if score > 0 else "" for k, score in zip(classes, photo, strict=True)]

    def _kept_under(self, key: Hashable) -> bytes | None:
        """What the tag of an image of this key is kept under; None where the key does not say what is in it."""
        if not isinstance(key, tuple) or key[0] != CONTENT:
            return None
        identity = f"tag {self.fingerprint} {PIL.__version__}".encode()
        return hashlib.blake2b(identity + repr(key).encode(), digest_size=16).digest()

    def _opened(self, item: Item) -> Image.Image | None:
        """The image in the size the network takes; None if it cannot be opened, which the encoder will say."""
        try:
            image = item.open_image()
        except ImageError:
            return None
        return None if image is None else small_image(image, self.images)


def small_image(image: Image.Image, steps: Preprocessing) -> Image.Image:
    """An image in the size in which a tagger with these steps looks at it."""
    return steps.resized(within_limits(image))


def _with_tag(item: Item, tag: str) -> Item:
    return TaggedItem(image=item.image, tag=tag) if tag else item


@contextmanager
def without_tags(retriever: Any) -> Iterator[None]:
    """Within the block the retriever gives no tags, as programs that know nothing of them read its folder."""
    tagger, retriever.tagger = retriever.tagger, None
    try:
        yield
    finally:
        retriever.tagger = tagger
