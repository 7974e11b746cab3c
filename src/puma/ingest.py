"""Reading what people keep their items in: folders of pictures, single pictures, text files, JSONL and CSV.

Here: paths in, records out (an id, an item, its payload), and everything that had to be left out, with the reason.
Not here: embedding (:mod:`puma.embedding`) and storing (:mod:`puma.search`). Nothing in this module loads torch.

An id is the digest of what is embedded (modality, text, the picture's bytes) unless the file gives one: reading the
same things twice gives the same ids. Nothing is ever guessed to be text because it is no file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma.embedding import Skip
from puma.errors import DataError, ImageError, InputError
from puma.items import MAX_BYTES, Item

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""Suffixes that are taken for pictures; whether they are shows when they are opened."""
LISTS = (".txt", ".jsonl", ".csv")
ID_LENGTH = 32
"""Hexadecimal digits of a content id: 128 bits."""


@dataclass(frozen=True)
class Record:
    """One item to be indexed.

    Args:
        id: given by the file, or :attr:`content`.
        content: digest of the modality, the text and the picture's bytes.
        payload: what is returned with a hit: ``text`` and ``image`` (an absolute path) as far as the item has them,
            and the file's other fields.
        where: the file, and the line if it has lines.
    """

    id: str
    item: Item
    payload: dict[str, Any]
    content: str
    where: str


@dataclass(frozen=True)
class Ignored:
    """A file in a folder whose suffix is no picture's."""

    where: str


Found = Record | Skip | Ignored


def read_items(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Found]:
    """Everything in these paths, in a fixed order, one at a time.

    Args:
        paths: folders (pictures in them, at any depth; other files are :class:`Ignored`), pictures, ``.txt`` (an item a
            line), ``.jsonl`` (objects with ``text`` and/or ``image``, optionally ``id``; other keys are kept as
            payload; ``image`` is relative to the file) and ``.csv`` (the same, by column).

    Raises:
        InputError: before anything is read, if a path does not exist or is of no known kind.
        DataError: a CSV file has neither a ``text`` nor an ``image`` column.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    checked = [_checked(Path(path)) for path in paths]
    return _all(checked)


def content_digest(item: Item) -> str:
    """The digest of what would be embedded: 32 hexadecimal digits.

    Raises:
        ImageError: the picture's file cannot be read or is over the size limit.
        InputError: the text is not valid Unicode.
    """
    digest = hashlib.sha256(item.modality.encode())
    try:
        text = (item.text or "").encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the text is not valid Unicode") from None
    # Lengths are hashed too: else "ab" + "c" and "a" + "bc" would be one item.
    digest.update(b"\0%d\0" % len(text) + text)
    if isinstance(item.image, (str, os.PathLike)):
        digest.update(_file_bytes(Path(item.image)))
    elif isinstance(item.image, bytes):
        digest.update(item.image)
    elif item.image is not None:
        picture = item.open_image()
        assert picture is not None
        digest.update(f"{picture.size}".encode() + picture.tobytes())
    return digest.hexdigest()[:ID_LENGTH]


def _checked(path: Path) -> Path:
    if not os.path.exists(path):  # unlike Path.exists, never an OSError for an over-long name
        raise InputError(f"{path}: no such file or folder (a path is never taken for text; put texts into a .txt file)")
    if path.is_dir() or (path.is_file() and path.suffix.lower() in PICTURES + LISTS):
        return path
    raise InputError(f"{path}: unknown kind of file; known are folders, {', '.join(PICTURES + LISTS)}")


def _all(paths: Sequence[Path]) -> Iterator[Found]:
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".csv": _csv_rows}
    for path in paths:
        if path.is_dir():
            yield from _folder(path)
        elif path.suffix.lower() in PICTURES:
            yield _picture(path)
        else:
            try:
                yield from readers[path.suffix.lower()](path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _folder(folder: Path) -> Iterator[Found]:
    closed: list[Skip] = []
    walk = os.walk(folder, onerror=lambda error: closed.append(Skip(str(error.filename), f"{error.strerror}")))
    for parent, folders, files in walk:
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            yield _picture(path) if path.suffix.lower() in PICTURES else Ignored(str(path))
    yield from closed


def _picture(path: Path) -> Record | Skip:
    return _record({"image": str(path.absolute())}, Path("."), str(path))


def _text_lines(path: Path) -> Iterator[Record | Skip]:
    for where, line in _lines(path):
        yield line if isinstance(line, Skip) else _record({"text": line}, path.parent, where)


def _json_lines(path: Path) -> Iterator[Record | Skip]:
    for where, line in _lines(path):
        if isinstance(line, Skip):
            yield line
            continue
        try:
            fields = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            yield Skip(where, f"not JSON ({error})")
            continue
        if not isinstance(fields, dict):
            yield Skip(where, f"not a JSON object, but {type(fields).__name__}")
            continue
        yield _record(fields, path.parent, where)


def _csv_rows(path: Path) -> Iterator[Record | Skip]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.DictReader(stream)
        try:
            names = rows.fieldnames or []
        except csv.Error as error:
            raise DataError(f"{path}, line 1: not CSV ({error})") from None
        if not {"text", "image"} & set(names):
            raise DataError(f"{path}, line 1: a column named text or image is needed, the file has {list(names)}")
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Skip(f"{path}:{rows.line_num}", f"not CSV ({error})")
                continue
            where = f"{path}:{rows.line_num}"
            if None in row or None in row.values():
                yield Skip(where, f"the row does not have the header's {len(names)} columns")
                continue
            yield _record({key: value for key, value in row.items() if value != ""}, path.parent, where)


def _lines(path: Path) -> Iterator[tuple[str, str | Skip]]:
    """Lines with their place. Bytes are split, not text: a stray U+2028 inside a caption is no line's end."""
    with open(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield where, Skip(where, "not UTF-8")
                continue
            yield where, line or Skip(where, "empty line")


def _record(fields: dict[str, Any], base: Path, where: str) -> Record | Skip:
    """A record from a line's fields, or why there is none."""
    fields = dict(fields)
    text, image, name = fields.pop("text", None), fields.pop("image", None), fields.pop("id", None)
    try:
        for key, value in (("text", text), ("image", image)):
            if value is not None and not isinstance(value, str):
                raise InputError(f"{key} must be a string, got {type(value).__name__}")
        if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
            raise InputError(f"id must be a string or an integer, got {type(name).__name__}")
        if not (text or "").strip() and not image:
            raise InputError("empty: neither text nor image")
        if image and "\0" in image:
            raise InputError("image: a path cannot hold a NUL character")
        item = Item(text=text, image=Path(base, image).absolute() if image else None)
        content = content_digest(item)
    except InputError as error:  # ImageError is one
        return Skip(where, str(error))
    payload = ({"text": item.text} if item.text else {}) | ({"image": str(item.image)} if item.image else {}) | fields
    return Record(content if name in (None, "") else str(name), item, payload, content, where)


def _file_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not a picture")
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: not a regular file")  # a pipe would be waited for without end
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{path}: {path.stat().st_size:,} bytes are over the limit of {MAX_BYTES:,}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
