"""Objects of a store (S3, Google Cloud, Azure) as paths: ``s3://bucket/folder/fox.png``. Loads no torch.

An :class:`ObjectPath` has those methods of ``pathlib.Path`` that reading files needs, so that the same code reads both.
Only such a path is ever fetched, never a string: what a client or somebody's table names as a string stays an address.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from puma.errors import ImageError, InputError, PumaError, StorageError
from puma.items.references import no_such_file
from puma.storage.object_files import FIRST_BLOCK, LARGEST_BLOCK, ObjectFile, Version, failure, version_of
from puma.storage.object_stores import is_store_error, reason, store_of, unusable

SCHEMES = ("s3", "gs", "az")
_OTHER_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class OddKeyError(StorageError):
    """A folder cannot be listed as a whole: an object's key in it is none of a path."""


class ObjectPath(os.PathLike[str]):
    """One object, or all objects below a folder's name.

    Args:
        root: ``scheme://bucket``.
        key: of the object; empty for the whole bucket.
        version: as it was when it was listed or last read, where that is known.
    """

    def __init__(self, root: str, key: str, version: Version | None = None) -> None:
        self.root, self.key, self.version = root, key, version

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    __fspath__ = __str__

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.root, f"{self.key}/{name}".lstrip("/"))

    @property
    def name(self) -> str:
        return posixpath.basename(self.key)

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.root, posixpath.dirname(self.key))

    @property
    def parents(self) -> list[ObjectPath]:
        """The folders above, the nearest first, the bucket last."""
        above, found = self, list[ObjectPath]()
        while above.key:
            above = above.parent
            found.append(above)
        return found

    def absolute(self) -> ObjectPath:
        return self

    def at(self, relative: str) -> ObjectPath | None:
        """The object at a path relative to this folder; None for one outside the bucket."""
        key = posixpath.normpath(posixpath.join(self.key, relative))
        return None if relative.startswith("/") or key.split("/")[0] in ("..", ".") else ObjectPath(self.root, key)

    def current(self) -> Version | None:
        """As it is now; None where there is no such object.

        Raises:
            StorageError: the store cannot be reached, or refuses the credentials.
        """
        if not self.key:
            return None
        import obstore

        try:
            return version_of(obstore.head(store_of(self.root), self.key))
        except Exception as error:
            failed = failure(self, error)
            if isinstance(failed, FileNotFoundError):
                return None
            if isinstance(failed, PermissionError):
                self.is_dir()  # an answer to HEAD does not say why; one to a listing does
            raise (failed if isinstance(failed, PumaError) else unusable(self, error)) from None

    def is_dir(self) -> bool:
        """Whether there are objects below it.

        Raises:
            StorageError: the store cannot be reached, refuses the credentials, or has no such bucket.
        """
        try:
            return next(self.below(at_once=1), None) is not None
        except OddKeyError:
            return True

    def exists(self) -> bool:
        """Whether it is an object or a folder. Raises StorageError as :meth:`is_dir`."""
        return self.current() is not None or self.is_dir()

    def below(self, at_once: int = 1000) -> Iterator[ObjectPath]:
        """All objects below it with their versions, a request for each ``at_once`` of them, in the store's order.

        Raises:
            StorageError: as :meth:`is_dir`.
            OddKeyError: a key is none of a path; :func:`puma.items.listing.everything_below` goes on beside it.
        """
        try:
            for page in store_of(self.root).list(self.key or None, chunk_size=at_once):
                for one in page:
                    yield ObjectPath(self.root, str(one["path"]), version_of(one))
        except PumaError:
            raise
        except Exception as error:
            if not is_store_error(error):
                raise
            if type(error).__name__ == "InvalidPathError":
                why = "is none of a path, and stops the listing; rename it, or name the folders beside it"
                raise OddKeyError(f"{self}: an object's key {why} ({reason(error)})") from None
            raise unusable(self, error) from None

    def stat(self) -> os.stat_result:
        """Its size and time of modification; other fields are 0.

        Raises:
            OSError: there is no such object.
            StorageError: as :meth:`is_dir`.
        """
        self.version = self.version or self.current()
        if self.version is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        seconds = self.version.modified // 10**9
        return os.stat_result((0, 0, 0, 0, 0, 0, self.version.size, seconds, seconds, seconds))

    def read_bytes(self, most: int | None = None) -> bytes:
        """The whole object.

        Args:
            most: bytes; None for no limit.

        Raises:
            OSError: there is no such object, it may not be read, or it is larger.
            StorageError: the store cannot be reached.
        """
        import obstore

        try:
            found = obstore.get(store_of(self.root), self.key)
            version = version_of(found.meta)
            if most is not None and version.size > most:
                raise OverflowError(version.size)
            data = bytes(found.bytes())
        except OverflowError:
            raise OSError(errno.EFBIG, f"{version.size:,} bytes are over the limit of {most:,}", str(self)) from None
        except Exception as error:
            raise failure(self, error) from None
        self.version = version
        return data

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """The object as a file that is read part by part; what is written in the meantime is an error.

        Args:
            mode: ``r`` or ``rb``.
            buffering: 0 for exactly the parts that are asked for, with ``rb``.

        Raises:
            OSError, StorageError: as :meth:`read_bytes`.
        """
        if mode not in ("r", "rb"):
            raise InputError(f"{self}: objects are read here, never written; mode must be r or rb, got {mode!r}")
        version = self.version or self.current()
        if version is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        if buffering == 0:
            return ObjectFile(self.root, self.key, version)  # type: ignore[return-value]
        stream = io.BufferedReader(ObjectFile(self.root, self.key, version, FIRST_BLOCK), LARGEST_BLOCK)
        return stream if mode == "rb" else io.TextIOWrapper(stream, encoding, errors, newline)


AnyPath = Path | ObjectPath
"""A file or a folder, here or in an object store."""


def object_path(address: str | os.PathLike[str]) -> ObjectPath | None:
    """The object or folder that an address names; None for what is no address of an object store.

    Raises:
        InputError: the address names no bucket, a key that is none of a path, or went through ``pathlib.Path``, which
            drops a slash.

    Examples:
        >>> str(object_path("s3://bucket/photos/")), object_path("photos")
        ('s3://bucket/photos', None)
    """
    if isinstance(address, ObjectPath):
        return address
    text = os.fspath(address)
    scheme, colon, rest = text.partition(":/")
    if not colon or scheme.lower() not in SCHEMES:
        return None
    if not rest.startswith("/"):
        if Path(text).exists():
            return None  # a folder whose name ends in a colon
        raise InputError(f"{text!r}: after {scheme}:/ a slash is missing; give text, not a Path")
    bucket, _, key = rest[1:].partition("/")
    key = key.rstrip("/")
    if not bucket:
        raise InputError(f"{text!r}: names no bucket; write {scheme}://BUCKET/FOLDER")
    if key and (set(key.split("/")) & {"", ".", ".."}):
        raise InputError(f"{text!r}: {key!r} holds //, /./ or /../, which stands in no object's key that can be read")
    return ObjectPath(f"{scheme.lower()}://{bucket}", key)


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """A path in the file system, ``~`` expanded, or in an object store.

    Raises:
        InputError: as :func:`object_path`; or it is an address of another kind.
    """
    text = os.fspath(path)
    found = object_path(path)
    if found is None and _OTHER_ADDRESS.match(text) and not os.path.exists(text):
        read = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{text}: {no_such_file(text)} (of object stores {read} are read)")
    return found or Path(path).expanduser()


def absolute(path: str | os.PathLike[str]) -> str:
    """A path as it is written down: absolute, without ``..``, links as they are; of an object its address. Raises
    InputError as :func:`object_path`."""
    found = object_path(path)
    return os.path.abspath(path) if found is None else str(found)


def object_bytes(path: ObjectPath, max_bytes: int) -> bytes:
    """An image's bytes from an object store.

    Raises:
        ImageError: there is no such object, it may not be read, or it is larger.
        StorageError: the store cannot be reached.
    """
    try:
        return path.read_bytes(max_bytes)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
