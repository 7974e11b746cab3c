"""The one definition of "same content", as digests of texts and images. Loads no torch.

Digests are kept on disk, as ids of an index's items and as keys of stored states: what they hash must never change.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from puma.errors import ImageError, InputError
from puma.items.item import Item
from puma.items.limits import most_file_bytes
from puma.items.objects import ObjectPath, object_bytes
from puma.items.opening import FileBytes, ImageSource, open_image
from puma.items.references import no_such_file

ID_LENGTH = 32
"""Hexadecimal digits of a content digest: 128 bits."""


def content_digest(item: Item) -> str:
    """The digest of what would be embedded: 32 hexadecimal digits, of the modality, the text as it is, and the image.

    Of an image file, or of encoded bytes, the bytes are hashed; of other images the size and the RGB pixels.

    Raises:
        ImageError: the image's file cannot be read or is over the size limit.
        InputError: the text is not valid Unicode.
        StorageError: the image is in an object store that cannot be reached.
    """
    return read_content(item)[0]


def read_content(item: Item) -> tuple[str, FileBytes | None]:
    """:func:`content_digest` of an item, and its image's file where it has one, read once.

    Raises:
        ImageError, InputError: as :func:`content_digest`.
    """
    digest = hashlib.sha256(item.modality.encode())
    try:
        text = (item.text or "").encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the text is not valid Unicode") from None
    # Lengths are hashed too: else "ab" + "c" and "a" + "bc" would be one item.
    digest.update(b"\0%d\0" % len(text) + text)
    content: bytes = b"" if item.image is None else _image_bytes(item.image)
    digest.update(content)
    file = content if isinstance(content, FileBytes) and content is not item.image else None
    return digest.hexdigest()[:ID_LENGTH], file


def lenient_digest(item: Item) -> str | None:
    """:func:`content_digest` with runs of white space in the text taken as one blank; None if the image is unreadable.

    Examples:
        >>> lenient_digest(Item(text="a red  fox ")) == lenient_digest(Item(text="a red fox"))
        True
    """
    try:
        return content_digest(Item(text=plain_text(item.text), image=item.image))
    except ImageError:
        return None


def image_digest(image: ImageSource) -> bytes:
    """32 bytes that are equal for images of equal content: of a file or its bytes, the bytes; else the pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    return hashlib.sha256(_image_bytes(image, after_size=b" ")).digest()


def plain_text(text: str | None) -> str:
    """A text as it is compared: without white space at its ends, and one blank for each run of it inside."""
    return " ".join((text or "").split())


def _image_bytes(image: ImageSource, after_size: bytes = b"") -> bytes:
    """What is hashed of an image. ``after_size`` keeps both digests of pixels as they were first written to disks."""
    if isinstance(image, (str, os.PathLike)):
        if isinstance(image, ObjectPath):
            return FileBytes(object_bytes(image, most_file_bytes()), str(image))
        return FileBytes(_file_bytes(Path(image)), os.fspath(image))
    if isinstance(image, bytes):
        return image
    opened = open_image(image)
    return f"{opened.size}".encode() + after_size + opened.tobytes()


def _file_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not an image")
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: not a regular file")  # a pipe would be waited for without end
        if path.stat().st_size > most_file_bytes():
            raise ImageError(f"{path}: {path.stat().st_size:,} bytes are over the limit of {most_file_bytes():,}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: {no_such_file(str(path))}") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
