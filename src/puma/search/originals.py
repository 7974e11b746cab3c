"""The file that an item was made of, given out only as long as it is what was indexed. Loads no torch."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from puma.errors import ImageError, InputError, StorageError
from puma.index import Index
from puma.items.digest import read_content
from puma.items.item import FORMATS, Item
from puma.items.limits import most_file_bytes
from puma.items.objects import AnyPath, ObjectPath, object_path
from puma.items.opening import _QUIET
from puma.search.ingest.documents import page_digest
from puma.search.ingest.fields import file_of

PDF = "application/pdf"


class NoOriginalError(InputError):
    """There is no file to an item, or it is not the one that was indexed."""


@dataclass(frozen=True)
class Original:
    """A file's bytes, their media type, and the file's name."""

    data: bytes
    media_type: str
    name: str


def original(index: Index, id: str) -> Original:  # noqa: A002 - the index's own word
    """The file of an item.

    What an index names may have been put there by anyone's list, and files change: only bytes whose digest is that of
    what was embedded are given out.

    Raises:
        NoOriginalError: there is no such item, it has no file of its own, or the file is gone or has changed.
    """
    row = index.get([id], vectors=False).get(id)
    if row is None:
        raise NoOriginalError(f"item {id!r}: not in this index")
    reasons = []
    for payload in (row.payload, *row.other_payloads):
        try:
            return _read(payload, _place(index, payload, id), row.content, id)
        except NoOriginalError as error:
            reasons.append(str(error))
    raise NoOriginalError(reasons[0])


def has_file(payload: Mapping[str, Any]) -> bool:
    """Whether a payload names a file that is the item itself: an image, or the PDF of a page."""
    image = payload.get("image")
    return isinstance(image, str) and (file_of(image) == image or _page(payload, image) is not None)


def _page(payload: Mapping[str, Any], image: str) -> int | None:
    number = payload.get("page")
    return number if isinstance(number, int) and image.endswith(f"#page={number}") else None


def _place(index: Index, payload: Mapping[str, Any], name: str) -> AnyPath:
    """Where the file is. An object is fetched only for items that were read from its bucket: a payload that came over
    HTTP may name any.

    Raises:
        NoOriginalError: there is no such file.
    """
    image = payload.get("image")
    nothing = NoOriginalError(f"item {name!r}: it has no file of its own")
    if not isinstance(image, str) or not has_file(payload):
        raise nothing
    try:
        found = object_path(file_of(image))
    except InputError:
        raise nothing from None
    if found is None:
        return Path(file_of(image))
    if not any(source.startswith(f"{found.root}/") for source, _ in index.sources_of([name])):
        raise nothing
    return found


def _read(payload: Mapping[str, Any], path: AnyPath, content: str, name: str) -> Original:
    page = _page(payload, str(payload["image"]))
    changed = NoOriginalError(f"item {name!r}: its file has changed since it was indexed; index it again")
    try:
        if page is not None:
            there = isinstance(path, ObjectPath) or path.is_file()
            if not there or path.stat().st_size > most_file_bytes():
                raise NoOriginalError(f"item {name!r}: its file is not there any more")
            data = path.read_bytes()
            if page_digest(hashlib.sha256(data).digest(), page) != content:
                raise changed
            return Original(data, PDF, path.name)
        text = payload.get("text")
        found, file = read_content(Item(text if isinstance(text, str) else None, path))
    except (ImageError, OSError, StorageError):
        raise NoOriginalError(f"item {name!r}: its file is not there any more, or cannot be read") from None
    if found != content or file is None:
        raise changed
    return Original(bytes(file), _media_type(file), os.path.basename(path))


def _media_type(data: bytes) -> str:
    try:
        with _QUIET, Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return Image.MIME.get(opened.format or "", "application/octet-stream")
    except Exception:  # it was opened when it was indexed; with another Pillow it may not be
        return "application/octet-stream"
