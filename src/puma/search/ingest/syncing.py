"""What a removed file takes with it: items whose sources lie in some paths and were not found there any more. Loads no
torch.

What vanished is kept apart from what could not be read this time, and an index is not emptied because a disk is not
mounted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from puma.errors import InputError
from puma.index import Index
from puma.items.encoder import Skip
from puma.search.ingest.portions import Pair
from puma.search.ingest.reading import IMAGES, PathReader
from puma.search.ingest.records import Found, Record, is_text, source_of

IDS_AT_ONCE = 1024


class Watch:
    """Compares what the index holds of some paths with what a run finds there.

    Args:
        index: what it holds is looked up when the watch is made; what others add meanwhile is left alone.
        readers: of the paths that the run reads.
    """

    def __init__(self, index: Index, readers: Sequence[PathReader]) -> None:
        self.index, self.readers = index, list(readers)
        self.paths = [reader.path for reader in readers]
        self.under = [source_of(path) for path in self.paths]
        # A name that is no valid text is never stored: nothing of it can be known.
        storable = [source for source in self.under if is_text(source)]
        self.known: set[Pair] = index.sources(storable) if storable else set()
        self._unseen = set(self.known)
        self._found = [0] * len(self.paths)

    def seeing(self, entries: Iterable[tuple[int, Found]]) -> Iterator[Found]:
        """The entries as they come, each compared."""
        for number, entry in entries:
            if isinstance(entry, Record):
                self._found[number] += 1
                self._unseen.discard((entry.source or "", entry.id))
            yield entry

    def lost(self) -> list[Path]:
        """Paths that are gone themselves, though the index holds items of them."""
        held = zip(self.paths, self.under, strict=True)
        return [path for path, under in held if not os.path.exists(path) and self._holds(under)]

    def refuse_empty(self) -> None:
        """Before any work: raise InputError if a path is gone or has nothing in it, though the index holds items of
        it."""
        for reader, under in zip(self.readers, self.under, strict=True):
            path = reader.path
            readable = os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK)
            if self._holds(under) and (not os.path.exists(path) or (readable and not reader.count())):
                raise _empty(path)

    def _holds(self, under: str) -> bool:
        return any(_is_below(source, under) for source, _ in self.known)

    def settle(self, skips: Sequence[Skip], allow_empty: bool) -> tuple[int, int]:
        """Delete what was not seen, after the run has gone to its end.

        Args:
            skips: what could not be read in this run; what was read of it before stays.
            allow_empty: whether a path may have nothing in it any more.

        Returns:
            How many items went, and how many were kept for the skips' sake.

        Raises:
            InputError: a path had nothing in it, though the index holds items of it; nothing was deleted.
        """
        looked_for = {source: self._was_looked_for(source) for source, _ in self._unseen}
        gone = {pair for pair in self._unseen if looked_for[pair[0]]}
        kept = self._unreadable(gone, skips)
        gone -= kept
        for path, under, found in zip(self.paths, self.under, self._found, strict=True):
            if not found and not allow_empty and any(_is_below(source, under) for source, _ in gone):
                raise _empty(path)
        deleted = self.index.forget_sources(sorted(gone)) if gone else 0
        return deleted, len({name for _, name in kept})

    def _was_looked_for(self, source: str) -> bool:
        """Whether this run would have found the source: a list inside a folder is read only where it is named, so it
        counts as vanished only when its file is gone."""
        return source in self.under or Path(source).suffix.lower() in IMAGES or not os.path.lexists(source)

    def _unreadable(self, pairs: set[Pair], skips: Sequence[Skip]) -> set[Pair]:
        unread = {skip.source for skip in skips if skip.id is None and skip.image in (None, skip.source)} - {None}
        named = {(skip.source, skip.id) for skip in skips if skip.id is not None}
        images = {(skip.source, skip.image) for skip in skips if skip.image is not None}
        kept = {pair for pair in pairs if pair in named or _any_above(pair[0], unread)}
        by_image = sorted(pair for pair in pairs - kept if any(pair[0] == source for source, _ in images))
        for start in range(0, len(by_image), IDS_AT_ONCE):
            part = by_image[start : start + IDS_AT_ONCE]
            rows = self.index.get([name for _, name in part])
            kept |= {
                (source, name)
                for source, name in part
                if name in rows and (source, rows[name].payload.get("image")) in images
            }
        return kept


def _is_below(source: str, folder: str) -> bool:
    return source == folder or source.startswith(folder.rstrip(os.sep) + os.sep)


def _any_above(source: str, folders: set[str | None]) -> bool:
    return bool(folders) and any(name in folders for name in (source, *map(str, Path(source).parents)))


def _empty(path: Path) -> InputError:
    return InputError(
        f"{path}: nothing is there now, though the index holds items of it; if this is a disk that is not mounted, "
        f"mount it; to remove those items say allow_empty (--allow-empty)"
    )
