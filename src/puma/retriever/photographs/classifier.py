"""What photographs show, by an image classifier, added to their vectors. Loads no torch.

A small model learns little from a class that its vision tower knows but no training image showed. The tower's own
classifier still recognises it. So a photograph's vector is moved towards what the model itself makes of the names of
the likeliest classes, and puma-mini finds photographs of things that it never saw in training (docs/results.md).
Drawings stay as they are: the classifier is right for photographs alone.
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
from puma.items.dimensions import unit_rows
from puma.items.item import IMAGE, Item
from puma.retriever.encoding.image_cache import ByteCache
from puma.retriever.encoding.repeats import CONTENT, Key, content_keys, image_keys
from puma.retriever.images.decoding import within_limits
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.photographs.statistics import COUNT, pixel_statistics

FOLDER = "puma_photo_classifier"
"""Where a retriever's folder holds the classifier."""
LIKELIEST = 8
"""Classes of a photograph that count. All 1,000 gave the same hits (docs/results.md), and take 60 times the memory."""
AMONG_IMAGES, AMONG_TEXTS = 0, 1
"""Where a photograph's vector lies. That of one which is searched, or asks for images, lies among images; that of one
which asks for texts lies among texts."""
STRENGTHS = np.array([0.75, 0.3], np.float32)
"""Length of what is added to a photograph's vector, which has length 1 before and after. Chosen on photographs and on
val (docs/results.md): more finds more of what the classes are, less of other things, and puts the wrong modality first
more often."""
ARRAYS = ("gate", "statistics", "vectors", "direction")
"""What a folder keeps of a :class:`PhotoClassifier` beside the network."""
BATCH = 32
"""Images a pass of the classifier."""
WORKERS = 2
"""Threads that decode."""

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From pixel values float32 [n, 3, height, width] to logits float32 [n, classes] and to how much an image's features
are those of a photograph, float32 [n]."""


@dataclass(frozen=True)
class Shown:
    """What a photograph shows.

    Args:
        classes: uint16 [k], the likeliest first.
        probabilities: float32 [k], of these classes.
    """

    classes: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray) -> Shown:
        """The likeliest classes of a photograph's logits, float32 [classes]."""
        weights = np.exp(logits - logits.max())
        likeliest = np.argsort(-weights, kind="stable")[:LIKELIEST]
        return cls(likeliest.astype(np.uint16), (weights[likeliest] / weights.sum()).astype(np.float32))

    def to_bytes(self) -> bytes:
        """It for a cache."""
        return self.classes.astype("<u2").tobytes() + self.probabilities.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Shown:
        """The inverse of :meth:`to_bytes`."""
        count = len(data) // 6
        return cls(np.frombuffer(data, "<u2", count), np.frombuffer(data, "<f4", count, offset=2 * count))


@dataclass(frozen=True)
class PhotoClassifier:
    """Recognises what photographs show.

    Args:
        names: of the classes.
        images: what is done to images before the network.
        network: classifies them.
        fingerprint: changes whenever what is recognised could.
        gate: float32 [COUNT + 1], the weights of an image's pixel statistics and a bias. Where their sum is not above
            0, the image is a drawing, and the network does not run.
        statistics: float32 [COUNT], the weights of the same statistics beside the network's number: an image is a
            photograph where their sum is above 0 too.
        vectors: float32 [2, classes, dim], what the model makes of the classes' names, less their mean: as queries for
            an image, which are added :data:`AMONG_IMAGES`, and as texts, which are added :data:`AMONG_TEXTS`.
        direction: float32 [dim], from where the model puts images to where it puts texts.
        module: the network's torch module, where it has one: what is written to a folder.
    """

    names: tuple[str, ...]
    images: Preprocessing
    network: Network
    fingerprint: str
    gate: np.ndarray
    statistics: np.ndarray
    vectors: np.ndarray
    direction: np.ndarray
    module: Any = None

    def recognised(
        self,
        items: Sequence[Item],
        own: Preprocessing | None = None,
        cache: ByteCache | None = None,
        keys: Sequence[Key | None] | None = None,
    ) -> tuple[list[Item], list[Shown | None]]:
        """The items, and what those of them that are a photograph alone show; None for drawings, texts, images with a
        text, and images that cannot be opened.

        Args:
            items: n items.
            own: what the retriever does to images, where Pillow can do it. Then the items returned hold images of that
                size where they were opened here, so that none is decoded twice. With a cache and without ``keys`` they
                keep the images that were given, of which the caller will still make keys.
            cache: where what was recognised is looked up, and kept: what is there is not opened.
            keys: of the items' images, as :func:`puma.retriever.encoding.repeats.image_keys` gives them, by content
                where there is a cache. Images with equal keys are opened once. None: with a cache they are made here;
                without one every image is opened.
        """
        found: list[Item] = list(items)
        shown: list[Shown | None] = [None] * len(items)
        places = [k for k, item in enumerate(items) if item.modality == IMAGE]
        resize = own if cache is None or keys is not None else None
        if keys is None and cache is not None:
            images = [items[k].image for k in places]
            keys = content_keys(images, image_keys(images))
        elif keys is not None:
            keys = [keys[k] for k in places]
        alike: dict[Hashable, list[int]] = {}
        for n, k in enumerate(places):
            alike.setdefault(k if keys is None else keys[n], []).append(k)

        def take(key: Hashable, one: Shown | None) -> None:
            for k in alike[key]:
                shown[k] = one

        kept: dict[Hashable, bytes] = {}
        if cache is not None:
            kept = {key: under for key in alike if (under := self._kept_under(key)) is not None}
            stored = cache.get(kept.values())
            for key in [key for key, under in kept.items() if under in stored]:
                data = stored[kept[key]]
                take(key, Shown.from_bytes(data) if data else None)
                del alike[key]
        left = list(alike)
        if not left:
            return found, shown
        with ThreadPoolExecutor(WORKERS if len(left) > 1 else 1) as pool:
            for start in range(0, len(left), BATCH):
                part = left[start : start + BATCH]
                opened = pool.map(lambda key: self._opened(items[alike[key][0]], resize), part)
                made = {key: one for key, one in zip(part, opened, strict=True) if one is not None}
                seen = dict(zip(made, self._shown(list(made.values())), strict=True))
                for key, one in made.items():
                    take(key, seen[key])
                    if one.resized is not None:
                        for k in alike[key]:
                            found[k] = replace(items[k], image=one.resized)
                if cache is not None:
                    cache.put({kept[key]: one.to_bytes() if one else b"" for key, one in seen.items() if key in kept})
        return found, shown

    def added(self, vectors: np.ndarray, shown: Sequence[Shown | None]) -> np.ndarray:
        """Unit vectors, those of photographs moved towards what they show.

        Args:
            vectors: float32 [n, dim], unit rows; changed in place.
            shown: of the n items, as :meth:`recognised` returned it.
        """
        rows = [row for row, one in enumerate(shown) if one is not None]
        if rows:
            sides = (vectors[rows] @ self.direction > 0).astype(np.intp)
            photographs = zip(sides, (one for one in shown if one is not None), strict=True)
            names = np.stack([one.probabilities @ self.vectors[side, one.classes] for side, one in photographs])
            vectors[rows] = unit_rows(vectors[rows] + STRENGTHS[sides, None] * unit_rows(names))
        return vectors

    def _shown(self, images: Sequence[_Opened]) -> list[Shown | None]:
        """What each image shows; None for drawings."""
        shown: list[Shown | None] = [None] * len(images)
        if not images:
            return shown
        statistics = np.stack([image.statistics for image in images])
        passed = np.flatnonzero(statistics @ self.gate[:COUNT] + self.gate[COUNT] > 0).tolist()
        if not passed:
            return shown
        logits, photo = self.network(self.images([images[k].image for k in passed]))
        for k, row, score in zip(passed, logits, photo + statistics[passed] @ self.statistics, strict=True):
            if score > 0:
                shown[k] = Shown.of(row)
        return shown

    def _kept_under(self, key: Hashable) -> bytes | None:
        """What is recognised in an image of this key is kept under it; None where the key does not say what is in the
        image."""
        if not isinstance(key, tuple) or key[0] != CONTENT:
            return None
        identity = f"shown {self.fingerprint} {PIL.__version__}".encode()
        return hashlib.blake2b(identity + repr(key).encode(), digest_size=16).digest()

    def _opened(self, item: Item, own: Preprocessing | None) -> _Opened | None:
        """The image in the size the network takes; None if it cannot be opened, which the encoder will say."""
        try:
            image = item.open_image()
        except ImageError:
            return None
        if image is None:
            return None
        looked = small_image(image, self.images)
        return _Opened(looked, pixel_statistics(looked), None if own is None else small_image(image, own))


@dataclass(frozen=True)
class _Opened:
    """An image as the network takes it, its statistics, and the image as the retriever takes it."""

    image: Image.Image
    statistics: np.ndarray
    resized: Image.Image | None


def small_image(image: Image.Image, steps: Preprocessing) -> Image.Image:
    """An image in the size in which a classifier or a retriever with these steps looks at it."""
    return steps.resized(within_limits(image))


@contextmanager
def without_classifier(retriever: Any) -> Iterator[None]:
    """Within the block the retriever makes vectors as programs that know nothing of the classifier make them of its
    folder."""
    classifier, retriever.photo_classifier = retriever.photo_classifier, None
    try:
        yield
    finally:
        retriever.photo_classifier = classifier
