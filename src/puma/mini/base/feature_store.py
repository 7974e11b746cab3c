"""One tower's features of images under keys, kept in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from puma.storage.row_files import KEY_BYTES, RowFiles

__all__ = ["KEY_BYTES", "FeatureStore"]


class FeatureStore(RowFiles):
    """float16 rows of one shape by key, for one writer at a time (a context manager: entering takes the lock).

    Args:
        folder: made if missing; its name should say what the rows were computed with.
        shape: of one row.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        super().__init__(Path(folder), shape, np.float16)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> FeatureStore:
        self._lock.acquire()
        try:
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        return self

    def position(self, key: bytes) -> int:
        """The row's number, or -1."""
        return self._position.get(key, -1)
