"""Paths in, records out: folders of images, single images, text files, JSONL (M-BEIR's pools too) and CSV.

Here: what may be given, the order things come in, how many they will be. Not here: Parquet (:mod:`puma.search.ingest.tables`),
PDF (:mod:`puma.search.ingest.documents`), what a record is (:mod:`puma.search.ingest.records`), embedding and storing
(:mod:`puma.search.ingest.filling`). Nothing in this module loads torch.

Everything is read one entry at a time; no list is held. Nothing is ever guessed to be text because it is no file.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from puma.errors import DataError, InputError
from puma.items.encoder import Skip
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
    return (entry for _, entry in read_by_path(paths))


def read_by_path(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[int, Found]]:
    """As :func:`read_items`, each entry with the number of the path that it comes from."""
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    checked = [_checked(Path(path)) for path in paths]
    return ((number, entry) for number, path in enumerate(checked) for entry in _entries(path))


def count_items(paths: Iterable[str | os.PathLike[str]]) -> int:
    """About how many entries :func:`read_items` will find, without opening the images: for time left.

    Raises:
        InputError, DataError: as :func:`read_items`.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    return sum(_count(_checked(Path(path))) for path in paths)


def _checked(path: Path) -> Path:
    known = IMAGES + LISTS + TABLES + DOCUMENTS
    if not os.path.exists(path):  # unlike Path.exists, never an OSError for an over-long name
        raise InputError(f"{path}: no such file or folder (a path is never taken for text; put texts into a .txt file)")
    if path.is_dir():
        return path
    if not path.is_file() or path.suffix.lower() not in known:
        raise InputError(f"{path}: unknown kind of file; known are folders, {', '.join(known)}")
    try:
        if path.suffix.lower() == ".csv":
            _check_csv(path)
        elif path.suffix.lower() in TABLES:
            check_table(path)
    except OSError:
        pass  # told where its entries would come
    return path


def _entries(path: Path) -> Iterator[Found]:
    suffix = path.suffix.lower()
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".csv": _csv_rows} | dict.fromkeys(TABLES, rows)
    readers |= dict.fromkeys(DOCUMENTS, pages)
    if path.is_dir():
        yield from _folder(path)
    elif suffix in IMAGES:
        yield _image(path)
    else:
        try:
            yield from readers[suffix](path)
        except OSError as error:
            yield Skip(str(path), f"cannot be read ({error.strerror or error})", source_of(path))


def _count(path: Path) -> int:
    suffix = path.suffix.lower()
    if path.is_dir():
        return sum(Path(name).suffix.lower() in IMAGES for _, _, files in os.walk(path) for name in files)
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


def _folder(folder: Path) -> Iterator[Found]:
    closed: list[Skip] = []

    def note(error: OSError) -> None:
        where = str(error.filename)
        closed.append(Skip(where, f"{error.strerror}", source_of(Path(where))))

    for parent, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            yield _image(path) if path.suffix.lower() in IMAGES else Ignored(str(path))
    yield from closed


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
