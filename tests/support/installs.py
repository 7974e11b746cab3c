"""An installation without network: the project's wheel in a virtual environment with its dependencies alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import Counter
from email.parser import BytesParser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def clean_environment(home: Path) -> dict[str, str]:
    """The process's environment without this checkout's sources, any model or the network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PUMA_"))}
    return {**kept, "HOME": str(home), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def built_wheel(project: Path, folder: Path) -> Path:
    """The project's wheel, built by its own backend, which must be installed here."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(project)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def requirements(wheel: Path) -> list[str]:
    """What a wheel's own metadata asks for."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return BytesParser().parsebytes(archive.read(name)).get_all("Requires-Dist") or []


def needed(lines: list[str], extras: frozenset[str] = frozenset()) -> dict[str, metadata.Distribution]:
    """The distributions of this environment that requirements come to, with all that those need, by canonical name.

    Raises:
        importlib.metadata.PackageNotFoundError: one is not installed here.
    """
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    open_ = [(line, extras) for line in lines]
    while open_:
        line, active = open_.pop()
        asked = Requirement(line)
        if asked.marker and not any(asked.marker.evaluate({"extra": extra}) for extra in (active or {""})):
            continue
        name = canonicalize_name(asked.name)
        key = (name, frozenset(asked.extras))
        if key in seen:
            continue
        seen.add(key)
        found[name] = metadata.distribution(name)
        open_ += [(line, key[1]) for line in found[name].requires or []]
    return found


def environment(folder: Path, distributions: list[metadata.Distribution]) -> Path:
    """A virtual environment that holds links to these distributions' files and nothing else; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    owners = Counter(top for each in metadata.distributions() for top in _tops(each))
    for each in distributions:
        for top in _tops(each):
            if owners[top] == 1:
                (site / top).symlink_to(Path(str(each.locate_file(top))).resolve())
        for file in each.files or []:
            if file.parts[0] != ".." and owners[file.parts[0]] > 1:  # a folder that several distributions share
                place = site / file
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    place.symlink_to(Path(str(each.locate_file(file))).resolve())
    return python


def _tops(distribution: metadata.Distribution) -> set[str]:
    """Its files' and folders' names directly in site-packages."""
    return {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}
