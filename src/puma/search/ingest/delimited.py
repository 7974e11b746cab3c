"""Rows of CSV and its relatives: delimiter, encoding and columns as the file has them. Loads no torch."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puma.errors import DataError
from puma.items.encoder import Skip
from puma.search.ingest.columns import Columns
from puma.search.ingest.encodings import NOT_UTF8, UTF8, encoding_of
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import Note, Record, record_of, source_of

DELIMITERS = (",", ";", "\t", "|")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,9})?")
"""No leading zero, no plus, no exponent: a postcode or a part number stays as it is written."""
_SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
"""A spreadsheet's first line that names the delimiter."""


def check_delimited(path: Path, options: ReadOptions) -> None:
    """Raise DataError unless a text or an image can be found in the columns.

    Raises:
        OSError: the file cannot be read.
    """
    columns = Columns(options)
    _, _, names, _ = _header(path, columns)
    if not columns.usable(names):
        raise DataError(f"{path}, line 1: {columns.wanted()} is needed, the file has {names}")


def delimited_rows(path: Path, options: ReadOptions) -> Iterator[Record | Skip | Note]:
    """Every row as a record, or why there is none."""
    source, columns = source_of(path), Columns(options)
    try:
        encoding, delimiter, names, skipped = _header(path, columns)
    except DataError as error:
        yield Skip(str(path), str(error), source)
        return
    own = {"id", columns.text_in(names), *columns.images_in(names)}
    with open(path, encoding=encoding, errors=_on_errors(encoding), newline="") as stream:
        for _ in range(skipped):
            stream.readline()
        table = csv.DictReader(stream, names, delimiter=delimiter)
        next(table, None)  # the header
        while True:
            try:
                row = next(table)
            except StopIteration:
                break
            except csv.Error as error:
                yield Skip(f"{path}:{table.line_num + skipped}", f"not CSV ({error})")
                continue
            except UnicodeError as error:
                yield Skip(str(path), f"nothing can be read from here as {encoding} ({error}); see --encoding", source)
                return
            where = f"{path}:{table.line_num + skipped}"
            if None in row or None in row.values():
                yield Skip(where, f"the row does not have the header's {len(names)} columns")
                continue
            if any("\udc80" <= letter <= "\udcff" for value in row.values() for letter in value if letter > "\ud7ff"):
                yield Skip(where, NOT_UTF8)
                continue
            for fields in columns.rows(_cells(row, own)):
                yield record_of(fields, path.parent, where, source)
    yield from (Note(str(path), message) for message in columns.notes())


def _header(path: Path, columns: Columns) -> tuple[str, str, list[str], int]:
    """Encoding, delimiter, names of the columns, and lines before them. The delimiter is the one with which a text or
    an image is found; of several, and if none does, the one that gives most columns."""
    encoding = encoding_of(path, columns.options.encoding)
    best: tuple[tuple[bool, int], str, list[str]] | None = None
    with open(path, encoding=encoding, errors=_on_errors(encoding), newline="") as stream:
        try:
            named = _SEPARATOR.fullmatch(stream.readline(100))
            start = stream.tell() if named else 0
            for delimiter in [named[1]] if named else DELIMITERS:
                stream.seek(start)
                names = next(csv.reader(stream, delimiter=delimiter), [])
                names = [name.lstrip("\ufeff") for name in names]
                score = columns.usable(names), len(names)
                if best is None or score > best[0]:
                    best = score, delimiter, names
        except UnicodeError as error:
            raise DataError(f"{path}, line 1: cannot be read as {encoding} ({error}); see --encoding") from None
        except csv.Error as error:
            raise DataError(f"{path}, line 1: not CSV ({error})") from None
    assert best is not None
    return encoding, best[1], best[2], int(bool(named))


def _on_errors(encoding: str) -> str:
    return "surrogateescape" if encoding == UTF8 else "strict"


def _cells(row: dict[str, str], own: set[str | None]) -> dict[str, Any]:
    """A row without its empty cells; what is written as a plain number is one, so that it can be compared."""
    return {
        key: value if key in own or not _NUMBER.fullmatch(value) else json.loads(value)
        for key, value in row.items()
        if value != ""
    }
