"""A folder of what a model saw in images, for later runs and other processes, and a memory in front of it. Loads no
torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from puma.retriever.encoding.bounded import BoundedMemory
from puma.storage.blobs import BlobStore

CACHE_BYTES = 4 * 2**30
"""The bound where none is given: 200,000 images of puma-mini, 4,000 of Qwen2-VL-2B at 300 tokens."""
FILE = "puma-images.sqlite3"
ENTRY_BYTES = 200
"""Counted for an entry in memory in addition to its value, so that the number of empty values is bounded too."""


class ByteCache(Protocol):
    """Where bytes are looked up, and kept, by a key."""

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are there."""

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values, in the place of earlier ones of their keys."""


class ImageCache(BlobStore):
    """The outputs of vision towers on a disk, by the content of images and all that the outputs depend on.

    With one, ``encode`` of a retriever or of an export neither decodes an image that was embedded before nor sends
    it through the tower: in another call, run, process, with another instruction or text. Several models may share a
    folder.

    Args:
        folder: made if it is not there; on a disk of this machine.
        most_bytes: of the file; what was used longest ago makes room.

    Raises:
        InputError: ``most_bytes`` is below 1 MiB, or the folder is a file.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], most_bytes: int = CACHE_BYTES) -> None:
        super().__init__(folder, most_bytes, name=FILE, what="image_cache")


@dataclass(frozen=True)
class Blob:
    """A value in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Its bytes, and those of its entry."""
        return len(self.data) + ENTRY_BYTES


class MemoryFirst:
    """Bytes in memory and, where there is a disk, on that too. Threads may share it.

    Args:
        memory: looked at first; what is found on the disk is put there.
        disk: None for none.
    """

    def __init__(self, memory: BoundedMemory[Blob], disk: ImageCache | None = None) -> None:
        self._memory, self._disk = memory, disk

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are there, and on the disk whole."""
        keys = list(keys)
        found = {key: kept.data for key in keys if (kept := self._memory.get(key)) is not None}
        left = [key for key in keys if key not in found]
        if self._disk is not None and found:  # what was kept before there was this disk goes onto it, too
            stored = self._disk.present(found)
            self._disk.put({key: data for key, data in found.items() if key not in stored})
        if self._disk is not None and left:
            for key, data in self._disk.get(left).items():
                self._memory.put(key, Blob(data))
                found[key] = data
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values, in the place of earlier ones of their keys."""
        for key, data in values.items():
            self._memory.put(key, Blob(data))
        if self._disk is not None:
            self._disk.put(values)


def opened_cache(given: str | os.PathLike[str] | ImageCache | None) -> ImageCache | None:
    """A cache that is given as itself, or as its folder.

    Raises:
        InputError, StorageError: as :class:`ImageCache`.
    """
    return given if given is None or isinstance(given, ImageCache) else ImageCache(given)
