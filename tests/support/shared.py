"""Folders that are built once a run, whichever of pytest-xdist's workers needs them first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder of this name that ``build(folder)`` fills; for reading only, the other workers have it too.

    ``build`` gets a path that does not exist. A build that failed is begun anew by the next who needs it.
    """
    root = factory.getbasetemp()
    if root.name.startswith("popen-"):  # a worker's own folder, in that of the run
        root = root.parent
    folder = root / "shared" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    finished = folder.with_name(f"{name}.finished")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            finished.touch()
    return folder
