"""Rows of Parquet and Arrow files, a few at a time whatever the file's size. Loads no torch.

Memory follows the file's own pages, the least that can be decoded: some writers put a thousand rows into one. pyarrow
is loaded when a file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from puma.errors import DataError
from puma.items.objects import AnyPath
from puma.storage.object_files import LARGEST_BLOCK

PARQUET = (".parquet",)
BYTES_AT_ONCE = 16 * 2**20
"""About what the rows that are read together take, decoded."""
ROWS_AT_ONCE = 256
BUFFER = 2**20


def open_parquet(path: AnyPath) -> Any:
    """A Parquet file, to be closed by ``with``.

    Raises:
        DataError: it is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered and not read ahead: else a row group's whole column of images could be in memory at once.
        source = path if isinstance(path, Path) else path.open("rb", buffering=0)
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=BUFFER if source is path else LARGEST_BLOCK)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file ({_plain(error)})") from None


def parquet_rows(path: AnyPath, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every row of a Parquet file by column.

    Args:
        names: the columns that are read; None for all.

    Raises:
        OSError: the file cannot be opened.
        DataError: it is no Parquet file, or breaks off.
    """
    import pyarrow as pa

    number = 0
    with open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=_rows_at_once(file), columns=names):
                for fields in batch.to_pylist():
                    number += 1
                    yield fields
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: {_broken(number, error)}") from None


def arrow_schema(path: Path) -> Any:
    """The schema of an Arrow stream file, as the ``datasets`` library saves its tables in.

    Raises:
        DataError: it is none.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return reader.schema
    except pa.ArrowException as error:
        raise DataError(f"{path}: not an Arrow stream file ({_plain(error)})") from None


def arrow_rows(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every row of an Arrow stream file by column, the columns in ``names`` alone.

    Raises:
        DataError: it is none, or breaks off.
    """
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                chosen = batch.select(list(names))
                for start in range(0, chosen.num_rows, ROWS_AT_ONCE):
                    for fields in chosen.slice(start, ROWS_AT_ONCE).to_pylist():
                        number += 1
                        yield fields
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: {_broken(number, error)}") from None


def is_text(kind: Any) -> bool:
    """Whether an Arrow type holds strings, or nothing."""
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(test(kind) for test in tests)


def is_bytes(kind: Any) -> bool:
    """Whether an Arrow type holds bytes."""
    import pyarrow.types as types

    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(test(kind) for test in tests)


def is_image(kind: Any) -> bool:
    """Whether an Arrow type holds paths, an image's bytes, or both as ``{bytes, path}``."""
    import pyarrow.types as types

    if types.is_struct(kind):
        parts = {field.name: field.type for field in kind}
        return bool(parts) and all(
            is_text(part) if name == "path" else name == "bytes" and (is_bytes(part) or types.is_null(part))
            for name, part in parts.items()
        )
    return is_text(kind) or is_bytes(kind)


def is_list_of(kind: Any, test: Any) -> bool:
    """Whether an Arrow type holds lists of what ``test`` is true of."""
    import pyarrow.types as types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(check(kind) for check in lists) and bool(test(kind.value_type))


def has_bytes(kind: Any) -> bool:
    """Whether there are bytes anywhere in an Arrow type."""
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return is_bytes(kind) or any(has_bytes(part) for part in inner)


def _broken(number: int, error: Exception) -> str:
    return f"nothing can be read after row {number} ({_plain(error)})"


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _rows_at_once(file: Any) -> int:
    metadata = file.metadata
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    heaviest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return max(1, min(ROWS_AT_ONCE, int(BYTES_AT_ONCE / max(1.0, heaviest))))
