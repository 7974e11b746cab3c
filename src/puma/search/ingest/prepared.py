"""The paths of one ingest: checked, compared with the index and then read, in one walk. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from puma.index import Index, Stamp
from puma.items.encoder import BATCH, Encoder
from puma.search.ingest.filling import Added, fill
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.portions import Pair
from puma.search.ingest.reading import reader_of
from puma.search.ingest.records import Found, source_of
from puma.search.ingest.syncing import Watch


class PreparedPaths:
    """Paths that can be read. Everything that can be wrong with them shows here, before a model is loaded.

    Args:
        index: that the items are for.
        paths, sync, allow_empty, options: as :meth:`puma.Searcher.add_paths` takes them.

    Raises:
        InputError, DataError: as :meth:`puma.Searcher.add_paths`, before anything is read.
    """

    def __init__(
        self,
        index: Index,
        paths: Iterable[str | os.PathLike[str]],
        *,
        sync: bool = False,
        allow_empty: bool = False,
        options: ReadOptions | None = None,
    ) -> None:
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        self.index, self.sync, self.allow_empty = index, sync, allow_empty
        self.options, self._waiting = options or ReadOptions(), list[Stamp]()
        readers = [reader_of(path, options) for path in given]
        self._watch = Watch(index, readers)
        if sync and not allow_empty:
            self._watch.refuse_empty()
        # With allow_empty, a path that is gone is one with nothing in it.
        lost = self._watch.lost() if sync else []
        self._readers = [(number, reader) for number, reader in enumerate(readers) if reader.path not in lost]
        for _, reader in self._readers:
            reader.check()

    @property
    def known(self) -> set[Pair]:
        """The pairs of source and id that the index held of these paths."""
        return self._watch.known

    def count(self) -> int | None:
        """About how many entries there will be; None where counting would take long."""
        counts = [reader.count() for _, reader in self._readers]
        return None if None in counts else sum(count or 0 for count in counts)

    def entries(self) -> Iterator[Found]:
        """Everything in the paths, one at a time."""
        named = {source_of(reader.path) for _, reader in self._readers}
        unchanged = self._watch.unchanged(self.options)
        readers = self._readers
        return self._watch.seeing(
            (number, entry) for number, reader in readers for entry in reader.entries(named, unchanged)
        )

    def remember(self, stamps: Sequence[Stamp]) -> None:
        """Remember files whose items are stored. One that gave other items before waits until those are deleted."""
        settled: list[Stamp] = []
        for stamp in stamps:
            (settled if self._watch.is_settled(stamp.source) else self._waiting).append(stamp)
        if settled:
            self.index.put_stamps(settled)

    def fill(
        self,
        encoder: Encoder,
        *,
        batch_size: int = BATCH,
        progress: bool = False,
        on_batch: Callable[[Added], object] | None = None,
    ) -> Added:
        """Read, embed and store everything; then delete what the files that were read do not give any more, and with
        ``sync`` what came from files that are gone. Arguments as :meth:`puma.Searcher.add_paths` takes them.

        Raises:
            InputError: as :meth:`puma.search.ingest.syncing.Watch.settle`.
        """
        added = fill(
            encoder,
            self.index,
            self.entries(),
            batch_size=batch_size,
            known=self.known,
            total=self.count() if progress else None,
            progress=progress,
            on_batch=on_batch,
            remember=self.remember,
        )
        settled = self._watch.settle(added.skips, sync=self.sync, allow_empty=self.allow_empty)
        waiting, self._waiting = self._waiting, []
        self.remember(waiting)
        added.deleted, added.kept = settled.deleted, settled.kept
        # A new place of a source that lost another one: its fields have changed.
        replaced = settled.replaced & added.new_places
        added.updated += len(replaced)
        added.places -= len(replaced)
        return added
