"""What an export's vision graph made of images, kept for other items with the same image: these need neither the
decoder nor the graph. It is kept within a call, for later calls, and on a disk where one is given. Loads no torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from puma.items.item import Item
from puma.items.limits import image_memory
from puma.retriever.encoding.bounded import IMAGE_BYTES, BoundedMemory
from puma.retriever.encoding.image_cache import Blob, ByteCache, ImageCache, MemoryFirst
from puma.retriever.encoding.repeats import CONTENT, FEW, Key, content_keys
from puma.retriever.images.decoding import within_limits
from puma.retriever.onnx.layout import VISION_GRAPH, Export
from puma.retriever.onnx.seeing import Seen, row_count, seen, unit_count
from puma.retriever.onnx.sessions import session

FORMAT = 1
"""Of the entries. Raised whenever their layout, or PUMA's own steps before the graph, would change."""
MAKE_ROWS = ("onnxruntime", "pillow")
"""Packages that read images and compute: another version may round in another way."""
_HEAD = 4
"""Whole numbers of eight bytes before an entry's rows: the image's width and height, the rows' number and width."""


@dataclass(frozen=True)
class SeenImage:
    """One image, as the vision graph has seen it.

    Args:
        sides: width and height of the decoded image, on which its tokens and their positions depend.
        rows: float32 [rows, width], one for each of its placeholders.
    """

    sides: tuple[int, int]
    rows: np.ndarray

    def to_bytes(self) -> bytes:
        """What :meth:`VisionSide.from_bytes` reads, exact to the last bit."""
        return np.array([*self.sides, *self.rows.shape], "<i8").tobytes() + self.rows.astype("<f4").tobytes()


class VisionSide:
    """An export's vision graph, and a memory of the images of the last calls.

    Args:
        export: what the folder says of itself.
        folder: of the graph, which is loaded when the first image needs it.
        width: of a row of features.
    """

    def __init__(self, export: Export, folder: Path, width: int) -> None:
        self.export, self.width = export, width
        self.memory = BoundedMemory[Blob](IMAGE_BYTES)
        self._folder = folder

    @functools.cached_property
    def session(self) -> Any:
        """The graph.

        Raises:
            ModelError: as :func:`puma.retriever.onnx.sessions.session`.
        """
        return session(self._folder / VISION_GRAPH)

    @functools.cached_property
    def identity(self) -> bytes:
        """16 bytes of all that the rows depend on, the image excepted: the graph with its weights, what is done to
        images, the versions of the libraries."""
        steps = self.export.images
        parts = [FORMAT, [version(name) for name in MAKE_ROWS], type(steps).__name__, asdict(steps) if steps else None]
        digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16)
        for file in (self._folder / VISION_GRAPH, self._folder / f"{VISION_GRAPH}.data"):
            if file.is_file():
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "blake2b").digest())
        return digest.digest()

    def see(self, images: Seen) -> list[SeenImage]:
        """Send images through the graph."""
        units: dict[int, np.ndarray] = {}
        for one in images.passes:
            (rows,) = self.session.run(None, one.inputs)
            units |= zip(one.units, np.split(rows, len(one.units)), strict=True)
        found, start = [], 0
        for sides in images.sizes:
            end = start + unit_count(self.export, sides)
            found.append(SeenImage(sides, np.concatenate([units[unit] for unit in range(start, end)])))
            start = end
        return found

    def from_bytes(self, data: bytes) -> SeenImage | None:
        """The image of :meth:`SeenImage.to_bytes`; None of bytes that are something else."""
        start = _HEAD * 8
        if len(data) < start:
            return None
        width, height, *shape = map(int, np.frombuffer(data, "<i8", _HEAD))
        if min(width, height) < 1 or shape != [row_count(self.export, (width, height)), self.width]:
            return None
        if len(data) != start + 4 * shape[0] * shape[1]:
            return None
        return SeenImage((width, height), np.frombuffer(data, "<f4", offset=start).reshape(shape))


@dataclass(frozen=True)
class Prepared:
    """A batch's images, as far as they can be made ready while the graphs work on another batch.

    Args:
        known: those that were seen before.
        new: the keys of those that were not, and that no earlier batch of this call has.
        images: the new ones, made ready; None where there are none.
    """

    known: dict[Key, SeenImage]
    new: list[Key]
    images: Seen | None


class SeenImages:
    """The images of one call: each is decoded, made ready and sent through the graph once, unless its rows no longer
    fit into the memory.

    Args:
        side: the export's vision side.
        items: the call's items.
        keys: of their images, as :func:`puma.retriever.encoding.repeats.image_keys` gives them.
        disk: where all images are looked up and kept, in addition to the memory; None for nowhere.
    """

    def __init__(
        self, side: VisionSide, items: Sequence[Item], keys: Sequence[Key | None], disk: ImageCache | None = None
    ) -> None:
        self._side, self._items = side, items
        few = 0 < len({key for key in keys if key is not None}) <= FEW
        lasting = few or disk is not None
        self.keys: list[Key | None] = content_keys([item.image for item in items], keys) if lasting else list(keys)
        """Of the items' images; equal for images of equal content."""
        memory = side.memory if few else BoundedMemory[Blob](IMAGE_BYTES)
        self._cache = MemoryFirst(memory, disk)
        self.lasting_cache: ByteCache | None = self._cache if lasting else None
        """Where what photographs show is looked up and kept; None where nothing is kept for other calls."""
        counts = Counter(key for key in self.keys if key is not None)
        self._kept: dict[Key, bytes] = {}
        """The key under which an image's rows are kept, by the image's own key; without those that are not kept."""
        if lasting and counts:
            # The limit of memory counts, because a JPEG that is too large for it is decoded smaller.
            identity = f"{image_memory()} ".encode() + (b"" if disk is None else side.identity)
            self._kept = {key: _digest(identity, key) for key in counts if key[0] == CONTENT}
        elif not lasting:
            self._kept = {key: b"%d" % n for n, (key, count) in enumerate(counts.items()) if count > 1}
        self._sources: dict[Key, Item] = {}
        for item, own in zip(items, self.keys, strict=True):
            if own is not None:
                self._sources.setdefault(own, item)
        self._coming: set[Key] = set()
        """Images whose rows the batches that were prepared so far will keep, or have kept."""

    def take_small(self, items: Sequence[Item]) -> None:
        """Use the images of these items, where they differ from those of the call's items: they are decoded already,
        and resized as the export's own steps would do it."""
        for item, before, key in zip(items, self._items, self.keys, strict=True):
            if key is not None and item.image is not before.image:
                self._sources[key] = item

    def prepare(self, rows: Sequence[int]) -> Prepared:
        """Open and make ready those images of a batch that are not known and that no earlier batch has. Batches are
        prepared in the order in which :meth:`look` gets them; another thread may call that meanwhile.

        Args:
            rows: positions of items that all have an image.

        Raises:
            ImageError, StorageError: an image cannot be opened.
        """
        left = [key for key in self._keys_of(rows) if key not in self._coming]
        known = self._recalled(left)
        new = [key for key in left if key not in known]
        images = self._opened(new) if new else None
        self._coming.update(key for key in new if key in self._kept)
        return Prepared(known, new, images)

    def look(self, rows: Sequence[int], prepared: Prepared) -> list[SeenImage]:
        """What was seen in the image of each of a batch's items.

        Args:
            rows: positions of the items.
            prepared: what :meth:`prepare` returned of these.

        Raises:
            ImageError, StorageError: an image whose rows no longer fitted into the memory cannot be opened again.
        """
        found = dict(prepared.known)
        if prepared.images is not None:
            found |= self._seen(prepared.new, prepared.images)
        left = [key for key in self._keys_of(rows) if key not in found]
        found |= self._recalled(left)
        left = [key for key in left if key not in found]
        if left:
            found |= self._seen(left, self._opened(left))
        return [found[key] for row in rows if (key := self.keys[row]) is not None]

    def _keys_of(self, rows: Iterable[int]) -> list[Key]:
        """The keys of a batch's images, each once."""
        return list(dict.fromkeys(key for row in rows if (key := self.keys[row]) is not None))

    def _opened(self, keys: Sequence[Key]) -> Seen:
        images = [image for key in keys if (image := self._sources[key].open_image()) is not None]
        return seen(self._side.export, [within_limits(image) for image in images])

    def _recalled(self, keys: Sequence[Key]) -> dict[Key, SeenImage]:
        """Those images that are kept, and whole."""
        own = {self._kept[key]: key for key in keys if key in self._kept}
        found = ((own[kept], self._side.from_bytes(data)) for kept, data in self._cache.get(own).items())
        return {key: one for key, one in found if one is not None}

    def _seen(self, keys: Sequence[Key], images: Seen) -> dict[Key, SeenImage]:
        """Images sent through the graph, and kept."""
        found = dict(zip(keys, self._side.see(images), strict=True))
        new = {self._kept[key]: one.to_bytes() for key, one in found.items() if key in self._kept}
        if new:
            self._cache.put(new)
        return found


def _digest(identity: bytes, key: Key) -> bytes:
    """What an image of this content is kept under."""
    return hashlib.blake2b(identity + repr(key).encode(), digest_size=16).digest()
