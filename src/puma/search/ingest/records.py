"""What is read: records with an id, an item and a payload, and everything that had to be left out, with the reason.
Loads no torch.

An id is the digest of what is embedded (modality, text, the image's bytes) unless the file gives one: reading the
same things twice gives the same ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from puma.errors import ImageError, InputError
from puma.index import Stamp
from puma.index.interface import PayloadJson
from puma.items.digest import read_content
from puma.items.encoder import Skip
from puma.items.item import FileBytes, Item
from puma.items.limits import most_file_bytes
from puma.items.objects import AnyPath, ObjectPath, absolute, object_path
from puma.items.references import encoded_bytes, image_reference, is_address, is_data_uri, no_such_file
from puma.search.ingest.fields import file_fields

MBEIR_IMAGES = "mbeir_images"
"""The folder in M-BEIR's layout that images' paths start with."""


@dataclass(frozen=True)
class Record:
    """One item to be indexed.

    Args:
        id: given by the file, or :attr:`content`.
        content: digest of the modality, the text and the image's bytes.
        payload: what is returned with a hit: ``text`` and ``image`` as far as the item has them, and the file's other
            fields. ``image`` is the image's absolute path; of an image inside a file, that file's path with ``#``
            and the image's name, row or page.
        where: the file, and the line if it has lines.
        source: the absolute path of the file that this comes from; None for items given directly.
        position: of an item given directly, among those given with it.
        file: the image's file as it was read for the digest, so that what is embedded is what was digested.
        payload_json: the payload as it is stored, once it was encoded.
    """

    id: str
    item: Item
    payload: dict[str, Any]
    content: str
    where: str
    source: str | None = None
    position: int | None = None
    file: FileBytes | None = field(default=None, compare=False, repr=False)
    payload_json: PayloadJson | None = field(default=None, compare=False, repr=False)

    @property
    def loaded_item(self) -> Item:
        """The item with its image's file read."""
        return self.item if self.file is None else Item(self.item.text, self.file)

    @property
    def replaces(self) -> bool:
        """Whether its payload takes the place of what was stored under its id: items that are given directly, with an
        id of their own. What is known by its content only is kept beside it."""
        return self.source is None and self.id != self.content

    def held_bytes(self) -> int:
        """Bytes of the image that this record keeps in memory."""
        image = self.file if self.file is not None else self.item.image
        return len(image) if isinstance(image, bytes) else 0

    def skipped(self, reason: str) -> Skip:
        """This record left out, naming what its source gave before."""
        named = self.id if self.id != self.content else None
        image = self.payload.get("image")
        reason = _named_once(reason, self.source, image)
        return Skip(self.where, reason, self.source, named, None if named else image, self.position)


def _named_once(reason: str, source: str | None, image: Any) -> str:
    """A reason without the file's name, where the item is that file: the skip says where already."""
    return reason.removeprefix(f"{source}: ") if image == source else reason


@dataclass(frozen=True)
class Ignored:
    """A file or folder inside a folder that is not read, and why; the reasons are counted."""

    where: str
    reason: str


@dataclass(frozen=True)
class Note:
    """Something that the user should know of a file that was read."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Finished:
    """A file was read to its end: what it gave before and does not give now is not in it any more.

    Args:
        source: its absolute path.
        stamp: what is to be remembered of it; None where it has to be read again in any case.
    """

    source: str
    stamp: Stamp | None = None


@dataclass(frozen=True)
class Same:
    """A file that is as it was when it was last read: what it gave before is still in it."""

    source: str
    ids: tuple[str, ...] = ()


Found = Record | Skip | Ignored | Note | Finished | Same
Waiting = Callable[[], Record | Skip]
"""A record that is still to be made: what it takes from elsewhere can be fetched for several at once."""
Row = Waiting | Record | Skip | Note
"""What a file gives, one after the other."""


def same_place(source: str, name: str, payload: Mapping[str, Any]) -> int:
    """A hash of a place; equal in this process for equal payloads, in whatever order their keys are."""
    return hash((source, name, _hashable(payload)))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(inner)) for key, inner in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def encoded_text(item: Item) -> bytes:
    """An item's text as UTF-8; InputError where it is not valid Unicode."""
    try:
        return (item.text or "").encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the text is not valid Unicode") from None


def record_of_item(item: Item, name: str | None, payload_json: str, where: str, position: int) -> Record | Skip:
    """A record of an item that was given directly, or why its image cannot be read.

    Args:
        name: its id; the digest of its content if None.
        payload_json: its payload, encoded.
        where, position: as in :class:`Record`.
    """
    try:
        content, file = read_content(item)
    except ImageError as error:
        return Skip(where, str(error), position=position)
    # As JSON gives it back (lists for tuples), to be comparable with what is stored.
    payload = json.loads(payload_json)
    encoded = PayloadJson(payload_json)
    return Record(name or content, item, payload, content, where, None, position, file, encoded)


def payload_of(item: Item) -> dict[str, Any]:
    """The payload of an item that was given without one: its text and the path of its image."""
    payload = {} if item.text is None else {"text": item.text}
    if isinstance(item.image, (str, os.PathLike)):
        payload["image"] = str(Path(item.image).absolute())
    return payload


def source_of(path: AnyPath) -> str:
    """A path as sources are written: absolute, without ``..``, links as they are; of an object its address."""
    return absolute(path)


def is_text(value: str) -> bool:
    """Whether a file's name or a cell is valid Unicode; old disks and archives hold names that are not."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def record_of(fields: dict[str, Any], base: AnyPath, where: str, source: str) -> Record | Skip:
    """A record from a line's or a row's fields, or why there is none.

    Args:
        fields: ``text``, ``image``, ``id``, and others that become payload. An ``image`` is a path (relative to
            ``base``), or the bytes of an image.
        where, source: as in :class:`Record`. Bytes are named by ``where``'s end.
    """
    fields = dict(fields)
    text, image, name = fields.pop("text", None), fields.pop("image", None), fields.pop("id", None)
    shown = None
    try:
        if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
            raise InputError(f"id must be a string or an integer, got {type(name).__name__}")
        name = None if name in (None, "") else str(name)
        if text is not None and not isinstance(text, str):
            raise InputError(f"text must be a string, got {type(text).__name__}")
        if "\0" in (text or ""):
            raise InputError("the text holds NUL characters: no text file, or another encoding (--encoding utf-16)")
        if isinstance(image, InsideFile):
            shown, image = image.name, image.data
        elif image is not None and not isinstance(image, str):
            raise InputError(f"image must be a string, got {type(image).__name__}")
        if not (text or "").strip() and not image:
            raise InputError("empty: neither text nor image")
        if isinstance(image, str) and image:
            image = _image_of(image, base)
            shown = str(image) if isinstance(image, os.PathLike) else f"{source}#{where.rpartition(':')[2]}"
        if text and image_reference(text) in ("data URI", "base64"):
            raise InputError("text: holds an image as base64, not words; put it under image")
        item = Item(text=text, image=image or None)
        content, file = read_content(item)
    except ImageError as error:  # the entry is there, its image is not: what was read of it before may stay
        return Skip(where, _named_once(str(error), source, shown), source, name, None if name else shown)
    except InputError as error:
        return Skip(where, str(error), source if name else None, name)
    payload = ({"text": item.text} if item.text else {}) | ({"image": shown} if shown else {})
    payload |= file_fields(item, file, shown) | fields
    return Record(name or content, item, payload, content, where, source, file=file)


def _image_of(given: str, base: AnyPath) -> AnyPath | bytes:
    """The image that a line names: a path, or the bytes of a data URI. ImageError for an address; but a table in an
    object store may name objects of its own bucket by their addresses."""
    if is_data_uri(given):
        return encoded_bytes(given, "image", most_file_bytes())
    if "\0" in given:
        raise InputError("image: a path cannot hold a NUL character")
    if isinstance(base, ObjectPath):
        return _object_of(given, base)
    if given[:7].lower() == "file://":
        given = url2pathname(urlsplit(given).path)
    elif is_address(given):
        raise ImageError(f"image {given:.200}: {no_such_file(given)}")
    return Path(base, given).absolute()


def _object_of(given: str, base: ObjectPath) -> ObjectPath:
    """Nothing on this machine: a table of others, in a bucket, could name any file."""
    named = object_path(given) if is_address(given) else base.at(given)
    if named is not None and named.root == base.root and named.key:
        return named
    why = "not in the bucket of its table, and other addresses are never fetched; name it relative to the table"
    raise ImageError(f"image {given:.200}: {why}")


@dataclass(frozen=True)
class InsideFile:
    """An image inside another file: its bytes, and what it is called there."""

    data: bytes
    name: str


def pool_fields(fields: dict[str, Any]) -> dict[str, Any] | None:
    """A line of an M-BEIR candidate pool as this package's fields; None if it is no such line.

    Examples:
        >>> pool_fields({"did": "9:1", "txt": "a fox", "img_path": None, "modality": "text", "src_content": None})
        {'id': '9:1', 'text': 'a fox', 'image': None}
    """
    if not ("did" in fields and {"txt", "img_path"} & set(fields) and not {"text", "image", "id"} & set(fields)):
        return None
    more = fields.get("src_content")
    try:
        nested = json.loads(more) if isinstance(more, str) else more
    except (ValueError, RecursionError):
        nested = None
    if isinstance(nested, dict):  # OpenPics keeps names and styles there
        nested = {key: value for key, value in nested.items() if key not in ("id", "text", "image")}
    else:
        nested = {} if more is None else {"src_content": more}
    known = {"did", "txt", "img_path", "modality", "src_content"}  # the modality is known to the index
    found = {"id": fields["did"], "text": fields.get("txt"), "image": fields.get("img_path")}
    return found | nested | {key: value for key, value in fields.items() if key not in known}


def pool_root(folder: AnyPath) -> AnyPath:
    """The folder that the images' paths of a pool in ``folder`` are relative to: the nearest above that holds
    ``mbeir_images``; the pool's own if there is none."""
    whole = folder.absolute()
    return next((above for above in (whole, *whole.parents) if (above / MBEIR_IMAGES).is_dir()), folder)
