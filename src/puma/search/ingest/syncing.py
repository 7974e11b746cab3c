"""What a changed or removed file takes with it: items that it gave before and does not give any more. Loads no torch.

What vanished is kept apart from what could not be read this time, and an index is not emptied because a disk is not
mounted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from puma.errors import InputError
from puma.index import Index, Place
from puma.items.encoder import Skip
from puma.items.objects import AnyPath, object_path
from puma.search.ingest.files import IN_FOLDERS
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.portions import Pair
from puma.search.ingest.reading import Reader
from puma.search.ingest.records import Finished, Found, Record, Same, is_text, same_place, source_of
from puma.search.ingest.unchanged import Unchanged

IDS_AT_ONCE = 1024


@dataclass(frozen=True)
class Settled:
    """What :meth:`Watch.settle` did: items deleted, items kept because what they came from could not be read, and
    source and id of the places that went from items that have others."""

    deleted: int
    kept: int
    replaced: set[Pair]


class Watch:
    """Compares what the index holds of some paths with what a run finds there.

    Args:
        index: what it holds is looked up when the watch is made; what others add meanwhile is left alone.
        readers: of the paths that the run reads.
    """

    def __init__(self, index: Index, readers: Sequence[Reader]) -> None:
        self.index, self.readers = index, list(readers)
        self.paths = [reader.path for reader in readers]
        self.under = [source_of(path) for path in self.paths]
        # A name that is no valid text is never stored: nothing of it can be known.
        self._storable = [source for source in self.under if is_text(source)]
        self.known: set[Pair] = index.sources(self._storable)
        self._unseen = set(self.known)
        self._given: dict[str, list[str]] = {}
        for source, name in sorted(self.known):
            self._given.setdefault(source, []).append(name)
        self._found = [0] * len(self.paths)
        self._read: set[str] = set()
        self._met: set[int] = set()

    def seeing(self, entries: Iterable[tuple[int, Found]]) -> Iterator[Found]:
        """The entries as they come, each compared."""
        for number, entry in entries:
            if isinstance(entry, Record):
                source = entry.source or ""
                self._found[number] += 1
                self._unseen.discard((source, entry.id))
                self._met.add(same_place(source, entry.id, entry.payload))
            elif isinstance(entry, Finished):
                self._read.add(entry.source)
            elif isinstance(entry, Same):
                entry = Same(entry.source, tuple(self._given.get(entry.source, ())))
                self._found[number] += len(entry.ids)
                self._unseen -= {(entry.source, name) for name in entry.ids}
            yield entry

    def unchanged(self, options: ReadOptions) -> Unchanged:
        """The check whether a source is as it was when it was last read."""
        stamps = {} if options.rehash else self.index.stamps(self._storable)
        return Unchanged(stamps, self.known, options.reading())

    def is_settled(self, source: str) -> bool:
        """Whether everything that the index held of a source that was read was in it."""
        return all((source, name) not in self._unseen for name in self._given.get(source, ()))

    def lost(self) -> list[AnyPath]:
        """Paths that are gone themselves, though the index holds items of them."""
        held = zip(self.readers, self.under, strict=True)
        return [reader.path for reader, under in held if self._holds(under) and not reader.exists()]

    def refuse_empty(self) -> None:
        """Before any work: raise InputError if a path is gone or has nothing in it, though the index holds items of
        it."""
        for reader, under in zip(self.readers, self.under, strict=True):
            if self._holds(under) and (not reader.exists() or reader.is_empty()):
                raise _empty(reader.path)

    def _holds(self, under: str) -> bool:
        return any(_is_below(source, under) for source, _ in self.known)

    def settle(self, skips: Sequence[Skip], *, sync: bool, allow_empty: bool) -> Settled:
        """Delete what was not seen, after the run has gone to its end: what the files that were read gave before, and
        with ``sync`` what came from files that are gone.

        Args:
            skips: what could not be read in this run; what was read of it before stays.
            sync: whether a file that is gone takes its items with it.
            allow_empty: whether a path may have nothing in it any more.

        Raises:
            InputError: with ``sync``, a path had nothing in it, though the index holds items of it; nothing was
                deleted.
        """
        looked_for = {source: self._was_looked_for(source, sync) for source, _ in self._unseen}
        gone = {pair for pair in self._unseen if looked_for[pair[0]]}
        kept = self._unreadable(gone, skips)
        gone -= kept
        for path, under, found in zip(self.paths, self.under, self._found, strict=True):
            emptied = set() if found or allow_empty else {pair for pair in gone if _is_below(pair[0], under)}
            if emptied and sync:
                raise _empty(path)
            gone -= emptied
            kept |= emptied
        deleted = self.index.forget_sources(sorted(gone)) if gone else 0
        self._unseen -= gone
        stale = self._stale_places(skips, kept)
        self.index.forget_places(stale)
        return Settled(deleted, len({name for _, name in kept}), {(place.source, place.id) for place in stale})

    def _stale_places(self, skips: Sequence[Skip], kept: set[Pair]) -> list[Place]:
        """Of items with several places, those that a file which was read does not give any more."""
        found = [
            place
            for place in self.index.places(self._storable)
            if place.source in self._read
            and same_place(place.source, place.id, json.loads(place.payload)) not in self._met
        ]
        spared = kept | self._unreadable({(place.source, place.id) for place in found}, skips)
        return [place for place in found if (place.source, place.id) not in spared]

    def _was_looked_for(self, source: str, sync: bool) -> bool:
        """Whether this run would have found the source: a text file inside a folder is read only where it is named, so
        it counts as vanished only when its file is gone."""
        if source in self._read or not sync:
            return source in self._read
        return source in self.under or Path(source).suffix.lower() in IN_FOLDERS or not _is_there(source)

    def _unreadable(self, pairs: set[Pair], skips: Sequence[Skip]) -> set[Pair]:
        unread = {skip.source for skip in skips if skip.id is None and skip.image in (None, skip.source)} - {None}
        named = {(skip.source, skip.id) for skip in skips if skip.id is not None}
        images = {(skip.source, skip.image) for skip in skips if skip.image is not None}
        kept = {pair for pair in pairs if pair in named or _any_above(pair[0], unread)}
        with_images = {source for source, _ in images}
        by_image = sorted(pair for pair in pairs - kept if pair[0] in with_images)
        for start in range(0, len(by_image), IDS_AT_ONCE):
            part = by_image[start : start + IDS_AT_ONCE]
            rows = self.index.get([name for _, name in part])
            kept |= {
                (source, name)
                for source, name in part
                if name in rows and (source, rows[name].payload.get("image")) in images
            }
        return kept


def _is_there(source: str) -> bool:
    found = object_path(source)
    return os.path.lexists(source) if found is None else found.exists()


def _is_below(source: str, folder: str) -> bool:
    return source == folder or source.startswith(folder.rstrip(os.sep) + os.sep)


def _any_above(source: str, folders: set[str | None]) -> bool:
    return bool(folders) and any(name in folders for name in (source, *map(str, Path(source).parents)))


def _empty(path: AnyPath) -> InputError:
    return InputError(
        f"{path}: nothing is there now, though the index holds items of it; if this is a disk that is not mounted, "
        f"mount it; to remove those items say allow_empty (--allow-empty)"
    )
