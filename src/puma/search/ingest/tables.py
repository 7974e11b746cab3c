"""Rows of Parquet files as records, a few at a time whatever the file's size. Loads no torch."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from puma.data.columnar import has_bytes, is_image, is_list_of, is_text, open_parquet, parquet_rows
from puma.errors import DataError
from puma.items.encoder import Skip
from puma.items.objects import AnyPath
from puma.search.ingest.columns import Columns
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import InsideFile, Row, Waiting, record_of, source_of


def check_table(path: AnyPath, options: ReadOptions) -> None:
    """Raise DataError unless the file is Parquet with a column for text and/or image, of a type that can be used."""
    with open_parquet(path) as file:
        _columns(path, file.schema_arrow, Columns(options))


def count_rows(path: AnyPath) -> int:
    """Rows of the file, by its own account."""
    try:
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    except DataError:
        return 0


def rows(path: AnyPath, options: ReadOptions) -> Iterator[Row]:
    """Every row as a record. ``image`` may be a path (relative to the file), an image's bytes, a struct of ``bytes``
    and ``path`` as the ``datasets`` library writes it, or a list of these: an item for each. Other columns are payload,
    those of bytes left out, and reported where they may hold images."""
    source, columns = source_of(path), Columns(options)
    try:
        with open_parquet(path) as file:
            names = _columns(path, file.schema_arrow, columns)
        for number, fields in enumerate(parquet_rows(path, names), 1):
            for place, row in enumerate(columns.rows(fields)):
                name = f"{number}" if place == 0 else f"{number}.{place + 1}"
                yield _row(row, path, f"{path}:{number}", source, name)
        yield from columns.notes(path)
    except DataError as error:
        yield Skip(str(path), str(error).removeprefix(f"{path}: "), source)


def _row(fields: dict[str, Any], path: AnyPath, where: str, source: str, number: str) -> Waiting:
    image = fields.pop("image", None)
    name = None
    if isinstance(image, dict):
        name = image.get("path") or None
        image = image["bytes"] if image.get("bytes") else name
    known = {key: fields.pop(key) for key in ("text", "id") if key in fields}
    if isinstance(image, bytes):
        image = InsideFile(image, f"{source}#{Path(name).name if name else number}") if image else None
    more = {key: plain for key, value in fields.items() if (plain := _plain(value)) is not None}
    return partial(record_of, known | {"image": image} | more, path.parent, where, source)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; None where it cannot."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int)) else None


def _columns(path: AnyPath, schema: Any, columns: Columns) -> list[str]:
    """The columns that are read; those of bytes that are not are noted in ``columns``.

    Raises:
        DataError: there is no text and no image, or one of them is of a type that holds neither.
    """
    names = list(schema.names)
    text, images = columns.text_in(names), columns.images_in(names)
    for name in (text, *images[:1], *(name for name in ("text", "image") if name in names)):
        if name is not None and names.count(name) > 1:
            raise DataError(f"{path}: there are {names.count(name)} columns named {name}")
    if text not in (None, "text", columns.options.text_column) and not is_text(schema.field(text).type):
        text = None  # another name's meaning is not certain
    if text is not None and not is_text(schema.field(text).type):
        raise DataError(f"{path}: column {text} must hold strings, its type is {schema.field(text).type}")
    strict = columns.options.image_column is not None or "image" in names
    for name in images if strict else ():
        if not _is_image(schema.field(name).type):
            kinds = "paths, bytes, {bytes, path} or lists of these"
            raise DataError(f"{path}: column {name} must hold {kinds}, its type is {schema.field(name).type}")
    images = [name for name in images if _is_image(schema.field(name).type)]
    if text is None and not images:
        raise DataError(f"{path}: {columns.wanted()} is needed, the file has {names}")
    kept = {text, "id", *images}
    found = []
    for name in dict.fromkeys(names):
        if name in kept or not has_bytes(schema.field(name).type):
            found.append(name)
        else:
            columns.unused.append(name)
    return found


def _is_image(kind: Any) -> bool:
    return is_image(kind) or is_list_of(kind, is_image)
