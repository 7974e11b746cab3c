"""Generations of an index in a folder.

The first generation's tables lie in the index's folder itself, later ones in ``gen-2``, ``gen-3``, and so on;
``current.json`` names the one that opens. It is replaced in one step, so every process opens either the old generation
or the new one. An index that was never migrated has no such file, and pays one look for it when it is opened or
written. Loads no torch.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from puma.errors import StorageError
from puma.index.generation_notes import CURRENT, FILLING, is_name, name_of, noted_generation, number_of
from puma.index.generations import Generation, Generations
from puma.index.interface import Engine
from puma.index.tables import locked
from puma.storage.folders import write_json


def folder_of(root: Path, generation: Generation) -> Path:
    """Where its tables are."""
    return root if generation.number == 1 else root / name_of(generation.number)


def root_of(folder: Path) -> Path:
    """The index's folder, of a generation's."""
    known = (folder.parent / CURRENT, folder.parent / FILLING)
    return folder.parent if is_name(folder.name) and any(file.exists() for file in known) else folder


def current(root: Path) -> Generation:
    """The generation that counts.

    Raises:
        StorageError: the file that names it cannot be read.
    """
    return _read(root / CURRENT) or Generation(1)


def is_superseded(folder: Path) -> bool:
    """Whether a generation with these tables no longer counts: whoever opened it before must not write to it."""
    root = root_of(folder)
    if not (root / CURRENT).exists():
        return False
    return (1 if root == folder else number_of(folder.name)) < current(root).number


class FolderGenerations(Generations):
    """Those of an index in a folder.

    Args:
        root: the folder.
        opened: opens the tables in a folder.
        created: makes or opens those of a folder, with vectors of a length and a model's fingerprint.
    """

    def __init__(
        self, root: Path, opened: Callable[[Path], Engine], created: Callable[[Path, int, str | None], Engine]
    ) -> None:
        super().__init__(str(root))
        self.root, self._opened, self._created = root, opened, created

    def current(self) -> Generation:
        return current(self.root)

    def filling(self) -> Generation | None:
        return _read(self.root / FILLING)

    def begin(self, model: str, fingerprint: str) -> Generation:
        made = Generation(self.current().number + 1, model, fingerprint)
        write_json(self.root / FILLING, asdict(made))
        return made

    def open(self, generation: Generation) -> Engine:
        return self._opened(folder_of(self.root, generation))

    def make(self, generation: Generation, dim: int) -> Engine:
        return self._created(folder_of(self.root, generation), dim, generation.fingerprint)

    @contextlib.contextmanager
    def closed(self, generation: Generation) -> Iterator[None]:
        folder = folder_of(self.root, generation)
        # Writers wait for the lock. They find themselves superseded when they go on, and say so.
        with locked(folder, "write"):
            if is_superseded(folder):  # else rows added since the other run's change would be taken for gone
                raise self.superseded()
            yield

    def switch(self, generation: Generation) -> None:
        write_json(self.root / CURRENT, asdict(generation))
        (self.root / FILLING).unlink(missing_ok=True)

    def abandon(self) -> None:
        unfinished = self.filling()
        if unfinished is not None and unfinished.number != self.current().number:
            shutil.rmtree(folder_of(self.root, unfinished), ignore_errors=True)
        (self.root / FILLING).unlink(missing_ok=True)

    def drop_old(self) -> list[str]:
        newest = self.current()
        gone = [] if newest.number == 1 else sorted(self.root.glob("*.lance"))
        gone += [folder for folder in self.root.glob("gen-*") if 1 < number_of(folder.name) < newest.number]
        for folder in gone:
            shutil.rmtree(folder)
        return [folder.name for folder in gone]


def _read(path: Path) -> Generation | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error})") from None
    return noted_generation(text, str(path))
