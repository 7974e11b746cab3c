"""Rows of the text files that people keep tables in: lines, JSON lines, CSV. Each with its place, or why there is none.

One row is held at a time. Loads no torch.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma.errors import DataError
from puma.items.skips import Skip

MAX_LINE = 16 * 2**20
"""Bytes of a line in a text or JSONL file; longer ones are skipped."""
EMPTY = "empty line"
"""The reason of a line that holds nothing."""
DELIMITERS = (",", ";", "\t", "|")
"""What may stand between the columns of a CSV file, the likeliest first."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))

Row = tuple[str, "dict[str, Any] | Skip"]
"""A row's place, as ``file:line``, and what it holds by column, or why it cannot be read."""


def text_lines(path: Path) -> Iterator[tuple[str, str | Skip]]:
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
            yield where, line or Skip(where, EMPTY)


def json_rows(path: Path) -> Iterator[Row]:
    """The JSON objects of a file of one a line."""
    for where, line in text_lines(path):
        if isinstance(line, Skip):
            yield where, line
            continue
        try:
            fields = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            yield where, Skip(where, f"not JSON ({error})")
            continue
        if isinstance(fields, dict):
            yield where, fields
        else:
            yield where, Skip(where, f"not a JSON object, but {type(fields).__name__}")


@dataclass(frozen=True)
class CsvLayout:
    """How a CSV file is written.

    Args:
        encoding: by its byte order mark; UTF-8 without one.
        delimiter: one of :data:`DELIMITERS`.
        names: of its columns, white space around them cut off.
    """

    encoding: str
    delimiter: str
    names: tuple[str, ...]


def csv_layout(path: Path, wanted: Collection[str]) -> CsvLayout:
    """Find out how a CSV file is written from its header, the first row that is not blank.

    The delimiter is the one that gives the most of the ``wanted`` columns, and of those the one that gives most columns
    in all.

    Raises:
        DataError: the header cannot be read.
    """
    with open(path, "rb") as raw:
        start = raw.read(4)
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    found = []
    for delimiter in DELIMITERS:
        try:
            with open(path, encoding=encoding, errors="surrogateescape", newline="") as stream:
                header = next((row for row in csv.reader(stream, delimiter=delimiter) if row), [])
        except (csv.Error, UnicodeError) as error:
            raise DataError(f"{path}, line 1: not CSV ({error})") from None
        found.append(CsvLayout(encoding, delimiter, tuple(name.strip() for name in header)))
    return max(found, key=lambda layout: (len(set(wanted) & set(layout.names)), len(layout.names)))


def csv_rows(path: Path, layout: CsvLayout) -> Iterator[Row]:
    """The rows of a CSV file below its header, every value a string. Blank lines are no rows."""
    with open(path, encoding=layout.encoding, errors="surrogateescape", newline="") as stream:
        table = csv.DictReader(stream, fieldnames=layout.names, delimiter=layout.delimiter)
        header = True
        while True:
            try:
                row = next(table)
            except StopIteration:
                return
            except (csv.Error, UnicodeError) as error:
                where = f"{path}:{table.reader.line_num}"
                yield where, Skip(where, f"not CSV ({error})")
                if isinstance(error, UnicodeError):  # UTF-16 that breaks off: nothing after it can be told
                    return
                continue
            if header:
                header = False
                continue
            where = f"{path}:{table.line_num}"
            if None in row or None in row.values():
                yield where, Skip(where, f"the row does not have the header's {len(layout.names)} columns")
            else:
                yield where, row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
