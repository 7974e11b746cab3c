"""A folder cut into parts of bounded size, and put together again: what carries the kit to a machine without network.

``manifest.json`` names every part with its SHA-256, every file with its own, and the SHA-256 of the whole (of the lines
``sha256  path`` of all files, sorted). A file larger than a part is cut. Parts are tar archives; those of texts are
compressed.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from puma.errors import DataError, InputError
from puma.storage.folders import write_json, written_folder

MANIFEST = "manifest.json"
END = 2 * tarfile.RECORDSIZE
"""More than what closes a tar archive, in bytes."""
COMPRESSED = "texts"
"""The group whose parts are compressed."""


@dataclass
class _Part:
    name: str
    members: list[tuple[str, Path, int, int]] = field(default_factory=list)
    """(name inside, file, from byte, how many)."""
    size: int = END


def write_parts(groups: Mapping[str, Mapping[str, Path]], out: Path, limit: int) -> dict[str, object]:
    """Write parts and manifest into a new folder.

    Args:
        groups: by group, the files by the path that they have when unpacked. A part holds files of one group only.
        out: the folder; it must not be there or be empty.
        limit: most bytes of a part.

    Returns:
        The manifest.

    Raises:
        InputError: ``limit`` is too small, or ``out`` is not empty.
    """
    if limit < 4 * END:
        raise InputError(f"limit={limit}: give at least {4 * END} bytes")
    files: dict[str, dict[str, object]] = {}
    parts: list[dict[str, object]] = []
    with written_folder(out) as work:
        for group, members in groups.items():
            for number, part in enumerate(_planned(group, members, limit), 1):
                path = work / f"{group}-{number:02}.tar{'.xz' if group == COMPRESSED else ''}"
                _write(part, path)
                for name, _, start, _ in part.members:
                    whole = name.rsplit("#", 1)[0]
                    entry = files.setdefault(whole, {"bytes": 0, "sha256": "", "pieces": []})
                    entry["pieces"].append([path.name, name, start])  # type: ignore[attr-defined]
                parts.append({"part": path.name, "bytes": path.stat().st_size, "sha256": digest(path)})
            for name, file in members.items():
                files[name].update(bytes=file.stat().st_size, sha256=digest(file))
        manifest = {"sha256": whole_digest(files), "parts": parts, "files": dict(sorted(files.items()))}
        write_json(work / MANIFEST, manifest)
    return manifest


def _planned(group: str, members: Mapping[str, Path], limit: int) -> Iterator[_Part]:
    part = _Part(group)
    for name, path in sorted(members.items()):
        size, start = path.stat().st_size, 0
        cut = size > limit // 2 and size > limit - part.size - _cost(name)
        while True:
            piece = f"{name}#{start}" if cut else name
            room = (limit - part.size - _cost(piece)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            if part.members and (room < size - start if not cut else room <= 0):
                yield part
                part = _Part(group)
                continue
            count = min(size - start, room)
            part.members.append((piece, path, start, count))
            part.size += _cost(piece) + -(-count // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            start += count
            if start == size:
                break
    if part.members:
        yield part


def _cost(name: str) -> int:
    """Bytes of a member beside its content."""
    return len(tarfile.TarInfo(name).tobuf())


def _write(part: _Part, path: Path) -> None:
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as archive:
        for name, file, start, count in part.members:
            with open(file, "rb") as stream:
                stream.seek(start)
                info = tarfile.TarInfo(name)
                info.size = count
                archive.addfile(info, io.BytesIO(stream.read(count)))


def read_parts(folder: Path, out: Path) -> Path:
    """Check the parts and put the files together at ``out``, which appears only when whole; done once.

    Raises:
        InputError: no manifest in ``folder``.
        DataError: a part is missing or is not the one that was packed; all of them are named.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"parts {str(folder)!r}: no {MANIFEST} in it; benchmarks/gpu/pack.py writes it")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    done = out / MANIFEST
    if done.is_file() and json.loads(done.read_text(encoding="utf-8"))["sha256"] == manifest["sha256"]:
        return out
    faults = []
    for part in manifest["parts"]:
        file = Path(folder) / part["part"]
        if not file.is_file():
            faults.append(f"{part['part']} is missing")
        elif (found := digest(file)) != part["sha256"]:
            faults.append(
                f"{part['part']} ({file.stat().st_size:,} bytes) has SHA-256 {found[:12]}, not {part['sha256'][:12]}"
            )
    if faults:
        raise DataError(f"parts {str(folder)!r}: " + "; ".join(faults) + ". Bring them again")
    with written_folder(out, replace=True) as work:
        _put_together(Path(folder), manifest, work)
        wrong = [name for name, entry in manifest["files"].items() if digest(work / name) != entry["sha256"]]
        if wrong or whole_digest(manifest["files"]) != manifest["sha256"]:
            raise DataError(f"parts {str(folder)!r}: {wrong[:3] or 'the manifest'} came out different; pack them again")
        write_json(work / MANIFEST, manifest)
    return out


def _put_together(folder: Path, manifest: Mapping[str, object], work: Path) -> None:
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for name, entry in manifest["files"].items():  # type: ignore[attr-defined]
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{MANIFEST}: {name!r} would be written outside the folder")
        places.update({(part, member): (name, start) for part, member, start in entry["pieces"]})
    for part in sorted({part for part, _ in places}):
        with tarfile.open(folder / part) as archive:
            for info in archive:
                name, start = places[part, info.name]
                target = work / name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(info)
                assert content is not None
                with open(target, "r+b" if target.exists() else "wb") as stream:
                    stream.seek(start)
                    stream.write(content.read())


def whole_digest(files: Mapping[str, Mapping[str, object]]) -> str:
    """The SHA-256 of the lines ``sha256  path``, sorted by path."""
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def digest(path: Path) -> str:
    """A file's SHA-256."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_under(
    folder: Path, prefix: str, *, suffixes: Iterable[str] | None = None, but: Iterable[str] = ()
) -> dict[str, Path]:
    """A folder's files by ``prefix`` and their path inside it; ``suffixes`` chooses some, ``but`` leaves others out."""
    chosen = None if suffixes is None else tuple(suffixes)
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (chosen is None or path.name.endswith(chosen)) and not path.name.endswith(tuple(but)):
            found[f"{prefix}/{path.relative_to(folder).as_posix()}"] = path
    return found
