"""Rows of the text files that people keep tables in: JSON lines and CSV. Each with its place, or why there is none.

One row is held at a time. Loads no torch.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any

from puma.data.encodings import UTF8, breaks_off, encoding_of, text_lines
from puma.errors import DataError
from puma.items.objects import AnyPath
from puma.items.skips import Skip

JSON_LINES = (".jsonl", ".ndjson")
DELIMITED = (".csv", ".tsv")
DELIMITERS = (",", ";", "\t", "|")
"""What may stand between the columns of a CSV file, the likeliest first."""
_SEPARATOR = re.compile(r'\ufeff?sep=([^\r\n"])\r?\n?', re.IGNORECASE)
"""A spreadsheet's first line that names the delimiter."""

Row = tuple[str, "dict[str, Any] | Skip"]
"""A row's place, as ``file:line``, and what it holds by column, or why it cannot be read."""


def json_rows(path: AnyPath, encoding: str | None = None, advice: str = "") -> Iterator[Row]:
    """The JSON objects of a file of one a line. Arguments and errors are those of
    :func:`puma.data.encodings.text_lines`."""
    for where, line in text_lines(path, encoding, advice):
        yield where, line if isinstance(line, Skip) else json_object(line, where)


def json_object(line: str, where: str) -> dict[str, Any] | Skip:
    """The object that a line holds, or why there is none."""
    try:
        fields = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return Skip(where, f"not JSON ({error})")
    return fields if isinstance(fields, dict) else Skip(where, f"not a JSON object, but {type(fields).__name__}")


@dataclass(frozen=True)
class CsvLayout:
    """How a CSV file is written.

    Args:
        encoding: as :func:`puma.data.encodings.encoding_of` finds it.
        delimiter: one of :data:`DELIMITERS`, or the one that the file's first line names.
        names: of its columns, white space around them cut off.
        before: lines before the header that are no rows: one that names the delimiter (``sep=;``).
    """

    encoding: str
    delimiter: str
    names: tuple[str, ...]
    before: int = 0


def csv_layouts(path: AnyPath, encoding: str | None = None, advice: str = "") -> list[CsvLayout]:
    """Every way in which a CSV file may be written, by its header, the first row that is not blank: one for each
    delimiter, or the only one where the file names its own.

    Args:
        encoding: as Python names it; None for the one that is found.
        advice: what the error says last where the file is not in the encoding.

    Raises:
        OSError: the file cannot be read.
        DataError: the header cannot be read.
    """
    encoding = encoding_of(path, encoding)
    found = []
    try:
        with _opened(path, encoding) as stream:
            named = _SEPARATOR.fullmatch(stream.readline(100))
            start = stream.tell() if named else 0
            for delimiter in (named[1],) if named else DELIMITERS:
                stream.seek(start)
                header = next((row for row in csv.reader(stream, delimiter=delimiter) if row), [])
                names = tuple(name.lstrip("\ufeff").strip() for name in header)
                found.append(CsvLayout(encoding, delimiter, names, int(named is not None)))
    except UnicodeError as error:
        raise DataError(f"{path}, line 1: not CSV in {encoding} ({error}){advice}") from None
    except csv.Error as error:
        raise DataError(f"{path}, line 1: not CSV ({error})") from None
    return found


def csv_layout(path: AnyPath, wanted: Collection[str], advice: str = "") -> CsvLayout:
    """Find out how a CSV file is written.

    The delimiter is the one that gives the most of the ``wanted`` columns, and of those the one that gives most columns
    in all.

    Raises:
        OSError, DataError: as :func:`csv_layouts`.
    """
    layouts = csv_layouts(path, advice=advice)
    return max(layouts, key=lambda layout: (len(set(wanted) & set(layout.names)), len(layout.names)))


def csv_rows(path: AnyPath, layout: CsvLayout, advice: str = "") -> Iterator[Row]:
    """The rows of a CSV file below its header, every value a string. Blank lines are no rows.

    A byte that is not UTF-8 stands in its value as a lone surrogate: whoever needs the value refuses it. In another
    encoding nothing can be read after such a byte, and the last row says so with ``advice``.

    Raises:
        OSError: the file cannot be read.
    """
    with _opened(path, layout.encoding) as stream:
        for _ in range(layout.before):
            stream.readline()
        table = csv.DictReader(stream, fieldnames=layout.names, delimiter=layout.delimiter)
        header = True
        while True:
            try:
                row = next(table)
            except StopIteration:
                return
            except (csv.Error, UnicodeError) as error:
                where = f"{path}:{layout.before + table.reader.line_num}"
                if isinstance(error, UnicodeError):
                    yield where, breaks_off(path, where, layout.encoding, error, advice)
                    return
                yield where, Skip(where, f"not CSV ({error})")
                continue
            if header:
                header = False
                continue
            where = f"{path}:{layout.before + table.line_num}"
            if None in row or None in row.values():
                yield where, Skip(where, f"the row does not have the header's {len(layout.names)} columns")
            else:
                yield where, row


def _opened(path: AnyPath, encoding: str) -> IO[str]:
    return path.open(encoding=encoding, errors="surrogateescape" if encoding == UTF8 else "strict", newline="")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
