"""Objects of a store as files that are read part by part, and what a failed request means. Loads no torch."""

from __future__ import annotations

import errno
import io
from typing import Any, NamedTuple

from puma.storage.object_stores import is_store_error, reason, store_of, unusable

FIRST_BLOCK, LARGEST_BLOCK = 64 * 2**10, 4 * 2**20
"""Bytes that a file is first read by, and at most: each is one request."""


class Version(NamedTuple):
    """An object as it was: its size in bytes, when it was written (nanoseconds), and the store's tag of its content,
    empty where the store gives none."""

    size: int
    modified: int
    tag: str


class ObjectFile(io.RawIOBase):
    """Reads parts of an object, each with a request.

    Args:
        root: ``scheme://bucket``.
        key: of the object.
        version: the one that is read; another that has taken its place is an OSError.
        block: bytes of the first part at most, twice as many of the next, and so on; 0 for no such limit.
    """

    def __init__(self, root: str, key: str, version: Version, block: int = 0) -> None:
        self.root, self.key, self.version, self.block, self.place = root, key, version, block, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.version.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), max(0, self.version.size - self.place))
        if self.block:
            size, self.block = min(size, self.block), min(2 * self.block, LARGEST_BLOCK)
        if size <= 0:
            return 0
        import obstore

        options: Any = {"range": (self.place, self.place + size)}
        if self.version.tag:
            options["if_match"] = self.version.tag
        try:
            data = bytes(obstore.get(store_of(self.root), self.key, options=options).bytes())
        except Exception as error:
            raise failure(f"{self.root}/{self.key}", error) from None
        memoryview(buffer)[: len(data)] = data
        self.place += len(data)
        return len(data)


def version_of(meta: Any) -> Version:
    """The version in what obstore tells of an object."""
    modified = int(meta["last_modified"].timestamp()) * 10**9  # listings have milliseconds, other answers none
    return Version(int(meta["size"]), modified, str(meta["e_tag"] or ""))


def failure(path: object, error: Exception) -> Exception:
    """What to raise for obstore's error about one object: OSError where other objects may do, else StorageError."""
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", str(path))
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(errno.EACCES, f"the store refuses it: {reason(error)}", str(path))
    if name == "PreconditionError":
        return OSError(errno.ESTALE, "it has changed while it was read", str(path))
    if name == "InvalidPathError" or isinstance(error, ValueError):
        return OSError(errno.EINVAL, reason(error), str(path))
    return unusable(path, error) if is_store_error(error) else error
