"""``--image-cache``, ``--image-cache-size``: what the model sees in images, kept on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puma.cli.commands._places import writable
from puma.errors import InputError

if TYPE_CHECKING:
    from puma.retriever.encoding.image_cache import ImageCache

CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--image-cache",
        metavar="DIR",
        callback=writable,
        help="Folder for the image features that the model computes. Later runs reuse them, with any text and "
        "instruction. Use a disk of this machine. Several processes and models can share it.",
    ),
]
CacheSize = Annotated[
    int | None,
    typer.Option(
        "--image-cache-size", min=1, metavar="MIB", help="Largest size of --image-cache on disk. Default: 4096."
    ),
]


def image_cache_of(folder: Path | None, mib: int | None) -> ImageCache | None:
    """The cache that ``--image-cache`` and ``--image-cache-size`` name.

    Raises:
        InputError: a size without a folder, or the folder is a file. StorageError: it cannot be written.
    """
    if folder is None:
        if mib is not None:
            raise InputError(f"--image-cache-size {mib}: goes with --image-cache, the folder it bounds")
        return None
    from puma.retriever.encoding.image_cache import CACHE_BYTES, ImageCache

    # Absolute, because workers of a cluster run in another folder.
    return ImageCache(folder.expanduser().absolute(), CACHE_BYTES if mib is None else mib * 2**20)
