"""Lines of text and of JSON as records (M-BEIR's pools too). Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puma.items.encoder import Skip
from puma.search.ingest.columns import Columns
from puma.search.ingest.encodings import lines
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import Note, Record, pool_fields, pool_root, record_of, source_of


def text_lines(path: Path, options: ReadOptions) -> Iterator[Record | Skip | Note]:
    """A text a line."""
    source = source_of(path)
    for where, line in lines(path, options.encoding):
        yield line if isinstance(line, Skip) else record_of({"text": line}, path.parent, where, source)


def json_lines(path: Path, options: ReadOptions) -> Iterator[Record | Skip | Note]:
    """A JSON object a line."""
    source, root, columns = source_of(path), None, Columns(options)
    for where, line in lines(path, options.encoding):
        if isinstance(line, Skip):
            yield line
            continue
        fields = _object(line, where)
        if isinstance(fields, Skip):
            yield fields
            continue
        pooled = pool_fields(fields)
        if pooled is not None:
            root = root or pool_root(path.parent)
            yield record_of(pooled, root, where, source)
            continue
        for row in columns.rows(fields):
            yield record_of(row, path.parent, where, source)
    yield from (Note(str(path), message) for message in columns.notes())


def can_give_items(path: Path, options: ReadOptions) -> bool:
    """Whether a file of JSON lines inside a folder holds items, by its first object.

    Raises:
        OSError: the file cannot be read.
    """
    for where, line in lines(path, options.encoding):
        if isinstance(line, str):
            fields = _object(line, where)
            return not isinstance(fields, Skip) and (pool_fields(fields) is not None or Columns(options).usable(fields))
    return False


def _object(line: str, where: str) -> dict[str, Any] | Skip:
    try:
        fields = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return Skip(where, f"not JSON ({error})")
    return fields if isinstance(fields, dict) else Skip(where, f"not a JSON object, but {type(fields).__name__}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
