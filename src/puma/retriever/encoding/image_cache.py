"""A folder of what a model saw in images, for later runs and other processes. Loads no torch."""

from __future__ import annotations

import os

from puma.storage.blobs import BlobStore

CACHE_BYTES = 4 * 2**30
"""The bound where none is given: 200,000 images of puma-mini, 4,000 of Qwen2-VL-2B at 300 tokens."""
FILE = "puma-images.sqlite3"


class ImageCache(BlobStore):
    """The outputs of vision towers on a disk, by the content of images and all that the outputs depend on.

    With one, :meth:`puma.retriever.model.Retriever.encode` neither decodes an image that was embedded before nor sends
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


def opened_cache(given: str | os.PathLike[str] | ImageCache | None) -> ImageCache | None:
    """A cache that is given as itself, or as its folder.

    Raises:
        InputError, StorageError: as :class:`ImageCache`.
    """
    return given if given is None or isinstance(given, ImageCache) else ImageCache(given)
