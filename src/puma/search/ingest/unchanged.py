"""Which files are as they were when they were last read, by size and times, so that their bytes need not be read.
Loads no torch.

A file counts as unchanged if its size, its time of modification and the time of its last change of any kind are what
they were; the last one also moves when a copy brings an older time of modification with it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from puma.index import FileState, Stamp
from puma.items.encoder import Skip
from puma.search.ingest.records import Found, Record

FINE_CLOCK, COARSE_CLOCK = 50_000_000, 2_500_000_000
"""Nanoseconds before its reading in which a file must not have been written: what is written after the reading could
carry the same time. Some file systems count whole or even seconds."""
READER = "2"
"""Rises when the same file would give other items."""


class Unchanged:
    """Compares files with what the index remembers of them.

    Args:
        stamps: by source.
        known: the pairs of source and id that the index holds: a source that lost some is read again.
        reading: how files are read now, as :meth:`puma.search.ingest.ReadOptions.reading` says it.
    """

    def __init__(self, stamps: Mapping[str, Stamp], known: Iterable[tuple[str, str]], reading: str) -> None:
        self.stamps, self.how = stamps, how_of(reading)
        self._counts = Counter(source for source, _ in known) if stamps else Counter[str]()

    def __call__(self, source: str) -> bool:
        """Whether nothing that this source was read from has changed."""
        stamp = self.stamps.get(source)
        if stamp is None or stamp.how != self.how or stamp.ids != self._counts[source]:
            return False
        return all(state_of(file.path) == file for file in stamp.files)


class Reading:
    """What one source is read from, noted while it is read.

    Args:
        source: the absolute path of the file.
        reading: as in :class:`Unchanged`.
    """

    def __init__(self, source: str, reading: str) -> None:
        self.source, self.how = source, how_of(reading)
        self._files: dict[str, FileState | None] = {source: _settled(source)}
        self._ids: set[str] = set()
        self._faults = False

    def see(self, entry: Found) -> None:
        """One entry of the source, as it comes."""
        if isinstance(entry, Skip):
            self._faults = True
        elif isinstance(entry, Record):
            self._ids.add(entry.id)
            if isinstance(entry.item.image, Path) and str(entry.item.image) not in self._files:
                self._files[str(entry.item.image)] = _settled(str(entry.item.image))

    def stamp(self) -> Stamp | None:
        """What is to be remembered; None where something could not be read, or was written just now."""
        files = [state for state in self._files.values() if state is not None]
        if self._faults or not self._ids or len(files) < len(self._files):
            return None
        return Stamp(self.source, tuple(files), len(self._ids), self.how)


def how_of(reading: str) -> str:
    """What a stamp says of the reading."""
    return f"{READER} {reading}"


def state_of(path: str) -> FileState | None:
    """Size and times of a file; None if it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return FileState(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _settled(path: str) -> FileState | None:
    state = state_of(path)
    if state is None:
        return None
    margin = FINE_CLOCK if state.modified % 1_000_000_000 else COARSE_CLOCK
    return state if time.time_ns() - state.modified > margin else None
