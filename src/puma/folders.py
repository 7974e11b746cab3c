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


@contextlib.contextmanager
def written_folder(out: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill that becomes ``out`` when the block ends well, and vanishes when it does not.

    Args:
        out: where the finished folder goes.
        replace: whether an existing ``out`` is replaced; else it must be absent or empty.

    Raises:
        InputError: ``out`` exists and is not empty, or is a file.
        StorageError: the disk is full or the place cannot be written.
    """
    target = Path(out)
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


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    target = Path(path)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(value, stream, indent=1, ensure_ascii=False)
                stream.write("\n")
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


@contextlib.contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Say in plain words that a disk is full or a place not writable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{target}: no space left on the disk; free some and run the same command again"
            ) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(f"{target}: cannot be written ({error.strerror}); give another place") from None
        raise
