"""The matrix of candidates' vectors during scoring: in memory, or in a file where the memory is limited.

Loads no torch.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from puma.errors import InputError, StorageError
from puma.storage.folders import storage_errors

ROWS_AT_ONCE = 2**14
"""Vectors written to the file at once, at most."""
MOST_PARTS = 64
"""Stretches that a pool is read in; in more, it is copied first."""


@contextlib.contextmanager
def scratch_folder(memory: int | None, work: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """A folder in ``work`` (the system's temporary folder if None) that is gone after the block; None where the memory
    is not limited. Raises StorageError if it cannot be made."""
    if memory is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        with storage_errors(work):
            if work is not None:
                Path(work).mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="puma-evaluate-", dir=work))
        yield Path(folder)


def matrix(size: int, dim: int, memory: int | None, scratch: Path | None) -> tuple[np.ndarray, int]:
    """A matrix of zeros, float32 [size, dim], and how many rows to fill at once.

    Args:
        memory: bytes for all of it; a matrix that needs more than half is a memory map. None: no limit.
        scratch: the folder for that file, ``candidates.npy``.

    Raises:
        StorageError: the file does not fit there.
    """
    needed = size * dim * 4
    if memory is None or scratch is None or needed <= memory // 2:
        return np.zeros((size, dim), dtype=np.float32), size
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise StorageError(
            f"{scratch}: {needed:,} bytes of vectors do not fit into the {free:,} that are free; name a folder on "
            "another disk (work=)"
        )
    path = scratch / "candidates.npy"
    with storage_errors(path):
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(size, dim))
    return mapped, max(1, min(ROWS_AT_ONCE, memory // 4 // (dim * 4)))


@contextlib.contextmanager
def parts_of(vectors: np.ndarray, places: np.ndarray, scratch: Path | None) -> Iterator[list[np.ndarray]]:
    """The rows at these places, in this order, as a source for :mod:`puma.index.exact.streamed`.

    Rows that lie side by side are parts as they are, of an array in memory or of a file. Where too many do not, all of
    them are copied: those of a file to a file in ``scratch``, gone after the block.
    """
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    if len(cuts) < MOST_PARTS:
        yield [_stretch(vectors, int(part[0]), len(part)) for part in np.split(places, cuts)]
    elif scratch is None or not isinstance(vectors, np.memmap):
        yield [vectors[places]]
    else:
        path = scratch / "pool.npy"
        with storage_errors(path):
            copy = np.lib.format.open_memmap(
                path, mode="w+", dtype=vectors.dtype, shape=(len(places), vectors.shape[1])
            )
            for start in range(0, len(places), ROWS_AT_ONCE):
                copy[start : start + ROWS_AT_ONCE] = vectors[places[start : start + ROWS_AT_ONCE]]
                release(vectors)
                release(copy)
            copy.flush()
        try:
            yield [copy]
        finally:
            path.unlink()


def _stretch(vectors: np.ndarray, first: int, count: int) -> np.ndarray:
    if not isinstance(vectors, np.memmap) or vectors.filename is None:
        return vectors[first : first + count]
    # A memory map of its own, from there on: of a part of one, nobody could tell where in the file it begins.
    vectors.flush()
    offset = vectors.offset + first * vectors.shape[1] * vectors.itemsize
    return np.memmap(vectors.filename, vectors.dtype, "r", offset, (count, vectors.shape[1]))


def release(vectors: np.ndarray) -> None:
    """Let go of the pages of a memory map: read or written once, they would count as this process's memory. Values
    stay."""
    base = vectors
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def check_memory(memory: int | None) -> None:
    """Raise InputError unless ``memory`` is None or at least one byte."""
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
        raise InputError(f"memory must be a number of bytes of at least 1 or None, got {memory!r}")
