"""Where generations of an index lie in a folder or an object store, and the notes that name them. Loads no torch."""

from __future__ import annotations

import json
import re

from puma.errors import StorageError
from puma.index.generations import Generation

CURRENT, FILLING = "current.json", "migration.json"
"""The notes: of the generation that counts, and of the one that is being filled."""
_NAME = re.compile(r"gen-([1-9][0-9]{0,5})")


def name_of(number: int) -> str:
    """What the folder of a later generation than the first is called, below the index."""
    return f"gen-{number}"


def is_name(name: str) -> bool:
    """Whether a folder of this name may be a later generation's."""
    return _NAME.fullmatch(name) is not None


def number_of(name: str) -> int:
    """Of a generation by its folder's name; 1 for another name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 1


def noted_generation(note: str | bytes, where: str) -> Generation:
    """The generation that a note names.

    Args:
        note: JSON.
        where: the note's path or address, for messages.

    Raises:
        StorageError: it names none.
    """
    try:
        found = json.loads(note)
        return Generation(int(found["number"]), str(found["model"]), str(found["fingerprint"]))
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{where}: is not what 'puma index migrate' writes; restore it, or delete it") from None
