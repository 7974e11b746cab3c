"""Which files are as they were when they were last read, by size and times, so that their bytes need not be read.
Loads no torch.

A file counts as unchanged if its size, its time of modification and the time of its last change of any kind are what
they were; the last one also moves when a copy brings an older time of modification with it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from puma.index import FileState, Stamp
from puma.items.ahead import in_order
from puma.items.encoder import Skip
from puma.items.objects import ObjectPath, object_path
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

    def __call__(self, source: str, state: FileState | None = None) -> bool:
        """Whether nothing that this source was read from has changed.

        Args:
            state: of the source's own file, where a listing has it.
        """
        stamp = self.stamps.get(source)
        if stamp is None or stamp.how != self.how or stamp.ids != self._counts[source]:
            return False
        known = {} if state is None else {source: state}
        unknown = [file for file in stamp.files if file.path not in known]
        if any(known[file.path] != file for file in stamp.files if file.path in known):
            return False
        if len(unknown) > 1 and object_path(source) is not None:  # a request for each image that a table names
            states = in_order((partial(state_of, file.path), 0) for file in unknown)
        else:
            states = (state_of(file.path) for file in unknown)
        return all(now == file for now, file in zip(states, unknown, strict=True))


class Reading:
    """What one source is read from, noted while it is read.

    Args:
        source: the absolute path of the file.
        reading: as in :class:`Unchanged`.
        state: of an object that was listed just now.
    """

    def __init__(self, source: str, reading: str, state: FileState | None = None) -> None:
        self.source, self.how = source, how_of(reading)
        self._files: dict[str, FileState | None] = {source: _settled(source) if state is None else state}
        self._ids: set[str] = set()
        self._faults = False

    def see(self, entry: Found) -> None:
        """One entry of the source, as it comes."""
        if isinstance(entry, Skip):
            self._faults = True
        elif isinstance(entry, Record):
            self._ids.add(entry.id)
            image = entry.item.image
            if isinstance(image, ObjectPath):
                self._files.setdefault(str(image), object_state(image))
            elif isinstance(image, Path) and str(image) not in self._files:
                self._files[str(image)] = _settled(str(image))

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
    """Size and times of a file; None if it is not there, or is an object whose content its store gives no tag."""
    remote = object_path(path)
    if remote is not None:
        remote.version = remote.current()
        return object_state(remote)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return FileState(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def object_state(path: ObjectPath) -> FileState | None:
    """The state of an object as it was listed or read; None where that is not known, or has no tag of its content.
    The tag stands for the time of the last change."""
    version = path.version
    if version is None or not version.tag:
        return None
    tag = int.from_bytes(hashlib.sha256(version.tag.encode()).digest()[:6], "big")
    return FileState(str(path), version.size, version.modified, tag)


def _settled(path: str) -> FileState | None:
    state = state_of(path)
    if state is None or object_path(path) is not None:
        return state
    margin = FINE_CLOCK if state.modified % 1_000_000_000 else COARSE_CLOCK
    return state if time.time_ns() - state.modified > margin else None
