"""Unpacking a package's archive safely: wheels and zips, npm's .tgz, Debian's .deb.

Nothing is written outside the target folder, no special file is made, and the unpacked size is bounded.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from puma.errors import DependencyError, DownloadError

MAX_FILES = 200_000
"""Most files that one archive may hold."""
MAX_BYTES = 8 * 2**30
"""Most bytes that one archive may unpack to."""


def unpack(archive: Path, into: Path, keep: Sequence[str] | None = None) -> None:
    """Unpack ``archive`` into the new folder ``into``.

    Args:
        archive: a ``.whl``, ``.zip``, ``.tgz``, ``.tar.gz`` or ``.deb`` file.
        into: the folder to make.
        keep: shell patterns on the paths inside (without a leading ``./``); None keeps all.

    Raises:
        DownloadError: the archive is damaged, of another kind, too large, or names files outside its folder.
        DependencyError: a ``.deb`` where dpkg-deb is missing.
    """
    into.mkdir(parents=True)
    try:
        if archive.name.endswith((".whl", ".zip")):
            _unzip(archive, into, keep)
        elif archive.name.endswith((".tgz", ".tar.gz")):
            with tarfile.open(archive, "r|gz") as tar:
                _untar(tar, archive.name, into, keep)
        elif archive.name.endswith(".deb"):
            _undeb(archive, into, keep)
        else:
            raise DownloadError(f"{archive.name}: archives end in .whl, .zip, .tgz, .tar.gz or .deb")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DownloadError(f"{archive.name}: cannot be unpacked ({type(error).__name__}: {error})") from error


class _Budget:
    """Counts what has been unpacked, and refuses names that leave the folder."""

    def __init__(self, archive: str, keep: Sequence[str] | None) -> None:
        self.archive, self.keep, self.files, self.bytes = archive, keep, 0, 0

    def wants(self, name: str, size: int) -> bool:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[:1]:
            raise DownloadError(f"{self.archive}: holds the unsafe path {name!r}; do not use this package")
        if self.keep is not None and not any(fnmatchcase(str(path), pattern) for pattern in self.keep):
            return False
        self.files, self.bytes = self.files + 1, self.bytes + size
        if self.files > MAX_FILES or self.bytes > MAX_BYTES:
            raise DownloadError(f"{self.archive}: unpacks to more than {MAX_FILES:,} files or {MAX_BYTES:,} bytes")
        return True


def _unzip(archive: Path, into: Path, keep: Sequence[str] | None) -> None:
    budget = _Budget(archive.name, keep)
    with zipfile.ZipFile(archive) as source:
        for info in source.infolist():
            if info.is_dir() or not budget.wants(info.filename, info.file_size):
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DownloadError(f"{archive.name}: holds the link {info.filename!r}; do not use this package")
            target = into / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open(info) as stream, open(target, "wb") as out:
                shutil.copyfileobj(stream, out, 2**20)


def _untar(tar: tarfile.TarFile, name: str, into: Path, keep: Sequence[str] | None) -> None:
    budget = _Budget(name, keep)
    for member in tar:
        if member.isdir() or not budget.wants(member.name, member.size):
            continue
        if not _extract(tar, member, into):
            raise DownloadError(f"{name}: holds {member.name!r}, which is no plain file in its folder; it is refused")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> bool:
    """Write one member under ``into``; False if it is to be refused.

    What tarfile's filter "data" does, which Python 3.11.2 (Debian 12) does not have yet. Links that lead out are passed
    over: Debian packages link to files of other packages, and none of those is data.
    """
    root = into.resolve()
    target = root / member.name.lstrip("/")
    if not _inside(Path(os.path.normpath(target)), root) or not _inside(target.parent.resolve(), root):
        return False
    if member.issym() or member.islnk():
        link = Path(member.linkname)
        goal = target.parent / link if member.issym() else root / link
        if link.is_absolute() or not _inside(Path(os.path.realpath(goal)), root):
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            target.symlink_to(link)
        else:
            shutil.copyfile(goal, target)
        return True
    source = tar.extractfile(member) if member.isreg() else None
    if source is None:  # a device, a pipe
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, open(target, "xb") as out:
        shutil.copyfileobj(source, out, 2**20)
    return True


def _inside(path: Path, root: Path) -> bool:
    return path == root or root in path.parents


def _undeb(archive: Path, into: Path, keep: Sequence[str] | None) -> None:
    program = shutil.which("dpkg-deb")
    if program is None:
        raise DependencyError(f"unpacking {archive.name} needs dpkg-deb, which comes with Debian and Ubuntu")
    # dpkg-deb knows the compressions (xz, zstd); the plain tar that it writes goes through the same checks as any other
    command = [program, "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None  # for the type checker: both are pipes
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                _untar(tar, archive.name, into, keep)
            while process.stdout.read(2**20):
                pass
        except BaseException:
            process.kill()
            raise
        said = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode != 0:
        raise DownloadError(f"{archive.name}: dpkg-deb could not read it: {said[-400:]}")
