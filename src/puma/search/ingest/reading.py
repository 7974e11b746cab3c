"""Paths in, records out: folders of images, single images, text files, JSONL (M-BEIR's pools too) and CSV. Loads no
torch.

Everything is read one entry at a time; no list is held. Nothing is ever guessed to be text because it is no file.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from puma.errors import DataError, InputError
from puma.items.encoder import Skip
from puma.items.references import is_address, no_such_file
from puma.search.ingest.documents import count_pages, pages
from puma.search.ingest.records import Found, Ignored, Record, pool_fields, pool_root, record_of, source_of
from puma.search.ingest.tables import check_table, count_rows, rows

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""Suffixes that are taken for images; whether they are shows when they are opened."""
LISTS = (".txt", ".jsonl", ".csv")
TABLES = (".parquet",)
DOCUMENTS = (".pdf",)
MAX_LINE = 16 * 2**20
"""Bytes of a line in a text or JSONL file; longer ones are skipped."""
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,9})?")
"""No leading zero, no plus, no exponent: a postcode or a part number stays as it is written."""


def read_items(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Found]:
    """Everything in these paths, in a fixed order, one at a time.

    Args:
        paths: folders (images in them, at any depth; other files are :class:`Ignored`), images, and files that
            hold several items:

            - ``.txt``: one a line;
            - ``.jsonl``: objects with ``text`` and/or ``image``, optionally ``id``; other keys are kept as payload;
              ``image`` is relative to the file. M-BEIR's candidate pools are understood as they are;
            - ``.csv``: the same, by column;
            - ``.parquet``: the same; ``image`` may be a path, an image's bytes, or both as ``{bytes, path}``;
            - ``.pdf``: an image and the words of each page (needs pypdfium2).

    Raises:
        InputError: before anything is read, if a path does not exist or is of no known kind.
        DataError: before anything is read, if a table has neither a ``text`` nor an ``image`` column.
    """
    readers = [PathReader(path) for path in _listed(paths)]
    for reader in readers:
        reader.check()
    # What was read of an image is dropped: whoever lists all records would hold all files.
    return (
        replace(entry, file=None) if isinstance(entry, Record) else entry
        for reader in readers
        for entry in reader.entries()
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

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._walked: list[tuple[str, list[str]] | Skip] | None = None

    def check(self) -> None:
        """Raise InputError if there is no such path or it is of no known kind, DataError if it is a table without a
        column that is needed."""
        _check(self.path)

    def count(self) -> int:
        """About how many records there will be."""
        if not self.path.is_dir():
            return _count_in_file(self.path)
        if self._walked is None:
            self._walked = list(_walk(self.path))
        steps = (step for step in self._walked if not isinstance(step, Skip))
        return sum(_is_image(name) for _, names in steps for name in names)

    def entries(self) -> Iterator[Found]:
        """Everything in it, in a fixed order."""
        suffix = self.path.suffix.lower()
        if self.path.is_dir():
            steps, self._walked = self._walked, None
            yield from _folder(_walk(self.path) if steps is None else steps)
        elif suffix in IMAGES:
            yield _image(self.path)
        else:
            try:
                yield from _READERS[suffix](self.path)
            except OSError as error:
                yield Skip(str(self.path), f"cannot be read ({error.strerror or error})", source_of(self.path))


def _listed(paths: Iterable[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def _check(path: Path) -> None:
    known = IMAGES + LISTS + TABLES + DOCUMENTS
    if not os.path.exists(path):  # unlike Path.exists, never an OSError for an over-long name
        if is_address(str(path)):
            raise InputError(f"{path}: {no_such_file(str(path))}")
        raise InputError(f"{path}: no such file or folder (a path is never taken for text; put texts into a .txt file)")
    if path.is_dir():
        return
    if not path.is_file() or path.suffix.lower() not in known:
        raise InputError(f"{path}: unknown kind of file; known are folders, {', '.join(known)}")
    try:
        if path.suffix.lower() == ".csv":
            _check_csv(path)
        elif path.suffix.lower() in TABLES:
            check_table(path)
    except OSError:
        pass  # reported where its entries would come


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGES


def _count_in_file(path: Path) -> int:
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return 1
    try:
        if suffix in TABLES:
            return count_rows(path)
        if suffix in DOCUMENTS:
            return count_pages(path)
        return max(0, _line_count(path) - (suffix == ".csv"))
    except OSError:
        return 0


def _line_count(path: Path) -> int:
    count, last = 0, b"\n"
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _walk(folder: Path) -> Iterator[tuple[str, list[str]] | Skip]:
    """Each folder with its files' names, in order, and at the end those folders that could not be looked into."""
    closed: list[Skip] = []

    def note(error: OSError) -> None:
        where = str(error.filename)
        closed.append(Skip(where, f"{error.strerror}", source_of(Path(where))))

    for parent, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        yield parent, sorted(files)
    yield from closed


def _folder(steps: Iterable[tuple[str, list[str]] | Skip]) -> Iterator[Found]:
    for step in steps:
        if isinstance(step, Skip):
            yield step
            continue
        parent, names = step
        for name in names:
            path = Path(parent, name)
            yield _image(path) if _is_image(name) else Ignored(str(path))


def _image(path: Path) -> Record | Skip:
    return record_of({"image": source_of(path)}, Path("."), str(path), source_of(path))


def _text_lines(path: Path) -> Iterator[Record | Skip]:
    source = source_of(path)
    for where, line in _lines(path):
        yield line if isinstance(line, Skip) else record_of({"text": line}, path.parent, where, source)


def _json_lines(path: Path) -> Iterator[Record | Skip]:
    source, root = source_of(path), None
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
        pooled = pool_fields(fields)
        if pooled is not None and root is None:
            root = pool_root(path.parent)
        base = path.parent if pooled is None or root is None else root
        yield record_of(fields if pooled is None else pooled, base, where, source)


def _check_csv(path: Path) -> None:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        try:
            names = csv.DictReader(stream).fieldnames or []
        except csv.Error as error:
            raise DataError(f"{path}, line 1: not CSV ({error})") from None
    if not {"text", "image"} & set(names):
        raise DataError(f"{path}, line 1: a column named text or image is needed, the file has {list(names)}")


def _csv_rows(path: Path) -> Iterator[Record | Skip]:
    source = source_of(path)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        table = csv.DictReader(stream)
        names = table.fieldnames or []
        while True:
            try:
                row = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                yield Skip(f"{path}:{table.line_num}", f"not CSV ({error})")
                continue
            where = f"{path}:{table.line_num}"
            if None in row or None in row.values():
                yield Skip(where, f"the row does not have the header's {len(names)} columns")
                continue
            yield record_of(_cells(row), path.parent, where, source)


def _cells(row: dict[str, str]) -> dict[str, Any]:
    """A row without its empty cells; what is written as a plain number is one, so that it can be compared."""
    own = ("text", "image", "id")
    return {
        key: value if key in own or not _NUMBER.fullmatch(value) else json.loads(value)
        for key, value in row.items()
        if value != ""
    }


def _lines(path: Path) -> Iterator[tuple[str, str | Skip]]:
    """Lines with their place. Bytes are split, not text: a stray U+2028 inside a caption is no line's end."""
    number = 0
    with open(path, "rb") as stream:
        while raw := stream.readline(MAX_LINE):
            number += 1
            where = f"{path}:{number}"
            if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
                while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield where, Skip(where, f"the line is longer than {MAX_LINE:,} bytes")
                continue
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield where, Skip(where, "not UTF-8")
                continue
            yield where, line or Skip(where, "empty line")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


_READERS: dict[str, Callable[[Path], Iterator[Record | Skip]]]
_READERS = {".txt": _text_lines, ".jsonl": _json_lines, ".csv": _csv_rows}
_READERS |= dict.fromkeys(TABLES, rows) | dict.fromkeys(DOCUMENTS, pages)
