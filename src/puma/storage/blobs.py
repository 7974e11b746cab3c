"""Bytes by a key in a folder, bounded, shared by processes and kept between runs: what was used longest ago makes room.

SQLite holds them, in one file: its transactions are whole or absent after a kill, and several processes of one machine
may read and write at once. Each value carries a digest of its key and itself, so a damaged one counts as absent.

It is a cache, so it fails only when it is opened. What goes wrong later is logged once, and the rest of the run goes on
without it. Loads no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from puma.errors import InputError, StorageError
from puma.storage.folders import storage_errors

LEAST_BYTES = 2**20
"""The smallest bound."""
DIGEST_BYTES = 16
WRITE_BYTES = 8 * 2**20
"""Written at once: about what SQLite's journal, which stands beside the file, grows to."""
USED_AGAIN_S = 600
"""Seconds after which a use is noted anew, so that reading seldom writes."""
WAIT_S = 10.0
"""For another process that writes."""
ROW_BYTES = 400
"""Of an entry beside its value: key, time and place in the two tables' indexes, and the page that is not full."""
_NO_PLACE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_FULL)
"""SQLite's codes of a place that cannot be written."""
_LOG = logging.getLogger(__name__)
_TABLES = (
    # Apart from each other: to note a use in the values' own table would write the value again.
    "CREATE TABLE IF NOT EXISTS uses (key BLOB PRIMARY KEY, used REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS by_use ON uses (used)",
    "CREATE TABLE IF NOT EXISTS held (key BLOB PRIMARY KEY, value BLOB NOT NULL)",
)


class BlobStore:
    """Threads and processes may share it.

    Args:
        folder: where the file lies; made if it is not there. On a disk of this machine: SQLite's locks do not hold on
            every network file system.
        most_bytes: of the file, at least :data:`LEAST_BYTES`; beside it stands a journal of some 16 MiB at most. An
            older, larger file is cut.
        name: the file's.
        what: the argument or flag that named the folder, for messages.

    Raises:
        InputError: ``most_bytes`` is too small, or the folder is a file.
        StorageError: the folder cannot be written, or the disk is full.
    """

    def __init__(
        self, folder: str | os.PathLike[str], most_bytes: int, *, name: str = "blobs.sqlite3", what: str = "folder"
    ) -> None:
        if isinstance(most_bytes, bool) or not isinstance(most_bytes, int) or most_bytes < LEAST_BYTES:
            raise InputError(f"most_bytes={most_bytes!r}: give a whole number of bytes of at least {LEAST_BYTES:,}")
        self.folder, self.most_bytes = Path(folder), most_bytes
        self._name, self._what = name, what
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._reads = self._writes = True
        self._warned = False
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{what}={self.folder}: is a file; give a folder's path")
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = self._opened()
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF in _NO_PLACE:
                raise StorageError(
                    f"{what}={self.folder}: cannot be written ({error}); give another folder, or go without"
                ) from error
            self._fail(error)  # damaged: as good as empty

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / self._name

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are there and whole."""
        found: dict[bytes, bytes] = {}
        with self._guarded(reading=True) as connection:
            if connection is None:
                return found
            stale, now = [], time.time()
            for key in keys:
                row = connection.execute(
                    "SELECT value, used FROM held JOIN uses USING (key) WHERE key = ?", [key]
                ).fetchone()
                if (
                    row is None
                    or not isinstance(row[0], bytes)
                    or row[0][:DIGEST_BYTES] != _digest(key, row[0][DIGEST_BYTES:])
                ):
                    continue
                found[key] = row[0][DIGEST_BYTES:]
                if abs(now - row[1]) > USED_AGAIN_S:
                    stale.append((now, key))
        if stale:
            with self._guarded() as connection:
                if connection is not None:
                    with _transaction(connection):
                        connection.executemany("UPDATE uses SET used = ? WHERE key = ?", stale)
        return found

    def present(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those keys that are there; their values may prove damaged yet."""
        with self._guarded(reading=True) as connection:
            if connection is None:
                return set()
            one = "SELECT 1 FROM uses WHERE key = ?"
            return {key for key in keys if connection.execute(one, [key]).fetchone() is not None}
        return set()

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values, in the place of earlier ones of their keys. One of more than half the bound is not kept."""
        part: dict[bytes, bytes] = {}
        size = 0
        for key, value in values.items():
            if len(value) > self.most_bytes // 2:
                continue
            part[key], size = value, size + len(value)
            if size >= min(WRITE_BYTES, self.most_bytes // 4):
                self._put(part)
                part, size = {}, 0
        if part:
            self._put(part)

    def close(self) -> None:
        """Let go of the file; what is asked afterwards finds nothing."""
        with self._lock:
            self._reads = self._writes = False
            if hasattr(self, "_connection") and self._pid == os.getpid():
                self._connection.close()

    def __len__(self) -> int:
        with self._guarded(reading=True) as connection:
            return 0 if connection is None else int(connection.execute("SELECT COUNT(*) FROM uses").fetchone()[0])
        return 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({os.fspath(self.folder)!r}, {self.most_bytes})"

    def __reduce__(self) -> Any:
        # A copy, or the one of another process, opens the file itself.
        return _again, (type(self), self.folder, self.most_bytes, self._name, self._what)

    def _put(self, values: Mapping[bytes, bytes]) -> None:
        with self._guarded() as connection:
            if connection is None:
                return
            now = time.time()
            with _transaction(connection):
                self._make_room(connection, sum(len(value) + ROW_BYTES for value in values.values()))
                for key, value in values.items():
                    connection.execute("REPLACE INTO held VALUES (?, ?)", [key, _digest(key, value) + value])
                    connection.execute("REPLACE INTO uses VALUES (?, ?)", [key, now])

    def _make_room(self, connection: sqlite3.Connection, size: int) -> None:
        """Delete what was used longest ago until so many bytes fit under the bound."""
        page = _number(connection, "page_size")
        while (_number(connection, "page_count") - _number(connection, "freelist_count")) * page + size > (
            self.most_bytes
        ):
            oldest = connection.execute("SELECT key FROM uses ORDER BY used LIMIT 16").fetchall()
            if not oldest:
                return
            for table in ("held", "uses"):
                connection.executemany(f"DELETE FROM {table} WHERE key = ?", oldest)

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # holds only before the first table
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last entries, never the file
            connection.execute(f"PRAGMA journal_size_limit = {WRITE_BYTES}")
            with _transaction(connection):
                for table in _TABLES:
                    connection.execute(table)
                self._make_room(connection, 0)
            if _number(connection, "page_count") * _number(connection, "page_size") > self.most_bytes:
                connection.executescript("PRAGMA incremental_vacuum")  # execute() would end it after one page
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _guarded(self, *, reading: bool = False) -> Iterator[sqlite3.Connection | None]:
        """The connection, of this process and for one thread; None where it has failed. Failures end the block."""
        with self._lock:
            try:
                if not (self._reads if reading else self._writes):
                    yield None
                    return
                if self._pid != os.getpid():  # after a fork: a connection must not be carried over
                    self._parents, self._pid = self._connection, os.getpid()
                    self._connection = self._opened()
                yield self._connection
            except sqlite3.Error as error:
                self._fail(error, reading)

    def _fail(self, error: sqlite3.Error, reading: bool = True) -> None:
        self._writes, self._reads = False, self._reads and not reading
        if not self._warned:
            self._warned = True
            remedy = "remove the folder" if reading else "make room"
            _LOG.warning(
                "%s=%s: %s; going on without it (%s and start again to use it)", self._what, self.folder, error, remedy
            )


def _again(kind: type[BlobStore], folder: Path, most_bytes: int, name: str, what: str) -> BlobStore:
    made = kind.__new__(kind)
    BlobStore.__init__(made, folder, most_bytes, name=name, what=what)
    return made


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite itself has rolled back after some failures
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _digest(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, key=hashlib.blake2b(key, digest_size=16).digest(), digest_size=DIGEST_BYTES).digest()
