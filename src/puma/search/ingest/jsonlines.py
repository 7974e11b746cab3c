"""Lines of text and of JSON as records (M-BEIR's pools too). Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from puma.data import encodings
from puma.data.rows import json_object, json_rows
from puma.items.encoder import Skip
from puma.items.objects import AnyPath
from puma.search.ingest.columns import Columns
from puma.search.ingest.options import ADVICE, ReadOptions
from puma.search.ingest.records import Row, pool_fields, pool_root, record_of, source_of


def text_lines(path: AnyPath, options: ReadOptions) -> Iterator[Row]:
    """A text a line."""
    source = source_of(path)
    for where, line in encodings.text_lines(path, options.encoding, ADVICE):
        yield line if isinstance(line, Skip) else partial(record_of, {"text": line}, path.parent, where, source)


def json_lines(path: AnyPath, options: ReadOptions) -> Iterator[Row]:
    """A JSON object a line."""
    source, root, columns = source_of(path), None, Columns(options)
    for where, fields in json_rows(path, options.encoding, ADVICE):
        if isinstance(fields, Skip):
            yield fields
            continue
        pooled = pool_fields(fields)
        if pooled is not None:
            root = root or pool_root(path.parent)
            yield partial(record_of, pooled, root, where, source)
            continue
        for row in columns.rows(fields):
            yield partial(record_of, row, path.parent, where, source)
    yield from columns.notes(path)


def can_give_items(path: AnyPath, options: ReadOptions) -> bool:
    """Whether a file of JSON lines inside a folder holds items, by its first object.

    Raises:
        OSError: the file cannot be read.
    """
    for where, line in encodings.text_lines(path, options.encoding):
        if isinstance(line, str):
            fields = json_object(line, where)
            return not isinstance(fields, Skip) and (pool_fields(fields) is not None or Columns(options).usable(fields))
    return False
