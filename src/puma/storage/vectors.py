"""Vectors kept while they are made: one matrix a group, filled part by part by one or several processes.

::

    <folder>/made-with.json     what the vectors come from
    <folder>/lock               held by the run that fills it
    <folder>/<group>/rows       float32 [n, dim], each row at its place
    <folder>/<group>/done.<p>   of process p, a line of JSON a finished part

Rows are on disk before the line that calls them finished is, and a line that a kill cut short is ignored. So a kill at
any moment costs the part in work, and a finished matrix is read where it lies, as a memory map. Each line carries a
digest of what its rows were made of: a part of other content is made again. Several processes write to one file at
places of their own, which needs a disk or file system they share.

Loads no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from puma.errors import InputError, StorageError
from puma.storage.folders import storage_errors, write_json
from puma.storage.room import RESERVE, free_bytes, taken_bytes

NOTE = "made-with.json"
FLOAT_BYTES = 4


class NoRoomError(StorageError):
    """The vectors will not fit where they are to be kept; found before any is made."""


@dataclass(frozen=True)
class Finished:
    """A finished part.

    Args:
        run: the run that made it, numbered from 1 in its folder.
        digest: of what it was made of.
        faults: (position in the group, reason) of what could not be embedded; those rows are zeros.
    """

    run: int
    digest: str
    faults: tuple[tuple[int, str], ...] = ()


class VectorStore:
    """A folder of vectors under construction (a context manager: the first process holds its lock).

    Args:
        folder: made if missing.
        made_with: plain values that say what the vectors come from; a folder made with others is refused.
        process: this process's number; only number 0 makes, locks and removes the folder.

    Raises:
        InputError: on entering: another run is at work in it, or it holds the vectors of something else.
        StorageError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], made_with: Mapping[str, Any], *, process: int = 0) -> None:
        self.folder, self.process = Path(folder), process
        self.made_with = json.loads(json.dumps(dict(made_with)))
        self.groups: dict[str, Group] = {}
        self._lock = FileLock(self.folder / "lock")

    @classmethod
    def below(cls, base: Path, name: str, made_with: Mapping[str, Any], *, process: int = 0) -> VectorStore:
        """The store in ``base`` that belongs to these values: its folder's name holds their digest."""
        digest = hashlib.sha256(json.dumps(dict(made_with), sort_keys=True).encode()).hexdigest()[:16]
        return cls(base / f"{name}-{digest}", made_with, process=process)

    def __enter__(self) -> VectorStore:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Take the lock and check whose vectors are there; nothing on other processes than the first."""
        if self.process:
            return
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.folder}: another run is at work on the same; wait for it, or name another folder (--work)"
                ) from None
        try:
            self._check_note()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Give the lock back; what is there stays."""
        self._lock.release()

    def _check_note(self) -> None:
        path = self.folder / NOTE
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            other = sorted(key for key in {*found, *self.made_with} if found.get(key) != self.made_with.get(key))
            if other:
                raise InputError(
                    f"{self.folder}: holds the unfinished work of another run ({', '.join(other)} differ); "
                    "name another folder (--work), or remove this one"
                )
        write_json(path, self.made_with)

    def group(self, name: str, size: int | None, dim: int) -> Group:
        """The matrix [size, dim] of this name, with what is finished of it. Always the same object for one name.

        Args:
            size: None for a matrix that grows as it is written, until :meth:`Group.end`.

        Raises:
            NoRoomError: what is missing of it does not fit on the disk.
        """
        if name not in self.groups:
            self.groups[name] = Group(self.folder / name, size, dim, self.process)
        return self.groups[name]

    def clear(self) -> None:
        """Throw away what is there."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path)
        self.groups.clear()

    def remove(self) -> None:
        """Remove the folder and give the lock back; for when the result is written."""
        self.clear()
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kept_rows(self) -> int:
        """How many rows an interrupted run left here, by the marks of their parts."""
        logs = self.folder.glob("*/done.*") if self.folder.is_dir() else ()
        found = {(path.parent.name, line["part"]): line for path in logs for line in _lines(path)}
        return sum(line["rows"] for line in found.values() if line["digest"])


class Group:
    """One matrix of a store; see :meth:`VectorStore.group`."""

    def __init__(self, folder: Path, size: int | None, dim: int, process: int) -> None:
        self.folder, self.size, self.dim, self.process = folder, size, dim, process
        self.finished: dict[int, Finished] = {}
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.reload()
        runs = [line["run"] for path in folder.glob("done.*") for line in _lines(path)]
        self.run = 1 + max(runs, default=0)
        path = folder / "rows"
        if size is None:
            with storage_errors(path):
                path.touch()
            return
        length = size * dim * FLOAT_BYTES
        if path.is_file() and path.stat().st_size == length:
            return
        if process == 0:
            self._check_room(length - taken_bytes(path))
        with storage_errors(path):
            path.touch()
            os.truncate(path, length)  # filled with zeros, which take no room until they are written over

    def _check_room(self, needed: int) -> None:
        free = free_bytes(self.folder)
        if needed > free:
            raise NoRoomError(
                f"{self.folder}: {needed:,} bytes of vectors do not fit into the {free:,} that are free; "
                "name a folder on another disk (--work)"
            )

    def _check_next(self, needed: int) -> None:
        """Stop before a part fills the disk: one that is full to the last byte harms other programs too."""
        free = free_bytes(self.folder)
        if needed + RESERVE > free:
            raise StorageError(
                f"{self.folder}: the next part of the vectors needs {needed:,} bytes, and of the {free:,} that are "
                f"free {RESERVE:,} are kept as a reserve; make room and give the same command again: all vectors made "
                "so far are kept, and it goes on from them"
            )

    def reload(self) -> None:
        """Read the marks of all processes again."""
        lines = [line for path in sorted(self.folder.glob("done.*")) for line in _lines(path)]
        last = {line["part"]: line for line in sorted(lines, key=lambda line: line["run"])}
        self.finished = {
            part: Finished(line["run"], line["digest"], tuple((place, reason) for place, reason in line["faults"]))
            for part, line in last.items()
            if line["digest"] is not None
        }

    def write(
        self, part: int, start: int, rows: np.ndarray, digest: str, faults: Sequence[tuple[int, str]] = ()
    ) -> None:
        """Put a part's rows [m, dim] in their place, from row ``start`` on; on disk when this returns.

        Raises:
            StorageError: the disk has too little room for them, or cannot be written. What was written before stays.
        """
        if rows.shape[1:] != (self.dim,) or (self.size is not None and start + len(rows) > self.size):
            raise ValueError(f"rows must be [m, {self.dim}] and end before {self.size}, got {rows.shape} at {start}")
        if self.size is None and part not in self.finished:  # else its room is taken already, or was checked before
            self._check_next(rows.size * FLOAT_BYTES)
        if part in self.finished:  # of other content: from here on, until it is whole again, it counts as missing
            self._mark(part, 0, None, ())
        data = np.ascontiguousarray(rows, np.float32).tobytes()
        with storage_errors(self.folder), open(self.folder / "rows", "r+b") as stream:
            stream.seek(start * self.dim * FLOAT_BYTES)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        self._mark(part, len(rows), digest, tuple(faults))

    def _mark(self, part: int, rows: int, digest: str | None, faults: tuple[tuple[int, str], ...]) -> None:
        line = {"part": part, "run": self.run, "rows": rows, "digest": digest, "faults": [list(one) for one in faults]}
        path = self.folder / f"done.{self.process}"
        with storage_errors(path), open(path, "ab") as stream:
            if stream.tell() and not _ends_a_line(path):
                stream.write(b"\n")  # behind a line that a kill cut short
            stream.write((json.dumps(line) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())
        if digest is None:
            self.finished.pop(part, None)
        else:
            self.finished[part] = Finished(self.run, digest, faults)

    def end(self, size: int) -> None:
        """A matrix that grew has so many rows; what an earlier run wrote behind them is cut off."""
        self.size = size
        if self.process == 0:
            with storage_errors(self.folder):
                os.truncate(self.folder / "rows", size * self.dim * FLOAT_BYTES)

    def matrix(self) -> np.ndarray:
        """All rows, float32 [size, dim], read from disk as they are used."""
        assert self.size is not None, "a matrix that grows is read when it has ended"
        if self.size * self.dim == 0:
            return np.zeros((self.size, self.dim), np.float32)
        return np.memmap(self.folder / "rows", np.float32, "r", shape=(self.size, self.dim))


def remove_abandoned(base: Path, days: float = 30) -> list[Path]:
    """Remove the stores in a folder that no run holds and none has written to for so many days; returns them."""
    gone = []
    for folder in sorted(base.iterdir()) if base.is_dir() else ():
        files = [path for path in folder.rglob("*") if path.is_file()] if (folder / NOTE).is_file() else []
        if not files or time.time() - max(path.stat().st_mtime for path in files) < days * 86400:
            continue
        with contextlib.suppress(Timeout), FileLock(folder / "lock", timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:  # cut short by a kill
            continue
    return found


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
