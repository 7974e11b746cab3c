"""Rows of Parquet files as records, a few at a time whatever the file's size. Loads no torch.

Memory follows the file's own pages, the least that can be decoded: some writers put a thousand rows into one. pyarrow
is loaded when a file is opened.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puma.errors import DataError
from puma.items.encoder import Skip
from puma.search.ingest.columns import Columns
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import InsideFile, Note, Record, record_of, source_of

BYTES_AT_ONCE = 16 * 2**20
"""About what the rows that are read together take, decoded."""
ROWS_AT_ONCE = 256
BUFFER = 2**20


def check_table(path: Path, options: ReadOptions) -> None:
    """Raise DataError unless the file is Parquet with a column for text and/or image, of a type that can be used."""
    with _opened(path) as file:
        _columns(path, file.schema_arrow, Columns(options))


def count_rows(path: Path) -> int:
    """Rows of the file, by its own account."""
    try:
        with _opened(path) as file:
            return int(file.metadata.num_rows)
    except DataError:
        return 0


def rows(path: Path, options: ReadOptions) -> Iterator[Record | Skip | Note]:
    """Every row as a record. ``image`` may be a path (relative to the file), an image's bytes, a struct of ``bytes``
    and ``path`` as the ``datasets`` library writes it, or a list of these: an item for each. Other columns are payload,
    those of bytes left out, and reported where they may hold images."""
    import pyarrow as pa

    source, number, columns = source_of(path), 0, Columns(options)
    try:
        with _opened(path) as file:
            names = _columns(path, file.schema_arrow, columns)
            for batch in file.iter_batches(batch_size=_rows_at_once(file), columns=names):
                for fields in batch.to_pylist():
                    number += 1
                    for place, row in enumerate(columns.rows(fields)):
                        name = f"{number}" if place == 0 else f"{number}.{place + 1}"
                        yield _row(row, path, f"{path}:{number}", source, name)
            yield from (Note(str(path), message) for message in columns.notes())
    except DataError as error:
        yield Skip(str(path), str(error).removeprefix(f"{path}: "), source)
    except (OSError, pa.ArrowException) as error:
        reason = f"nothing can be read after row {number} ({' '.join(str(error).split())[:200]})"
        yield Skip(str(path), reason, source)


def _row(fields: dict[str, Any], path: Path, where: str, source: str, number: str) -> Record | Skip:
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


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered and not read ahead: else a row group's whole column of images could be in memory at once.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file ({' '.join(str(error).split())[:200]})") from None


def _columns(path: Path, schema: Any, columns: Columns) -> list[str]:
    """The columns that are read; those of bytes that are not are noted in ``columns``.

    Raises:
        DataError: there is no text and no image, or one of them is of a type that holds neither.
    """
    names = list(schema.names)
    text, images = columns.text_in(names), columns.images_in(names)
    for name in (text, *images[:1], *(name for name in ("text", "image") if name in names)):
        if name is not None and names.count(name) > 1:
            raise DataError(f"{path}: there are {names.count(name)} columns named {name}")
    if text not in (None, "text", columns.options.text_column) and not _is_text(schema.field(text).type):
        text = None  # another name's meaning is not certain
    if text is not None and not _is_text(schema.field(text).type):
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
        if name in kept or not _has_bytes(schema.field(name).type):
            found.append(name)
        else:
            columns.unused.append(name)
    return found


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(test(kind) for test in tests)


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return not types.is_list(kind.value_type) and _is_image(kind.value_type)
    if types.is_struct(kind):
        parts = {field.name: field.type for field in kind}
        return bool(parts) and all(
            _is_text(part) if name == "path" else name == "bytes" and (_is_bytes(part) or types.is_null(part))
            for name, part in parts.items()
        )
    return _is_text(kind) or _is_bytes(kind)


def _has_bytes(kind: Any) -> bool:
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return _is_bytes(kind) or any(_has_bytes(part) for part in inner)


def _rows_at_once(file: Any) -> int:
    metadata = file.metadata
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    heaviest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return max(1, min(ROWS_AT_ONCE, int(BYTES_AT_ONCE / max(1.0, heaviest))))
