"""Generations of an index in one folder: the tables of one model beside those of the next, and which of them counts.

The first generation's tables lie in the index's folder itself, later ones in ``gen-2``, ``gen-3``, and so on;
``current.json`` names the one that opens. It is replaced in one step, so every process opens either the old generation
or the new one. An index that was never migrated has no such file, and pays one look for it when it is opened or
written. Loads no torch.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from puma.errors import StorageError
from puma.storage.folders import write_json

CURRENT, FILLING = "current.json", "migration.json"
_NAME = re.compile(r"gen-([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Generation:
    """One of them.

    Args:
        number: 1 for the tables in the index's folder itself.
        model: what to load to search it: a folder, or a name on the hub; empty where that is not known.
        fingerprint: of that model.
    """

    number: int
    model: str = ""
    fingerprint: str = ""

    def folder(self, root: Path) -> Path:
        """Where its tables are."""
        return root if self.number == 1 else root / f"gen-{self.number}"


def root_of(folder: Path) -> Path:
    """The index's folder, of a generation's."""
    known = (folder.parent / CURRENT, folder.parent / FILLING)
    return folder.parent if _NAME.fullmatch(folder.name) and any(file.exists() for file in known) else folder


def current(root: Path) -> Generation:
    """The generation that counts.

    Raises:
        StorageError: the file that names it cannot be read.
    """
    return _read(root / CURRENT) or Generation(1)


def filling(root: Path) -> Generation | None:
    """The generation that a migration is filling; None for none."""
    return _read(root / FILLING)


def begin(root: Path, model: str, fingerprint: str) -> Generation:
    """Note which generation is being filled, and with which model."""
    made = Generation(current(root).number + 1, model, fingerprint)
    write_json(root / FILLING, asdict(made))
    return made


def switch(root: Path, generation: Generation) -> None:
    """From here on this generation is opened."""
    write_json(root / CURRENT, asdict(generation))
    (root / FILLING).unlink(missing_ok=True)


def abandon(root: Path) -> None:
    """Drop what a migration has filled so far."""
    unfinished = filling(root)
    if unfinished is not None and unfinished.number != current(root).number:
        shutil.rmtree(unfinished.folder(root), ignore_errors=True)
    (root / FILLING).unlink(missing_ok=True)


def drop_old(root: Path) -> list[Path]:
    """Remove the tables of all generations before the current one; what was removed."""
    newest = current(root)
    gone = [] if newest.number == 1 else sorted(root.glob("*.lance"))
    gone += [folder for folder in root.glob("gen-*") if 1 < _number(folder) < newest.number]
    for folder in gone:
        shutil.rmtree(folder)
    return gone


def is_superseded(folder: Path) -> bool:
    """Whether a generation with these tables no longer counts: whoever opened it before must not write to it."""
    root = root_of(folder)
    if not (root / CURRENT).exists():
        return False
    return (1 if root == folder else _number(folder)) < current(root).number


def _number(folder: Path) -> int:
    """Of a folder by its name; 1 for one of another name."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else 1


def _read(path: Path) -> Generation | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error})") from None
    try:
        found = json.loads(text)
        return Generation(int(found["number"]), str(found["model"]), str(found["fingerprint"]))
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{path}: is not what 'puma index migrate' writes; restore it, or delete it") from None
