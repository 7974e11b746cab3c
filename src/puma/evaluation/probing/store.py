"""States on disk by key, whole after any kill, so that a probe goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from puma.errors import InputError
from puma.storage.folders import storage_errors, write_json
from puma.storage.row_files import KEY_BYTES, RowFiles

NOTE = "states.json"


class StateStore(RowFiles):
    """float32 rows of one shape by key, for one writer at a time (a context manager: entering takes the lock).

    Args:
        folder: made if missing.
        shape: of one row.
        made_with: plain values that say what the rows come from; a folder made with others is refused.

    Raises:
        InputError: on entering: the folder's rows are of another model, prompt or precision, or another run has it.
        StorageError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], shape: tuple[int, ...], made_with: dict[str, Any]) -> None:
        super().__init__(Path(folder), shape, np.float32)
        self.note = json.loads(json.dumps({**made_with, "shape": list(self.shape)}))

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

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add rows [n, *shape] under n new, distinct keys; on disk when this returns."""
        if rows.shape != (len(keys), *self.shape) or len(set(keys)) != len(keys) or self._position.keys() & set(keys):
            raise ValueError(f"rows must be {(len(keys), *self.shape)} under as many new keys, got {rows.shape}")
        with storage_errors(self.folder):
            super().append(keys, rows)

    def read(self, keys: Sequence[bytes], place: tuple[int, ...]) -> np.ndarray:
        """The states [n, ...] at one place of each key's row; NaN for a key that is not there."""
        out = np.full((len(keys), *self.shape[len(place) :]), np.nan, np.float32)
        known = [i for i, key in enumerate(keys) if key in self._position]
        if known:
            places: tuple[Any, ...] = ([self._position[keys[i]] for i in known], *place)
            out[known] = self.rows()[places]
        return out


def key_of(written: str, image: bytes | None) -> bytes:
    """The key of a prompt as written out, and of its image's content digest."""
    return hashlib.sha256(written.encode() + b"\0" + (image or b"")).digest()[:KEY_BYTES]
