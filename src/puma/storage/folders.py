"""Folders and files that are whole or absent: written beside their place, then renamed. Loads no torch."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puma.errors import InputError, StorageError


def refuse_below_file(path: str | os.PathLike[str], name: str = "") -> None:
    """Refuse a place that cannot exist, because a part of its path is a file.

    Args:
        path: the file or folder that is to be made. It may exist.
        name: of the argument, as its user gave it; the message starts with it.

    Raises:
        InputError: the path leads through a file.
    """
    above = _nearest_above(path)
    if os.path.exists(above) and not os.path.isdir(above):
        shown = f"{name} {os.fspath(path)}".strip()
        raise InputError(f"{shown}: {above} is a file, not a folder; give a path that lies in a folder")


def check_place(path: str | os.PathLike[str], name: str) -> None:
    """Refuse a place where a file or folder cannot be made, before any work is done for it.

    Args:
        path, name: as in :func:`refuse_below_file`.

    Raises:
        InputError: the path leads through a file. StorageError: there is no permission to write in its folder.
    """
    refuse_below_file(path, name)
    above = _nearest_above(path)
    if not os.path.exists(path) and not os.access(above, os.W_OK | os.X_OK):
        raise StorageError(f"{name} {os.fspath(path)}: no permission to write in {above}; give another place")


def _nearest_above(path: str | os.PathLike[str]) -> Path:
    """The nearest part of the path above its end that exists."""
    above = Path(path).parent
    while above != above.parent and not os.path.exists(above):  # false too where there is no permission to look
        above = above.parent
    return above


@contextlib.contextmanager
def written_folder(out: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill that becomes ``out`` when the block ends well, and vanishes when it does not.

    Args:
        out: where the finished folder goes.
        replace: whether an existing ``out`` is replaced; else it must be absent or empty.

    Raises:
        InputError: ``out`` exists and is not empty, or is a file, or lies below a file.
        StorageError: the disk is full or the place cannot be written.
    """
    target = Path(out)
    refuse_below_file(target)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; give a folder's path")
    if target.is_dir() and any(target.iterdir()) and not replace:
        raise InputError(f"{target}: exists and is not empty; give another folder or remove it first")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        work.chmod(0o755)  # mkdtemp's private mode would follow the folder to its final name
    try:
        with storage_errors(target):
            yield work
            if target.exists():
                shutil.rmtree(target)
            os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a reader, now or after a crash, finds the old one or all of the new one.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    target = Path(path)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from the group
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """:func:`write_whole` of a value as JSON."""
    write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


@contextlib.contextmanager
def storage_errors(what: object) -> Iterator[None]:
    """Turn the disk's own failures (full, read-only, no permission) into StorageError naming ``what``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room, or give a place on another disk (PUMA_HOME moves the cache)"
            raise StorageError(f"{what}: the disk is full; {remedy}, and run the same command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"{what}: cannot be written ({error}); give another place (PUMA_HOME moves the cache)"
            ) from error
        raise
