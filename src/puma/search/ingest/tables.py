"""Rows of Parquet files as records. Loads no torch."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puma.data.columnar import has_bytes, is_image, is_text, open_parquet, parquet_rows
from puma.errors import DataError
from puma.items.encoder import Skip
from puma.search.ingest.records import InsideFile, Record, record_of, source_of


def check_table(path: Path) -> None:
    """Raise DataError unless the file is Parquet with a ``text`` and/or ``image`` column of a type that can be used."""
    with open_parquet(path) as file:
        _columns(path, file.schema_arrow)


def count_rows(path: Path) -> int:
    """Rows of the file, by its own account."""
    try:
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    except DataError:
        return 0


def rows(path: Path) -> Iterator[Record | Skip]:
    """Every row as a record. ``image`` may be a path (relative to the file), an image's bytes, or a struct of
    ``bytes`` and ``path`` as the ``datasets`` library writes it; other columns are payload, those of bytes left out."""
    source = source_of(path)
    try:
        with open_parquet(path) as file:
            names = _columns(path, file.schema_arrow)
        for number, fields in enumerate(parquet_rows(path, names), 1):
            yield _row(fields, path, f"{path}:{number}", source, number)
    except DataError as error:
        yield Skip(str(path), str(error).removeprefix(f"{path}: "), source)
    except OSError as error:
        yield Skip(str(path), f"nothing can be read ({' '.join(str(error).split())[:200]})", source)


def _row(fields: dict[str, Any], path: Path, where: str, source: str, number: int) -> Record | Skip:
    image = fields.pop("image", None)
    name = None
    if isinstance(image, dict):
        name = image.get("path") or None
        image = image["bytes"] if image.get("bytes") else name
    known = {key: fields.pop(key) for key in ("text", "id") if key in fields}
    if isinstance(image, bytes):
        image = InsideFile(image, f"{source}#{Path(name).name if name else number}") if image else None
    more = {key: plain for key, value in fields.items() if (plain := _plain(value)) is not None}
    return record_of(known | {"image": image} | more, path.parent, where, source)


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


def _columns(path: Path, schema: Any) -> list[str]:
    """The columns that are read.

    Raises:
        DataError: there is no text and no image, or one of them is of a type that holds neither.
    """
    names = list(schema.names)
    if not {"text", "image"} & set(names):
        raise DataError(f"{path}: a column named text or image is needed, the file has {names}")
    for name, fits, wanted in (("text", is_text, "strings"), ("image", is_image, "paths, bytes or {bytes, path}")):
        if names.count(name) > 1:
            raise DataError(f"{path}: there are {names.count(name)} columns named {name}")
        if name in names and not fits(schema.field(name).type):
            raise DataError(f"{path}: column {name} must hold {wanted}, its type is {schema.field(name).type}")
    kept = ("text", "image", "id")
    return [name for name in dict.fromkeys(names) if name in kept or not has_bytes(schema.field(name).type)]
