"""Candidate matrices that need not fit in memory: files, arrays, or blocks that come once, read by rows. Loads no
torch.

Files are read, not mapped: pages of a mapped file count as the process's memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from puma.errors import DataError, InputError
from puma.index.exact.half import keeps_small_numbers, widen
from puma.storage.folders import storage_errors

Source = str | os.PathLike[str] | np.ndarray | Sequence[Any] | Iterable[np.ndarray]
"""A path of a ``.npy`` file [n, dim], float16 or float32; an array or memmap of those; a list or tuple of paths and
arrays, one after the other; or any other iterable of arrays [rows, dim], which is first copied to the disk."""

DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
SAMPLED_ROWS = 4096
"""Rows of a file that its identity is taken from, beside its size and time."""
GAP = 64
"""Rows that are read along with wanted ones rather than read around."""
GATHERED = 256
"""Wanted rows of one reading, at most."""
PIECE = 256
"""Rows of one reading where all are wanted."""


class Rows:
    """Parts one after the other, as one matrix. Reading is safe from several threads.

    Attributes:
        count: rows of all parts.
        dim: length of a row.
        itemsize: bytes of the widest number stored: 2 or 4.
    """

    def __init__(self, parts: Sequence[_File | _Array]) -> None:
        dims = {part.dim for part in parts}
        if len(dims) > 1:
            raise InputError(
                f"source: its parts have rows of different lengths, {sorted(dims)}; use one model's vectors"
            )
        self.parts = list(parts)
        self._exact = keeps_small_numbers()  # threads inherit this from the one that starts them
        self.dim = dims.pop() if dims else 0
        self.starts = np.cumsum([0, *(part.count for part in parts)])
        self.count = int(self.starts[-1])
        self.itemsize = max((part.dtype.itemsize for part in parts), default=4)

    def read(self, start: int, stop: int, out: np.ndarray, *, careful: bool = False) -> None:
        """Rows start..stop as float32 into ``out`` [stop - start, dim]. Only a careful read keeps NaN and infinity of
        float16 apart from large numbers."""
        for part, first, low, high in self._spans(start, stop):
            for piece in range(low, high, PIECE):  # small enough to be still in the cache when it is widened
                end = min(piece + PIECE, high)
                self._single(part.raw(piece - first, end - first), out[piece - start : end - start], careful)

    def gather(self, wanted: np.ndarray, *, careful: bool = False) -> np.ndarray:
        """The rows of ascending distinct places, float32 [len(wanted), dim]; neighbours are read together."""
        out = np.empty((len(wanted), self.dim), dtype=np.float32)
        cuts = (np.flatnonzero(np.diff(wanted) > GAP) + 1).tolist()
        for begin, end in pairwise([0, *cuts, len(wanted)]):
            for low in range(begin, end, GATHERED):
                run = wanted[low : min(low + GATHERED, end)]
                for part, first, start, stop in self._spans(int(run[0]), int(run[-1]) + 1):
                    inside = slice(*np.searchsorted(run, [start, stop]))
                    raw = part.raw(start - first, stop - first)[run[inside] - start]
                    self._single(raw, out[low : low + len(run)][inside], careful)
        return out

    def _spans(self, start: int, stop: int) -> Iterator[tuple[_File | _Array, int, int, int]]:
        """The parts that hold rows start..stop: ``(part, its first row's place, first place, last place + 1)``."""
        for part, first, end in zip(self.parts, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            if max(start, first) < min(stop, end):
                yield part, first, max(start, first), min(stop, end)

    def _single(self, raw: np.ndarray, out: np.ndarray, careful: bool) -> None:
        if raw.dtype == np.float16 and self._exact and not careful and raw.flags.c_contiguous:
            widen(raw, out)
        else:
            out[...] = raw

    def identity(self) -> str:
        """Equal for equal contents; of a file only shape, time and a sample are looked at."""
        return "+".join(part.identity() for part in self.parts)

    def close(self) -> None:
        """Close the files."""
        for part in self.parts:
            part.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Array:
    """A matrix in memory."""

    def __init__(self, array: np.ndarray) -> None:
        _check(array.shape, array.dtype, "source")
        self.array = array
        self.dtype = array.dtype
        self.count, self.dim = array.shape

    def raw(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop]

    def identity(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.count, 65536):
            digest.update(np.ascontiguousarray(self.array[start : start + 65536]).data)
        return f"{self.dtype}{list(self.array.shape)}{digest.hexdigest()}"

    def close(self) -> None:
        self.array = np.empty((0, self.dim), dtype=self.dtype)


class _File:
    """A matrix in a file, from ``offset`` on, row by row. ``digest`` names its content if that is known."""

    def __init__(self, stream: Any, name: str, offset: int, shape: tuple[int, int], dtype: np.dtype, digest: str = ""):
        self.stream, self.name, self.offset, self.dtype, self.digest = stream, name, offset, dtype, digest
        self.count, self.dim = shape
        self._lock = threading.Lock()
        stored, due = os.fstat(stream.fileno()).st_size, offset + self.count * self.dim * dtype.itemsize
        if stored < due:
            raise DataError(f"{name}: cut off, {stored} bytes where its header promises {due}; write it again")

    @classmethod
    def npy(cls, path: str | os.PathLike[str]) -> _File:
        name = os.fspath(path)
        try:
            stream = open(path, "rb", buffering=0)  # noqa: SIM115 (it stays open for the search)
        except OSError as error:
            raise InputError(
                f"source {name}: cannot be read ({error.strerror}); give the path of a .npy file"
            ) from None
        try:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_column, dtype = header(stream)
        except (ValueError, EOFError) as error:
            stream.close()
            raise DataError(f"{name}: not a .npy file ({error})") from None
        try:
            _check(shape, dtype, name)
            if by_column:
                raise InputError(f"{name}: stored by columns; save numpy.ascontiguousarray(matrix)")
            return cls(stream, name, stream.tell(), (shape[0], shape[1]), dtype)
        except BaseException:
            stream.close()
            raise

    def raw(self, start: int, stop: int) -> np.ndarray:
        rows = np.empty((stop - start, self.dim), dtype=self.dtype)
        view = rows.reshape(-1).view(np.uint8).data
        place = self.offset + start * self.dim * self.dtype.itemsize
        while len(view):
            if hasattr(os, "preadv"):
                got = os.preadv(self.stream.fileno(), [view], place)
            else:
                with self._lock:
                    self.stream.seek(place)
                    got = self.stream.readinto(view)
            if not got:
                raise DataError(
                    f"{self.name}: ends at byte {place}, while it is being read; leave it as it is meanwhile"
                )
            view, place = view[got:], place + got
        return rows

    def identity(self) -> str:
        if self.digest:
            return self.digest
        state = os.fstat(self.stream.fileno())
        digest = hashlib.sha256()
        for row in np.linspace(0, self.count - 1, min(self.count, SAMPLED_ROWS), dtype=np.int64):
            digest.update(self.raw(int(row), int(row) + 1).data)
        return f"{self.dtype}{[self.count, self.dim]}{state.st_size},{state.st_mtime_ns}{digest.hexdigest()}"

    def close(self) -> None:
        self.stream.close()


def open_source(source: Source, scratch: str | os.PathLike[str] | None = None) -> Rows:
    """Candidates as one matrix; close it when done.

    Args:
        source: see :data:`Source`. A full ``numpy.memmap`` is read from its file.
        scratch: folder for the copy of blocks that come once (the system's temporary one if None). The copy has no name
            in it and goes with the process.

    Raises:
        InputError: no such file, or numbers, shape or order that cannot be searched.
        DataError: a damaged file.
    """
    if isinstance(source, (str, os.PathLike, np.ndarray)):
        return Rows([_part(source)])
    if isinstance(source, (list, tuple)):
        parts: list[_File | _Array] = []
        try:
            parts += map(_part, source)
            return Rows(parts)
        except BaseException:
            for part in parts:
                part.close()
            raise
    if not isinstance(source, Iterable):
        raise InputError(f"source must be a path, an array or an iterable of these, got {type(source).__name__}")
    return Rows(_copied(source, scratch))


def _part(part: Any) -> _File | _Array:
    if isinstance(part, (str, os.PathLike)):
        return _File.npy(part)
    if not isinstance(part, np.ndarray):
        raise InputError(f"source: its parts must be paths or arrays, one is of type {type(part).__name__}")
    if isinstance(part, np.memmap) and isinstance(part.base, mmap.mmap) and part.ndim == 2 and part.flags.c_contiguous:
        name, mode = (
            part.filename,
            part.mode,
        )  # a part of a memmap has the offset of the full one: only a full one is a file
        if isinstance(name, (str, os.PathLike)) and mode != "c":
            _check(part.shape, part.dtype, os.fspath(name))
            return _File(open(name, "rb", buffering=0), os.fspath(name), part.offset, part.shape, part.dtype)
    return _Array(np.asarray(part))


def _copied(blocks: Iterable[Any], scratch: str | os.PathLike[str] | None) -> list[_File | _Array]:
    """Blocks that come once, on the disk: they are needed twice, for the search and for the exact scores."""
    digest, count, kind = hashlib.sha256(), 0, None
    stream = None
    try:
        for block in blocks:
            if not isinstance(block, np.ndarray):
                raise InputError(f"source: blocks must be arrays [rows, dim], one is of type {type(block).__name__}")
            _check(block.shape, block.dtype, "source")
            if kind not in (None, (block.shape[1], block.dtype)):
                raise InputError(f"source: blocks must be alike, got {kind} and {(block.shape[1], block.dtype)}")
            kind = (block.shape[1], block.dtype)
            data = np.ascontiguousarray(block)
            with storage_errors(scratch or tempfile.gettempdir()):
                if stream is None:
                    stream = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 (as above)
                view = data.reshape(-1).view(np.uint8).data
                while len(view):
                    view = view[stream.write(view) :]
            digest.update(data.data)
            count += len(data)
        if stream is None or kind is None:
            return []
        name = f"{kind[1]}{[count, kind[0]]}{digest.hexdigest()}"
        return [_File(stream, "the copy of the source's blocks", 0, (count, kind[0]), kind[1], name)]
    except BaseException:
        if stream is not None:
            stream.close()
        raise


def _check(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    if len(shape) != 2 or not shape[1]:
        raise InputError(f"{name}: must be a matrix [candidates, dim], has shape {list(shape)}")
    if dtype not in DTYPES:
        raise InputError(f"{name}: holds {dtype}, must hold float16 or float32 (matrix.astype('float32'))")
