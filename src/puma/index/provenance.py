"""Where items come from: their places, and the states of the files that were read for them. Loads no torch."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where an item was found and what was said of it there.

    Args:
        source: a path (or another name); empty for what was given directly.
        id: the item's.
        payload: its payload there, as :func:`puma.index.interface.encoded_payload` writes it.
    """

    source: str
    id: str
    payload: str


class FileState(NamedTuple):
    """A file as it was: its absolute path, size in bytes, and the times (nanoseconds) when its content was modified and
    when anything about it was changed."""

    path: str
    size: int
    modified: int
    changed: int


class Stamp(NamedTuple):
    """What is remembered of a source that was read.

    Args:
        source: its absolute path.
        files: the states of all that was read for it: itself, and images that it names.
        ids: how many different items it gave.
        how: how it was read; read in another way it may give others.
    """

    source: str
    files: tuple[FileState, ...]
    ids: int
    how: str
