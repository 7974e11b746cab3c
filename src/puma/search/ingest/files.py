"""One file of a known kind: checked, counted, and read to records. In the file system, or in an object store.

Loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from puma.data.columnar import PARQUET as TABLES
from puma.data.rows import DELIMITED, JSON_LINES
from puma.errors import DataError, InputError
from puma.index.provenance import FileState
from puma.items.ahead import THREADS, in_order
from puma.items.encoder import Skip
from puma.items.formats import SUFFIXES, why_no_decoder
from puma.items.objects import AnyPath, ObjectPath
from puma.search.ingest.delimited import check_delimited, delimited_rows
from puma.search.ingest.documents import count_pages, pages
from puma.search.ingest.jsonlines import can_give_items, json_lines, text_lines
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import (
    Finished,
    Found,
    Ignored,
    Note,
    Record,
    Row,
    Same,
    record_of,
    source_of,
)
from puma.search.ingest.tables import check_table, count_rows, rows
from puma.search.ingest.unchanged import Reading

IMAGES = SUFFIXES
"""Suffixes that are taken for images; whether they are shows when they are opened."""
LISTS = (".txt", *JSON_LINES, *DELIMITED)
DOCUMENTS = (".pdf",)
IN_FOLDERS = (*IMAGES, *JSON_LINES, *DELIMITED, *TABLES, *DOCUMENTS)
"""What is read inside folders. Text files are not: the lines of a readme are no items."""
COUNTED = 2**20
"""Bytes of a list whose lines are counted; a longer one's are estimated from them."""
_REASONS = {
    ".txt": "read only where the command names the file; one text per line",
    ".svg": "a program, not an image; export it as PNG",
    ".json": "write one object a line, as .jsonl",
    ".xlsx": "save it as .csv",
    ".xls": "save it as .csv",
}
_REASONS |= dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".3gp"), "video is not read")
_REASONS |= dict.fromkeys(
    (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"), "a camera's raw file; export it as JPEG"
)
_REASONS |= dict.fromkeys((".doc", ".docx", ".odt", ".ppt", ".pptx", ".odp"), "save it as PDF")
_REASONS |= dict.fromkeys((".jxl", ".jp2", ".psd", ".xcf", ".ico", ".exr"), "no decoder; export it as PNG or JPEG")
_REASONS |= dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "unpack it")
NO_COLUMNS = "tables without a column for text or image (--text-column and --image-column name them)"


def suffix_of(name: str) -> str:
    """In lower case, with its dot."""
    return Path(name).suffix.lower()


def check_file(path: AnyPath, options: ReadOptions) -> None:
    """Raise InputError for a file of no known kind, DataError for a table without a column that is needed."""
    known = IMAGES + LISTS + TABLES + DOCUMENTS
    if not _is_regular(path) or suffix_of(path.name) not in known:
        reason = _REASONS.get(suffix_of(path.name))
        remedy = f" ({reason})" if reason else ""
        raise InputError(f"{path}: unknown kind of file{remedy}; known are folders, {', '.join(known)}")
    with suppress(OSError):  # reported where its entries would come
        _check_table(path, options)


def _check_table(path: AnyPath, options: ReadOptions) -> None:
    if suffix_of(path.name) in DELIMITED:
        check_delimited(path, options)
    elif suffix_of(path.name) in TABLES:
        check_table(path, options)


def count_in_file(path: AnyPath) -> int:
    """About how many records there will be."""
    suffix = suffix_of(path.name)
    if suffix in IMAGES:
        return 1
    try:
        if suffix in TABLES:
            return count_rows(path)
        if suffix in DOCUMENTS:
            return count_pages(path)
        return max(0, _line_count(path) - (suffix in DELIMITED))
    except OSError:
        return 0


def _line_count(path: AnyPath) -> int:
    with path.open("rb") as stream:
        block = stream.read(COUNTED)
    size = path.stat().st_size
    found = block.count(b"\n")
    if size <= len(block):
        return found + (bool(block) and not block.endswith(b"\n"))
    return max(1, round(found * size / len(block)))


def _why_not_in_folder(path: AnyPath, options: ReadOptions) -> Skip | Ignored | None:
    """Why a file of a known kind is not read where it was found in a folder; None if it is."""
    suffix = suffix_of(path.name)
    if suffix in IMAGES:
        return None
    if not _is_regular(path):  # a pipe would be waited for without end
        return Skip(str(path), "not a regular file", source_of(path))
    with suppress(OSError):  # reported where its entries would come
        try:
            if suffix in JSON_LINES and not can_give_items(path, options):
                return Ignored(str(path), NO_COLUMNS)
            _check_table(path, options)
        except DataError:
            return Ignored(str(path), NO_COLUMNS)
    return None


def file_entries(
    path: AnyPath,
    options: ReadOptions,
    state: FileState | None = None,
    unchanged: Callable[[str, FileState | None], bool] | None = None,
    in_folder: bool = False,
) -> Iterator[Found]:
    """Everything in one file.

    Args:
        state: of an object that was listed just now.
        unchanged: whether a source is as it was when it was last read, and need not be read again.
        in_folder: whether it was found in a folder: what gives no items there is :class:`Ignored`.
    """
    suffix, source = suffix_of(path.name), source_of(path)
    if in_folder and suffix not in IN_FOLDERS:
        reason = _REASONS.get(suffix)
        yield Ignored(str(path), f"{suffix or 'without a suffix'}" + (f" ({reason})" if reason else ""))
        return
    if unchanged is not None and unchanged(source, state):
        yield Same(source)
        return
    left_out = _why_not_in_folder(path, options) if in_folder else None
    if left_out is not None:
        yield left_out
        return
    reading = Reading(source, options.reading(), state)
    found = [_image(path)] if suffix in IMAGES else _READERS[suffix](path, options)
    try:
        for entry in _made(found, isinstance(path, ObjectPath)):
            reading.see(entry)
            yield entry
    except OSError as error:
        yield Skip(str(path), f"cannot be read ({error.strerror or error})", source)
    else:
        yield Finished(source, reading.stamp())


def _made(found: Iterable[Row], remote: bool) -> Iterator[Record | Skip | Note]:
    """The rows of a file as records; those of a table in an object store are made several at once, since each may name
    an image that has to be fetched."""
    if remote:
        return in_order(((partial(_make, row), 0) for row in found), ahead=2 * THREADS)
    return map(_make, found)


def _make(row: Row) -> Record | Skip | Note:
    return row() if callable(row) else row


def _is_regular(path: AnyPath) -> bool:
    return isinstance(path, ObjectPath) or os.path.isfile(path)


def _image(path: AnyPath) -> Record | Skip:
    reason = why_no_decoder(suffix_of(path.name))
    if reason is not None:
        return Skip(str(path), reason, source_of(path))
    return record_of({"image": source_of(path)}, path.parent, str(path), source_of(path))


_READERS: dict[str, Callable[[AnyPath, ReadOptions], Iterator[Row]]] = {".txt": text_lines}
_READERS |= dict.fromkeys(JSON_LINES, json_lines) | dict.fromkeys(DELIMITED, delimited_rows)
_READERS |= dict.fromkeys(TABLES, rows) | dict.fromkeys(DOCUMENTS, pages)
