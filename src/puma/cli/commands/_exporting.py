"""Writing an index's rows to a file, a batch at a time; the file appears when it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma.cli.commands._hits import row_fields
from puma.errors import InputError, StorageError

if TYPE_CHECKING:
    from puma.index import Index, Row


def write_rows(index: Index, out: Path, vectors: bool) -> int:
    """All rows of an index as ``.jsonl`` or ``.parquet``, by the file's name; how many there were.

    Raises:
        InputError: the name ends in neither, or its folder does not exist.
        StorageError: the file cannot be written.
    """
    writers = {".jsonl": _write_lines, ".parquet": _write_parquet}
    if out.suffix.lower() not in writers:
        raise InputError(f"{out}: the file's name must end in .jsonl or .parquet")
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"{out}: {'is a folder' if out.is_dir() else 'no such folder to write it in'}")
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        count = writers[out.suffix.lower()](index, partial, vectors)
        os.replace(partial, out)
        return count
    except OSError as error:
        raise StorageError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def _write_lines(index: Index, path: Path, vectors: bool) -> int:
    count = 0
    with open(path, "w", encoding="utf-8") as stream:
        for rows in _batches(index, vectors):
            for row in rows:
                fields = row_fields(row)
                if vectors:
                    fields["vector"] = row.vector.tolist()
                stream.write(json.dumps(fields, ensure_ascii=False) + "\n")
            count += len(rows)
    return count


def _write_parquet(index: Index, path: Path, vectors: bool) -> int:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim = index.dim or 0
    fields = [pa.field(name, pa.string()) for name in ("id", "modality", "payload", "other_payloads")]
    schema = pa.schema(fields + ([pa.field("vector", pa.list_(pa.float32(), dim))] if vectors else []))
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for rows in _batches(index, vectors):
            payloads = [json.dumps(row.payload, ensure_ascii=False) for row in rows]
            others = [json.dumps(row.other_payloads, ensure_ascii=False) for row in rows]
            columns: list[Any] = [[row.id for row in rows], [row.modality for row in rows], payloads, others]
            if vectors:
                flat = pa.array(np.stack([row.vector for row in rows]).reshape(-1), pa.float32())
                columns.append(pa.FixedSizeListArray.from_arrays(flat, dim))
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(rows)
    return count


def _batches(index: Index, vectors: bool) -> Iterator[list[Row]]:
    return (rows for rows in index.scan(vectors=vectors) if rows)
