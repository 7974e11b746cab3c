"""Tags of photographs: the name of the likeliest class, written beside the image for the model to read. Loads no torch.

A small model learns little from a class that its vision tower knows but no training image showed. The tower's own
classifier still names it; puma-mini finds photographs of things it never saw by that name (docs/results.md). Drawings
get no tag: the classifier is right for photographs alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from puma.errors import ImageError
from puma.items.item import Item, TaggedItem
from puma.retriever.images.decoding import within_limits
from puma.retriever.images.pixels import Preprocessing, preprocessing

FOLDER = "puma_tagger"
"""Where a retriever's folder holds the classifier."""
BATCH = 32
"""Images a pass of the classifier."""
WORKERS = 2
"""Threads that decode."""

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From pixel values float32 [n, 3, height, width] to the likeliest class int64 [n] and how much an image is a
photograph, float32 [n], above 0 where it is one."""


@dataclass(frozen=True)
class Tagger:
    """Gives photographs a tag.

    Args:
        names: of the classes.
        images: what is done to images before the network.
        network: classifies them.
        fingerprint: changes whenever a tag could.
        module: the network's torch module, where it has one: what is written to a folder.
    """

    names: tuple[str, ...]
    images: Preprocessing
    network: Network
    fingerprint: str
    module: Any = None

    def tagged(self, items: Sequence[Item], own: Preprocessing | None = None) -> list[Item]:
        """The items, those that are images alone and photographs with their tag.

        Images that cannot be opened, or are tagged already, come back as they are.

        Args:
            items: n items.
            own: what the retriever does to images. Where that is the same, the items hold the small images made here,
                so that none is decoded twice.
        """
        found = list(items)
        places = [k for k, item in enumerate(items) if item.modality == "image" and not isinstance(item, TaggedItem)]
        if not places:
            return found
        small = own == self.images
        with ThreadPoolExecutor(WORKERS if len(places) > 1 else 1) as pool:
            for start in range(0, len(places), BATCH):
                part = places[start : start + BATCH]
                opened = list(pool.map(self._opened, [items[k] for k in part]))
                part = [k for k, image in zip(part, opened, strict=True) if image is not None]
                images = [image for image in opened if image is not None]
                if not images:
                    continue
                classes, photo = self.network(self.images(images))
                for k, image, number, score in zip(part, images, classes, photo, strict=True):
                    if small:
                        found[k] = replace(found[k], image=image)
                    if score > 0:
                        found[k] = TaggedItem(image=found[k].image, tag=self.names[number])
        return found

    def _opened(self, item: Item) -> Image.Image | None:
        """The image in the size the network takes; None if it cannot be opened, which the encoder will say."""
        try:
            image = item.open_image()
        except ImageError:
            return None
        return None if image is None else self.images.resized(within_limits(image))


@contextmanager
def without_tags(retriever: Any) -> Iterator[None]:
    """Within the block the retriever gives no tags, as programs that know nothing of them read its folder."""
    tagger, retriever.tagger = retriever.tagger, None
    try:
        yield
    finally:
        retriever.tagger = tagger


def tags_of(retriever: Any) -> Callable[[Sequence[Item]], list[Item]] | None:
    """What gives a retriever's items their tags; None where it has no tagger."""
    if retriever.tagger is None:
        return None
    return functools.partial(retriever.tagger.tagged, own=preprocessing(retriever.processor.image_processor))
