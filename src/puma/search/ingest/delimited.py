"""Rows of CSV and its relatives as records: delimiter, encoding and columns as the file has them. Loads no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from puma.data.rows import CsvLayout, csv_layouts, csv_rows
from puma.errors import DataError
from puma.items.encoder import Skip
from puma.items.objects import AnyPath
from puma.search.ingest.columns import Columns
from puma.search.ingest.options import ADVICE, NOT_UTF8, ReadOptions
from puma.search.ingest.records import Row, is_text, record_of, source_of

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,9})?")
"""No leading zero, no plus, no exponent: a postcode or a part number stays as it is written."""


def check_delimited(path: AnyPath, options: ReadOptions) -> None:
    """Raise DataError unless a text or an image can be found in the columns.

    Raises:
        OSError: the file cannot be read.
    """
    columns = Columns(options)
    layout = _layout(path, columns)
    if not columns.usable(layout.names):
        line, names = 1 + layout.before, list(layout.names)
        raise DataError(f"{path}, line {line}: {columns.wanted()} is needed, the file has {names}")


def delimited_rows(path: AnyPath, options: ReadOptions) -> Iterator[Row]:
    """Every row as a record, or why there is none."""
    source, columns = source_of(path), Columns(options)
    try:
        layout = _layout(path, columns)
    except DataError as error:
        yield Skip(str(path), str(error), source)
        return
    own = {"id", columns.text_in(layout.names), *columns.images_in(layout.names)}
    for where, row in csv_rows(path, layout, ADVICE):
        if isinstance(row, Skip):
            yield row
        elif not all(map(is_text, row.values())):
            yield Skip(where, NOT_UTF8)
        else:
            for fields in columns.rows(_cells(row, own)):
                yield partial(record_of, fields, path.parent, where, source)
    yield from columns.notes(path)


def _layout(path: AnyPath, columns: Columns) -> CsvLayout:
    """How the file is written. The delimiter is the one with which a text or an image is found; of several, and if none
    does, the one that gives most columns."""
    layouts = csv_layouts(path, columns.options.encoding, ADVICE)
    return max(layouts, key=lambda layout: (columns.usable(layout.names), len(layout.names)))


def _cells(row: dict[str, str], own: set[str | None]) -> dict[str, Any]:
    """A row without its empty cells; what is written as a plain number is one, so that it can be compared."""
    return {
        key: value if key in own or not _NUMBER.fullmatch(value) else json.loads(value)
        for key, value in row.items()
        if value != ""
    }
