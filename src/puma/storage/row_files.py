"""Rows under keys in two files that grow together, whole after any kill. Loads no torch.

``rows`` holds numbers of one type and shape, ``keys`` 16 bytes a row. Rows are on disk before their keys are, and what
a killed run left over in either is cut off at the next opening, so the n-th key always has its row.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock

KEY_BYTES = 16


class RowFiles:
    """Rows of one shape and type by key, for one writer at a time.

    Args:
        folder: where the files are; it must exist when they are opened.
        shape: of one row.
        dtype: of its numbers.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: type[np.floating]) -> None:
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._lock = FileLock(self.folder / "lock")
        self._position: dict[bytes, int] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

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
        """Add rows [n, *shape] under new keys; on disk when this returns."""
        if rows.shape != (len(keys), *self.shape):
            raise ValueError(f"rows must be {(len(keys), *self.shape)}, got {rows.shape}")
        for name, data in (("rows", np.ascontiguousarray(rows, self.dtype).tobytes()), ("keys", b"".join(keys))):
            with open(self.folder / name, "ab") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        for key in keys:
            self._position[key] = len(self._position)

    def rows(self) -> np.ndarray:
        """All rows [n, *shape], read from disk as they are used."""
        if not self._position:
            return np.empty((0, *self.shape), self.dtype)
        return np.memmap(self.folder / "rows", self.dtype, "r", shape=(len(self), *self.shape))
