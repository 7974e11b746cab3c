"""What every engine does when rows are written: in which order rows, images, sources and places go, so that a kill in
between loses nothing. Loads no torch.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from puma.index.interface import NewRow, Row, encoded_payload
from puma.index.placing import PlaceWriter
from puma.index.provenance import Place, Stamp
from puma.index.reads import one_read


class RowWriter(PlaceWriter):
    """The writing half of an engine (:class:`puma.index.interface.Engine`), over its tables of rows, images, sources,
    places and stamps."""

    _thumbnails: Any
    _stamps: Any

    @contextlib.contextmanager
    def _locked(self, upgrade: bool = True) -> Iterator[None]:
        """Hold what keeps other writers out, where the engine has such a thing.

        Args:
            upgrade: bring rows of an older format up to date first.
        """
        yield

    def _upkeep(self) -> None:
        """What is due after a write; it must not fail, the write is safe already."""

    @abstractmethod
    def _delete_rows(self, ids: Sequence[str]) -> int:
        """Remove rows; how many there were."""

    @abstractmethod
    def _held(self, contents: Collection[str]) -> set[str]:
        """Which of these contents some row has."""

    def put(
        self, rows: Sequence[NewRow], thumbnails: Mapping[str, bytes] | None, sources: Sequence[tuple[str, str]] | None
    ) -> None:
        if not rows:
            return
        with self._locked():
            self._thumbnails.put(thumbnails or {})
            with_image = self._thumbnails.present([row.content for row in rows])
            rows = [replace(row, thumbnail=row.content in with_image) for row in rows]
            self._drop_other_places(rows)
            # Before the rows: a row without a source counts as one that was given directly.
            self._sources.note(sources or ())
            self._merge_rows(rows)
        self._upkeep()

    def put_copies(self, rows: Sequence[Row], vectors: np.ndarray, other: Any) -> None:
        images = {row.content for row in rows if row.thumbnail}
        thumbnails = {content: image for content in images if (image := other._thumbnails.get(content)) is not None}
        new = [
            NewRow(row.id, vector, row.modality, encoded_payload(row.payload, row.id), row.content)
            for row, vector in zip(rows, vectors, strict=True)
        ]
        self.put(new, thumbnails, None)

    def take_companions(self, other: Any, ids: Collection[str]) -> None:
        pairs = {pair for pair in other._sources.every() if pair[1] in ids}
        listed = [place for places in other._places.of_ids(ids).values() for place in places]
        kinds = {row.id: row.modality for row in self.get([place.id for place in listed], vectors=False).values()}
        stamps = other._stamps.under(sorted(other._stamps.values("source")))
        with self._locked():
            self._sources.drop(self._sources.every() - pairs)
            self._sources.note(pairs)
            self._places.drop_ids(self._places.values("id"))
            self._places.put(listed, kinds)
            self._stamps.drop(self._stamps.values("source") - stamps.keys())
            self._stamps.put(list(stamps.values()))

    def delete(self, ids: Sequence[str]) -> int:
        if not ids:
            return 0
        with self._locked():
            # First: a kill before the sources go must not leave files that count as read though their rows are gone.
            self._stamps.drop({source for source, _ in self._sources.of_ids(ids)})
            gone = self._delete(ids)
            self._sources.drop_ids(ids)
            self._places.drop_ids(ids)
        self._upkeep()
        return gone

    def note_sources(self, pairs: Sequence[tuple[str, str]]) -> None:
        if pairs:
            with self._locked(upgrade=False):
                self._sources.note(pairs)

    def forget_sources(self, pairs: Sequence[tuple[str, str]]) -> int:
        if not pairs:
            return 0
        with self._locked():
            # The rows first: after a kill in between, the pairs are still there to be forgotten again.
            orphans = sorted(self._sources.orphaned_by(pairs))
            gone = self._delete(orphans)
            self._places.drop_ids(orphans)
            forgotten = set(pairs)
            places = [place for some in self._places.of_ids(name for _, name in pairs).values() for place in some]
            self._places.drop_places(place for place in places if (place.source, place.id) in forgotten)
            self._follow_places({place.id for place in places})
            self._sources.drop(pairs)
        self._upkeep()
        return gone

    def add_places(self, places: Sequence[Place]) -> list[Place]:
        if not places:
            return []
        with self._locked():
            return self._add_places(places)

    def forget_places(self, places: Sequence[Place]) -> None:
        if not places:
            return
        with self._locked():
            gone = set(places)
            listed = self._places.of_ids(place.id for place in places)
            kept_one = {name for name, some in listed.items() if not gone.issuperset(some)}
            self._places.drop_places(place for place in gone if place.id in kept_one)
            self._follow_places(kept_one)

    def put_stamps(self, stamps: Sequence[Stamp]) -> None:
        if stamps:
            with self._locked(upgrade=False):
                self._stamps.put(stamps)

    def stamps(self, under: Sequence[str]) -> dict[str, Stamp]:
        found: dict[str, Stamp] = self._stamps.under(under)
        return found

    @one_read()
    def thumbnail(self, name: str) -> bytes | None:
        row = self.get([name], vectors=False).get(name)
        found: bytes | None = None if row is None else self._thumbnails.get(row.content)
        return found

    def sources(self, under: Sequence[str]) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = self._sources.under(under)
        return found

    def sources_of(self, ids: Sequence[str]) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = self._sources.of_ids(ids)
        return found

    def _delete(self, ids: Sequence[str]) -> int:
        contents = {row.content for row in self.get(ids, vectors=False).values()}
        gone = self._delete_rows(ids)
        # What was deleted is not to be seen. A kill in between leaves an image nobody asks for; compact drops it.
        self._thumbnails.drop(contents - self._held(contents))
        return gone
