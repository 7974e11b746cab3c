"""State of a long search on the disk: written in full or not at all, found again after a kill, and bound to its search.
Loads no torch.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from puma.errors import InputError
from puma.storage.folders import storage_errors

SECONDS = 15.0
"""Time between two writings of the running state, at least."""
SHARE = 0.05
"""The share of the time that writing may take: a state that is slow to write is written less often."""


class Checkpoints:
    """Named states of one search in a folder; with no folder, nothing is kept.

    Args:
        work: the folder, made if it is missing. Other searches may use it too.
        key: names the search: states of another key are not seen. See :func:`key_of`.

    Raises:
        InputError: another process is at the same search in this folder.
        StorageError: the folder cannot be made.
    """

    def __init__(self, work: str | os.PathLike[str] | None, key: str) -> None:
        self._folder = None if work is None else Path(work)
        self._key = key
        self._last = time.monotonic()
        self._took = 0.0
        if self._folder is not None:
            with storage_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._folder / f"{key}.lock", timeout=0)

    def __enter__(self) -> Checkpoints:
        if self._folder is not None:
            try:
                with storage_errors(self._folder):
                    self._lock.acquire()
            except Timeout:
                raise InputError(
                    f"work folder {self._folder}: another process is at this very search there; wait for it, or give "
                    "another folder"
                ) from None
            for half in self._folder.glob(f"{self._key}.*.part"):  # what a kill left
                half.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._lock.release()

    def due(self) -> bool:
        """Whether it is time to write again."""
        waited = time.monotonic() - self._last
        return self._folder is not None and waited >= max(SECONDS, self._took / SHARE)

    def save(self, name: str, state: Mapping[str, np.ndarray | int]) -> None:
        """Write a state: the old one stands until the new one is whole and on the disk."""
        if self._folder is None:
            return
        began = time.monotonic()
        target = self._folder / f"{self._key}.{name}.npz"
        scratch = target.with_suffix(".part")
        with storage_errors(target):
            try:
                with open(scratch, "wb") as stream:
                    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in state.items()}
                    np.savez(stream, **arrays)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(scratch, target)
            except BaseException:
                scratch.unlink(missing_ok=True)
                raise
        self._last = time.monotonic()
        self._took = self._last - began

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """A state, or None if there is none (or none that can be read: then the work is done again)."""
        if self._folder is None:
            return None
        try:
            with (
                open(self._folder / f"{self._key}.{name}.npz", "rb") as stream,
                np.load(stream, allow_pickle=False) as stored,
            ):
                return {key: stored[key] for key in stored.files}
        except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError, EOFError):
            return None

    def drop(self, name: str) -> None:
        """Forget a state."""
        if self._folder is not None:
            (self._folder / f"{self._key}.{name}.npz").unlink(missing_ok=True)

    def names(self, prefix: str) -> Iterator[str]:
        """States whose names begin so."""
        if self._folder is not None:
            for path in sorted(self._folder.glob(f"{self._key}.{prefix}*.npz")):
                yield path.name[len(self._key) + 1 : -len(".npz")]


def key_of(*parts: Any) -> str:
    """A name for a search: equal for equal arguments. Arrays go by their content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(f"{type(part).__name__}{part}".encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]
