"""Fetching pinned packages with the machine's own clients (pip, apt-get, npm) into the cache, whole or not at all.

No address of a registry is written anywhere: the clients know theirs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from puma.errors import DependencyError, DownloadError, InputError, StorageError
from puma.mini.fetch.unpack import unpack
from puma.storage.folders import storage_errors

TIMEOUT_S = 1800.0
"""Longest that one run of a client may take, in seconds. The clients give up much sooner on a silent network."""

CLIENTS = ("pip", "apt", "npm")
HINTS = {
    "pip": f"run `{sys.executable} -m ensurepip --upgrade` (or install the package python3-pip)",
    "apt": "apt-get comes with Debian and Ubuntu; on another system this source of images has to be left out",
    "npm": "install Node.js with npm (Debian: `apt-get install npm`)",
}


@dataclass(frozen=True)
class Package:
    """One version of one package, pinned.

    Args:
        client: ``pip``, ``apt`` or ``npm``.
        name: the package's name as the client knows it.
        version: its exact version.
        filename: the archive's file name as the client leaves it.
        sha256: SHA-256 of the archive, 64 lower-case hexadecimal digits.
    """

    client: str
    name: str
    version: str
    filename: str
    sha256: str

    def __post_init__(self) -> None:
        if self.client not in CLIENTS:
            raise InputError(f"Package.client must be one of {', '.join(CLIENTS)}, got {self.client!r}")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise InputError(f"Package.sha256 of {self.name} must be 64 hexadecimal digits, got {self.sha256!r}")

    def __str__(self) -> str:
        return f"{self.client} package {self.name} {self.version}"


def cache_home() -> Path:
    """The folder of everything fetched or computed once: ``$PUMA_HOME``, else ``puma`` in the user's cache folder."""
    if chosen := os.environ.get("PUMA_HOME"):
        return Path(chosen).expanduser().absolute()
    import platformdirs  # only here: the GPU kit runs with PUMA_HOME on machines that may lack it

    return Path(platformdirs.user_cache_dir("puma", appauthor=False))


def fetch(package: Package, *, home: Path | str | None = None, keep: Sequence[str] | None = None) -> Path:
    """The folder holding the package's unpacked archive, fetched first if it is not there yet.

    The folder is ``home/packages/<name>-<version>`` (with ``keep``, a short hash of the patterns follows). It appears
    by one rename when everything is in it, so that a folder which exists is whole; a run killed half-way leaves only a
    temporary folder, which the next one removes. Several processes may ask for the same package at once.

    Args:
        package: what to fetch.
        home: cache folder; :func:`cache_home` if None.
        keep: shell patterns (``*`` also matches ``/``) on the paths inside the archive; only files that match one are
            unpacked. None unpacks all.

    Raises:
        DependencyError: the client is not installed; the message says how to get it.
        DownloadError: no network, no such package or version here, or another checksum than the pinned one.
        StorageError: the disk is full or the folder cannot be written.
    """
    packages = (cache_home() if home is None else Path(home)) / "packages"
    name = f"{package.name}-{package.version}".replace("/", "__").replace(":", "_")
    if keep is not None:
        name += "-" + hashlib.sha256("\0".join(sorted(keep)).encode()).hexdigest()[:8]
    folder = packages / name
    if folder.is_dir():
        return folder
    with storage_errors(f"cache folder {packages}"):
        (packages / ".tmp").mkdir(parents=True, exist_ok=True)
        with FileLock(packages / ".tmp" / f"{name}.lock"):
            if folder.is_dir():
                return folder
            work = packages / ".tmp" / name
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed: we hold the lock
            try:
                (work / "download").mkdir(parents=True)
                archive = _download(package, work / "download", packages.parent)
                _check(package, archive)
                unpack(archive, work / "unpacked", keep)
                os.replace(work / "unpacked", folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(package: Package, archive: Path) -> None:
    got = sha256_of(archive)
    if got != package.sha256:
        size = archive.stat().st_size
        archive.unlink()
        raise DownloadError(
            f"{package}: {archive.name} ({size:,} bytes) is not the file expected: SHA-256 expected {package.sha256}, "
            f"got {got}. It was deleted; run again, and if it stays so do not use this package"
        )


def _download(package: Package, into: Path, home: Path) -> Path:
    if package.client == "pip":
        _pip(package, into)
    elif package.client == "npm":
        _npm(package, into)
    else:
        _apt(package, into, home)
    archive = into / package.filename
    if not archive.is_file():
        found = sorted(p.name for p in into.iterdir() if p.is_file())
        raise DownloadError(f"{package}: the client left {found or 'no file'}, expected {package.filename}")
    return archive


def _program(package: Package, program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise DependencyError(f"{package} needs {program}, which is not installed: {HINTS[package.client]}")
    return path


def _pip(package: Package, into: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise DependencyError(f"{package} needs pip, which {sys.executable} does not have: {HINTS['pip']}")
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command = [sys.executable, "-m", "pip", "download", *options, "--timeout=30", "--retries=2", "-d", str(into)]
    code, said = _run(package, [*command, f"{package.name}=={package.version}"], into)
    if code != 0:
        raise _refused(package, said)


def _npm(package: Package, into: Path) -> None:
    # npm's own waits between tries grow to a minute each: too long to learn that there is no network
    waits = [
        "--fetch-retries=2",
        "--fetch-retry-mintimeout=1000",
        "--fetch-retry-maxtimeout=4000",
        "--fetch-timeout=60000",
    ]
    options = ["--ignore-scripts", "--no-update-notifier", "--loglevel=error", *waits]
    command = [_program(package, "npm"), "pack", f"{package.name}@{package.version}", *options]
    code, said = _run(package, command, into)
    if code != 0:
        raise _refused(package, said)


def _apt(package: Package, into: Path, home: Path) -> None:
    program = _program(package, "apt-get")
    # apt, run as root, would otherwise hand the download to a user who may not write into the cache
    options = [
        "-q",
        "-y",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "Acquire::Retries=2",
        "-o",
        "Acquire::http::Timeout=30",
    ]
    wanted = ["download", f"{package.name}={package.version}"]
    code, said = _run(package, [program, *options, *wanted], into)
    if code == 0:
        return
    # The system's package lists may be empty or old, and refreshing them takes root: keep lists of our own.
    lists, cache = home / "apt" / "lists", home / "apt" / "cache"
    for folder in (lists, cache):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
    with FileLock(home / "apt" / "own.lock"):
        options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        _run(package, [program, *options, "update"], into)
        code, said = _run(package, [program, *options, *wanted], into)
    if code != 0:
        raise _refused(package, f"{said}\n(releases of Debian carry different versions; this system is {_system()})")


def _system() -> str:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "of unknown release"
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("PRETTY_NAME", "of unknown release").strip('"')


def _refused(package: Package, said: str) -> Exception:
    tail = "\n".join(said.strip().splitlines()[-8:])[-1200:]
    if "No space left on device" in said or "ENOSPC" in said:
        return StorageError(f"{package}: the disk is full; make room, or set PUMA_HOME to another disk. {tail}")
    return DownloadError(
        f"{package} could not be fetched with {package.client}; check the network and the client's own settings, then "
        f"run again (what is already fetched is kept). It said:\n{tail or '(nothing)'}"
    )


def _run(package: Package, command: list[str], into: Path) -> tuple[int, str]:
    """Run a client in ``into`` without a terminal, showing how much has arrived. Returns its exit status and output."""
    environment = {**os.environ, "TMPDIR": str(into), "LC_ALL": "C"}  # its scratch files go (and are removed) with ours
    deadline = time.monotonic() + TIMEOUT_S
    label = f"{package.name} {package.version}"
    with tempfile.TemporaryFile() as output, tqdm(desc=label, unit="B", unit_scale=True, delay=1) as bar:
        process = subprocess.Popen(
            command, cwd=into, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise DownloadError(f"{package}: {command[0]} was stopped after {TIMEOUT_S:.0f} s; run again")
                time.sleep(0.1)
                bar.update(_size(into) - bar.n)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        return process.returncode, output.read().decode("utf-8", "replace")


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(root, name))
            except OSError:  # moved while we looked
                continue
    return total
