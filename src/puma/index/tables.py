"""LanceDB tables in a folder, on disk or in an object store: columns, opening, retries, locks between processes. Loads
no torch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from puma.errors import PumaError, StorageError
from puma.index.filters import filter_fields
from puma.index.interface import NewRow
from puma.index.lancedb_import import import_lancedb
from puma.index.remote import RemoteFolder, storage_options
from puma.storage.object_stores import is_refusal, unusable

FORMAT = 2
"""Format 1 had no columns for filters, thumbnails and checksums; it is read, and upgraded at the next write."""
READABLE = (1, FORMAT)
ITEMS, THUMBNAILS, SOURCES, PLACES, STAMPS = "items", "thumbnails", "sources", "places", "stamps"
METADATA_KEY = b"puma"
LOCKS = {"write": ".write.lock", "upkeep": ".upkeep.lock"}
LOCK_SECONDS = 600.0
CACHE_BYTES = 2**29
"""What LanceDB may keep of index files in memory, over all tables of this process. Its own bound is 6 GiB, and it keeps
what belonged to versions that are gone."""

T = TypeVar("T")
Folder = Path | RemoteFolder
"""Where the tables of an index are."""


def item_schema(dim: int, fingerprint: str | None) -> Any:
    """The columns of the items of format :data:`FORMAT`."""
    import pyarrow as pa

    described = json.dumps({"format": FORMAT, "dim": dim, "fingerprint": fingerprint}).encode()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("modality", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("payload", pa.string(), nullable=False),
            pa.field("content", pa.string(), nullable=False),
            pa.field("thumbnail", pa.bool_(), nullable=False),
            pa.field("fields", pa.json_(pa.string())),
            pa.field("tokens", pa.list_(pa.string())),
            pa.field("checksum", pa.int64(), nullable=False),
        ],
        metadata={METADATA_KEY: described},
    )


def thumbnail_schema() -> Any:
    """Images by digest of the content that they show."""
    import pyarrow as pa

    names = {"content": pa.string(), "data": pa.binary(), "checksum": pa.int64()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in names.items()])


def source_schema() -> Any:
    """Which source gave which id."""
    import pyarrow as pa

    return pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("source", "id")])


def place_schema() -> Any:
    """Places of items that have several, with the columns that filters read."""
    import pyarrow as pa

    names = ("key", "source", "id", "modality", "payload")
    fields = [pa.field(name, pa.string(), nullable=False) for name in names]
    return pa.schema([*fields, pa.field("fields", pa.json_(pa.string())), pa.field("tokens", pa.list_(pa.string()))])


def stamp_schema() -> Any:
    """States of the files that sources were read from."""
    import pyarrow as pa

    names = {"source": pa.string(), "files": pa.string(), "ids": pa.int64(), "how": pa.string()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in names.items()])


def item_batch(rows: Sequence[NewRow], dim: int, fingerprint: str | None) -> Any:
    """Rows as an Arrow table of :func:`item_schema`. (An open table's own schema says less of the JSON column.)"""
    import pyarrow as pa

    schema = item_schema(dim, fingerprint)
    flat = pa.array(np.concatenate([row.vector for row in rows]).astype(np.float32, copy=False))
    # Read back: what JSON makes of a key that is no text is what a filter has to find.
    seen = [filter_fields(json.loads(row.payload)) for row in rows]
    json_type = schema.field("fields").type
    return pa.table(
        {
            "id": [row.id for row in rows],
            "modality": [row.modality for row in rows],
            "vector": pa.FixedSizeListArray.from_arrays(flat, dim),
            "payload": [row.payload for row in rows],
            "content": [row.content for row in rows],
            "thumbnail": [row.thumbnail for row in rows],
            "fields": pa.ExtensionArray.from_storage(json_type, pa.array([fields for fields, _ in seen], pa.string())),
            "tokens": pa.array([tokens for _, tokens in seen], pa.list_(pa.string())),
            "checksum": [
                checksum(row.id, row.modality, row.vector, row.payload, row.content, row.thumbnail) for row in rows
            ],
        },
        schema=schema,
    )


def checksum(name: str, modality: str, vector: np.ndarray, payload: str, content: str, thumbnail: bool) -> int:
    """CRC-32 of everything that is stored of a row: a flipped bit is found by ``verify``."""
    texts = "\0".join((name, modality, payload, content, str(bool(thumbnail)))).encode("utf-8")
    return zlib.crc32(np.ascontiguousarray(vector, dtype="<f4").tobytes(), zlib.crc32(texts))


def matrix(column: Any, dim: int) -> np.ndarray:
    """A fixed-size-list column as float32 [rows, dim]."""
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.zeros((0, dim), dtype=np.float32)


def parts_of(values: Any, size: int) -> Iterator[Any]:
    """Slices of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


@functools.cache
def _session() -> Any:
    return _new_session()


def _new_session() -> Any:
    return import_lancedb().Session(index_cache_size_bytes=CACHE_BYTES, metadata_cache_size_bytes=CACHE_BYTES // 2)


def connect(folder: Folder, fresh: bool = False) -> Any:
    """A connection whose tables look for other processes' writes before every read (0.1 ms; the default never looks).

    Args:
        fresh: read everything from the disk, nothing from what this process has in memory.

    Raises:
        DependencyError: LanceDB is not installed.
    """
    remote: dict[str, Any] = {"storage_options": storage_options()} if isinstance(folder, RemoteFolder) else {}
    return import_lancedb().connect(
        folder if isinstance(folder, Path) else folder.url,
        read_consistency_interval=timedelta(0),
        session=_new_session() if fresh else _session(),
        **remote,
    )


def exists(folder: Folder, table: str) -> bool:
    """Whether a table was ever finished there: what a kill leaves before the first version has no manifest."""
    if isinstance(folder, RemoteFolder):
        return folder.exists(table)
    versions = folder / f"{table}.lance" / "_versions"
    return versions.is_dir() and any(not entry.name.startswith(".") for entry in versions.iterdir())


@contextlib.contextmanager
def locked(folder: Folder, which: str, wait: float | None = None) -> Iterator[bool]:
    """Hold one of :data:`LOCKS` against other threads and processes; a killed holder's is free at once.

    Args:
        wait: seconds, :data:`LOCK_SECONDS` if None; 0 yields False at once where another holds it.

    Raises:
        StorageError: it did not come free in ``wait`` seconds, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    wait = LOCK_SECONDS if wait is None else wait
    if isinstance(folder, RemoteFolder):
        with folder.locked(LOCKS[which], wait) as mine:
            yield mine
        return
    # A fresh object each time: one object would let every thread of this process in.
    lock = FileLock(folder / LOCKS[which], thread_local=False)
    try:
        lock.acquire(timeout=wait, poll_interval=0.01)
    except Timeout:
        if not wait:
            yield False
            return
        raise StorageError(
            f"{folder}: another process has been writing this index for {wait:.0f} seconds; repeat when it has finished"
        ) from None
    except OSError as error:
        raise storage_error(folder, error) from None
    try:
        yield True
    finally:
        lock.release()


def writing(folder: Folder, work: Callable[[], T], attempts: int = 8) -> T:
    """Run a write; try again when another process wrote at the same moment; say what is wrong with the disk."""
    for attempt in range(attempts):
        try:
            return work()
        except PumaError:
            raise
        except (OSError, RuntimeError) as error:
            if is_conflict(error) and attempt + 1 < attempts:
                time.sleep(0.05 * 2**attempt)
                continue
            raise storage_error(folder, error) from None
    raise AssertionError("unreachable")


def reading(folder: Folder, work: Callable[[], T], attempts: int = 4) -> T:
    """Run a read; try again when another process has just dropped the version that was being read."""
    for attempt in range(attempts):
        try:
            return work()
        except PumaError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            if "not found" in str(error).lower() and attempt + 1 < attempts and folder.is_dir():
                time.sleep(0.02 * 2**attempt)
                continue
            if isinstance(folder, RemoteFolder) and is_refusal(error):
                raise unusable(folder, error) from None
            raise StorageError(
                f"{folder}: the index cannot be read ({str(error)[:300]}); 'puma index verify' names what is damaged"
            ) from None
    raise AssertionError("unreachable")


def is_conflict(error: Exception) -> bool:
    """Whether a write failed because another came first."""
    text = str(error).lower()
    return "conflict" in text or "concurrent" in text or "preempted" in text


def storage_error(folder: Folder, error: Exception) -> StorageError:
    """What a failed write means as a message for the user."""
    if isinstance(folder, RemoteFolder) and is_refusal(error):
        return unusable(folder, error)
    text = str(error)
    if "no space left" in text.lower() or "os error 28" in text.lower() or getattr(error, "errno", None) == 28:
        return StorageError(f"{folder}: the disk is full; free some space and repeat (what was added before is safe)")
    return StorageError(f"{folder}: the index cannot be written ({text[:300]})")
