"""States on disk by key, whole after any kill: what makes a probe go on where it was.

Here: the pair of files and their recovery. Not here: what is stored (run).

Two files grow together: ``rows`` (float32, one shape) and ``keys`` (16 bytes a row). Rows are on disk before their keys
are, and what a killed run left over in either is cut off at the next opening, so the n-th key always has its row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from puma.errors import InputError
from puma.folders import storage_errors, write_json

KEY_BYTES = 16
NOTE = "states.json"


class StateStore:
    """Rows of one shape by key, for one writer at a time (a context manager: entering takes the lock).

    Args:
        folder: made if missing.
        shape: of one row.
        made_with: plain values that say what the rows come from; a folder made with others is refused.

    Raises:
        InputError: on entering: the folder's rows are of another model, prompt or precision, or another run has it.
        StorageError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], shape: tuple[int, ...], made_with: dict[str, Any]) -> None:
        self.folder, self.shape = Path(folder), tuple(shape)
        self.note = json.loads(json.dumps({**made_with, "shape": list(self.shape)}))
        self.row_bytes = int(np.prod(self.shape)) * 4
        self._lock = FileLock(self.folder / "lock")
        self._position: dict[bytes, int] = {}

    def __enter__(self) -> StateStore:
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise InputError(f"{self.folder}: another probe is at work in it; give another --out") from None
        try:
            self._check_note()
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _check_note(self) -> None:
        path = self.folder / NOTE
        if not path.is_file():
            write_json(path, self.note)
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != self.note:
            other = sorted(name for name in {*found, *self.note} if found.get(name) != self.note.get(name))
            raise InputError(
                f"{self.folder}: holds the states of another run ({', '.join(other)} differ); "
                "give another --out, or remove this folder"
            )

    def _recover(self) -> None:
        keys, rows = self.folder / "keys", self.folder / "rows"
        for path in (keys, rows):
            path.touch()
        whole = min(keys.stat().st_size // KEY_BYTES, rows.stat().st_size // self.row_bytes)
        os.truncate(keys, whole * KEY_BYTES)
        os.truncate(rows, whole * self.row_bytes)
        data = keys.read_bytes()
        self._position = {data[i * KEY_BYTES : (i + 1) * KEY_BYTES]: i for i in range(whole)}

    def __len__(self) -> int:
        return len(self._position)

    def __contains__(self, key: bytes) -> bool:
        return key in self._position

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add rows [n, *shape] under n new, distinct keys; on disk when this returns."""
        if rows.shape != (len(keys), *self.shape) or len(set(keys)) != len(keys) or self._position.keys() & set(keys):
            raise ValueError(f"rows must be {(len(keys), *self.shape)} under as many new keys, got {rows.shape}")
        with storage_errors(self.folder):
            for name, data in (("rows", np.ascontiguousarray(rows, np.float32).tobytes()), ("keys", b"".join(keys))):
                with open(self.folder / name, "ab") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
        for key in keys:
            self._position[key] = len(self._position)

    def read(self, keys: Sequence[bytes], place: tuple[int, ...]) -> np.ndarray:
        """The states [n, ...] at one place of each key's row; NaN for a key that is not there."""
        out = np.full((len(keys), *self.shape[len(place) :]), np.nan, np.float32)
        known = [i for i, key in enumerate(keys) if key in self._position]
        if known:
            rows = np.memmap(self.folder / "rows", np.float32, "r", shape=(len(self), *self.shape))
            places: tuple[Any, ...] = ([self._position[keys[i]] for i in known], *place)
            out[known] = rows[places]
        return out


def key_of(written: str, picture: bytes | None) -> bytes:
    """The key of a prompt as written out, and of its picture's content digest."""
    return hashlib.sha256(written.encode() + b"\0" + (picture or b"")).digest()[:KEY_BYTES]
