"""Paths in, records out: folders, images, text files, tables and documents. Loads no torch.

Everything is read one entry at a time; no list is held. Nothing is ever guessed to be text because it is no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from puma.data.columnar import PARQUET as TABLES
from puma.data.rows import DELIMITED, JSON_LINES
from puma.errors import DataError, InputError
from puma.items.encoder import Skip
from puma.items.formats import SUFFIXES, why_no_decoder
from puma.items.references import is_address, no_such_file
from puma.search.ingest.delimited import check_delimited, delimited_rows
from puma.search.ingest.documents import count_pages, pages
from puma.search.ingest.jsonlines import can_give_items, json_lines, text_lines
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import Finished, Found, Ignored, Note, Record, Same, record_of, source_of
from puma.search.ingest.tables import check_table, count_rows, rows
from puma.search.ingest.unchanged import Reading
from puma.search.ingest.walking import Step, walk

IMAGES = SUFFIXES
"""Suffixes that are taken for images; whether they are shows when they are opened."""
LISTS = (".txt", *JSON_LINES, *DELIMITED)
DOCUMENTS = (".pdf",)
IN_FOLDERS = (*IMAGES, *JSON_LINES, *DELIMITED, *TABLES, *DOCUMENTS)
"""What is read inside folders. Text files are not: the lines of a readme are no items."""
COUNTED = 2**20
"""Bytes of a list whose lines are counted; a longer one's are estimated from them."""
_REASONS = {
    ".txt": "read where it is named itself, a text a line",
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


def read_items(
    paths: Iterable[str | os.PathLike[str]], options: ReadOptions | None = None
) -> Iterator[Record | Skip | Ignored | Note]:
    """Everything in these paths, in a fixed order, one at a time.

    Args:
        paths: folders (images, tables and documents in them, at any depth; others are :class:`Ignored`), images, and
            files that hold several items:

            - ``.txt``: one a line;
            - ``.jsonl``: objects with ``text`` and/or ``image``, optionally ``id``; other keys are kept as payload;
              ``image`` is relative to the file. M-BEIR's candidate pools are understood as they are;
            - ``.csv``, ``.tsv``: the same, by column, with any usual delimiter;
            - ``.parquet``: the same; ``image`` may be a path, an image's bytes, or both as ``{bytes, path}``;
            - ``.pdf``: an image and the words of each page (needs pypdfium2).
        options: how they are read.

    Raises:
        InputError: before anything is read, if a path does not exist or is of no known kind.
        DataError: before anything is read, if a table has no column for a text or an image.
    """
    readers = [PathReader(path, options) for path in _listed(paths)]
    for reader in readers:
        reader.check()
    named = {source_of(reader.path) for reader in readers}
    # What was read of an image is dropped: whoever lists all records would hold all files.
    return (
        replace(entry, file=None) if isinstance(entry, Record) else entry
        for reader in readers
        for entry in reader.entries(named)
        if not isinstance(entry, (Finished, Same))
    )


def count_items(paths: Iterable[str | os.PathLike[str]]) -> int:
    """About how many entries :func:`read_items` will find, without opening the images: for time left.

    Raises:
        InputError, DataError: as :func:`read_items`.
    """
    readers = [PathReader(path) for path in _listed(paths)]
    for reader in readers:
        reader.check()
    return sum(reader.count() for reader in readers)


class PathReader:
    """One path that is checked, counted and read. A folder is walked once: what was counted is what is read."""

    def __init__(self, path: str | os.PathLike[str], options: ReadOptions | None = None) -> None:
        self.path, self.options = Path(path), options or ReadOptions()
        self._walked: list[Step] | None = None

    def check(self) -> None:
        """Raise InputError if there is no such path or it is of no known kind, DataError if it is a table without a
        column that is needed."""
        _check(self.path, self.options)

    def count(self) -> int:
        """About how many records there will be; of a folder, how many files that may give some."""
        if not self.path.is_dir():
            return _count_in_file(self.path)
        if self._walked is None:
            self._walked = list(walk(self.path, self.options))
        steps = (step for step in self._walked if isinstance(step, tuple))
        return sum(_suffix(name) in IN_FOLDERS for _, names in steps for name in names)

    def entries(self, named: Collection[str] = (), unchanged: Callable[[str], bool] | None = None) -> Iterator[Found]:
        """Everything in it, in a fixed order.

        Args:
            named: sources that are read by themselves, and so not once more in a folder.
            unchanged: whether a source is as it was when it was last read, and need not be read again.
        """
        if not self.path.is_dir():
            yield from _file(self.path, self.options, unchanged)
            return
        steps, self._walked = self._walked, None
        for step in walk(self.path, self.options) if steps is None else steps:
            if not isinstance(step, tuple):
                yield step
                continue
            parent, names = step
            for name in names:
                path = Path(parent, name)
                if source_of(path) not in named:
                    yield from _file(path, self.options, unchanged, in_folder=True)


def _listed(paths: Iterable[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _check(path: Path, options: ReadOptions) -> None:
    known = IMAGES + LISTS + TABLES + DOCUMENTS
    if not os.path.exists(path):  # unlike Path.exists, never an OSError for an over-long name
        if is_address(str(path)):
            raise InputError(f"{path}: {no_such_file(str(path))}")
        raise InputError(f"{path}: no such file or folder (a path is never taken for text; put texts into a .txt file)")
    if path.is_dir():
        return
    if not path.is_file() or _suffix(path.name) not in known:
        reason = _REASONS.get(_suffix(path.name))
        remedy = f" ({reason})" if reason else ""
        raise InputError(f"{path}: unknown kind of file{remedy}; known are folders, {', '.join(known)}")
    with suppress(OSError):  # reported where its entries would come
        _check_table(path, options)


def _check_table(path: Path, options: ReadOptions) -> None:
    if _suffix(path.name) in DELIMITED:
        check_delimited(path, options)
    elif _suffix(path.name) in TABLES:
        check_table(path, options)


def _count_in_file(path: Path) -> int:
    suffix = _suffix(path.name)
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


def _line_count(path: Path) -> int:
    with open(path, "rb") as stream:
        block = stream.read(COUNTED)
    size = path.stat().st_size
    found = block.count(b"\n")
    if size <= len(block):
        return found + (bool(block) and not block.endswith(b"\n"))
    return max(1, round(found * size / len(block)))


def _why_not_in_folder(path: Path, options: ReadOptions) -> Skip | Ignored | None:
    """Why a file of a known kind is not read where it was found in a folder; None if it is."""
    suffix = _suffix(path.name)
    if suffix in IMAGES:
        return None
    if not os.path.isfile(path):  # a pipe would be waited for without end
        return Skip(str(path), "not a regular file", source_of(path))
    with suppress(OSError):  # reported where its entries would come
        try:
            if suffix in JSON_LINES and not can_give_items(path, options):
                return Ignored(str(path), NO_COLUMNS)
            _check_table(path, options)
        except DataError:
            return Ignored(str(path), NO_COLUMNS)
    return None


def _file(
    path: Path, options: ReadOptions, unchanged: Callable[[str], bool] | None, in_folder: bool = False
) -> Iterator[Found]:
    """Everything in one file."""
    suffix, source = _suffix(path.name), source_of(path)
    if in_folder and suffix not in IN_FOLDERS:
        reason = _REASONS.get(suffix)
        yield Ignored(str(path), f"{suffix or 'without a suffix'}" + (f" ({reason})" if reason else ""))
        return
    if unchanged is not None and unchanged(source):
        yield Same(source)
        return
    left_out = _why_not_in_folder(path, options) if in_folder else None
    if left_out is not None:
        yield left_out
        return
    reading = Reading(source, options.reading())
    try:
        for entry in [_image(path)] if suffix in IMAGES else _READERS[suffix](path, options):
            reading.see(entry)
            yield entry
    except OSError as error:
        yield Skip(str(path), f"cannot be read ({error.strerror or error})", source)
    else:
        yield Finished(source, reading.stamp())


def _image(path: Path) -> Record | Skip:
    reason = why_no_decoder(_suffix(path.name))
    if reason is not None:
        return Skip(str(path), reason, source_of(path))
    return record_of({"image": source_of(path)}, Path("."), str(path), source_of(path))


_READERS: dict[str, Callable[[Path, ReadOptions], Iterator[Record | Skip | Note]]] = {".txt": text_lines}
_READERS |= dict.fromkeys(JSON_LINES, json_lines) | dict.fromkeys(DELIMITED, delimited_rows)
_READERS |= dict.fromkeys(TABLES, rows) | dict.fromkeys(DOCUMENTS, pages)
