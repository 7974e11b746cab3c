"""Writing the places of items: a further one is listed, one that is gone dropped, the row follows. Loads no torch."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from puma.index.interface import NewRow, Row, encoded_payload
from puma.index.places import implied
from puma.index.provenance import Place


class PlaceWriter(ABC):
    """The part of an engine that writes places, over its tables of places and sources. The caller holds the write lock,
    where there is one."""

    _places: Any
    _sources: Any

    @abstractmethod
    def get(self, ids: Sequence[str], vectors: bool = True) -> dict[str, Row]:
        """The rows of these ids, as :class:`puma.index.interface.Engine` has it."""

    @abstractmethod
    def _merge_rows(self, rows: Sequence[NewRow]) -> None:
        """Insert or replace by id: a retry after a kill must not leave a row twice."""

    def places(self, under: Sequence[str]) -> list[Place]:
        found: list[Place] = self._places.under(under)
        return found

    def _add_places(self, places: Sequence[Place]) -> list[Place]:
        """Those that were new. Where the payload is that of the whole item, only the source is remembered."""
        ids = {place.id for place in places}
        rows = self.get(sorted(ids), vectors=False)
        listed, held = self._places.of_ids(ids), _by_id(self._sources.of_ids(ids))
        added: list[Place] = []
        new: list[Place] = []
        pairs: list[tuple[str, str]] = []
        for place in places:
            row = rows.get(place.id)
            if row is None:  # deleted by another process meanwhile
                continue
            if not held.get(place.id) and place.source:
                held[place.id] = {""}  # it was given directly, and stays when its files go
                pairs.append(("", place.id))
            sources = held.setdefault(place.id, set())
            earlier = set(sources)
            if place.source not in sources and (place.source or sources):
                sources.add(place.source)
                pairs.append((place.source, place.id))
            payload = json.loads(place.payload)
            several = listed.get(place.id)
            if several is None:
                if payload == row.payload:
                    continue
                first = encoded_payload(row.payload, place.id)
                several = listed[place.id] = implied(place.id, first, earlier)
                new += several
            if not any(place.source == one.source and payload == json.loads(one.payload) for one in several):
                several.append(place)
                new.append(place)
                added.append(place)
        self._sources.note(pairs)
        self._places.put(new, {name: row.modality for name, row in rows.items()})
        return added

    def _drop_other_places(self, rows: Sequence[NewRow]) -> None:
        """Of rows that are about to be written: other content, or a payload that is none of an item's places, replaces
        them all; and places of an item that is not there are a leftover."""
        listed = self._places.of_ids(row.id for row in rows)
        if not listed:
            return
        stored = self.get(sorted(listed), vectors=False)
        gone = []
        for row in rows:
            before = stored.get(row.id)
            payloads = [json.loads(place.payload) for place in listed.get(row.id, ())]
            same = before is not None and before.content == row.content and json.loads(row.payload) in payloads
            if payloads and not same:
                gone.append(row.id)
        self._places.drop_ids(gone)

    def _follow_places(self, ids: Iterable[str]) -> None:
        """After places of these items went: each row takes the payload of a place that is left, and where all that are
        left say the same, nothing needs to be listed any more."""
        listed = self._places.of_ids(ids)
        rows = self.get(sorted(listed))
        moved: list[NewRow] = []
        alike: list[str] = []
        for name, places in listed.items():
            payloads = [json.loads(place.payload) for place in places]
            row = rows.get(name)
            if row is not None and row.payload not in payloads:
                moved.append(NewRow(name, row.vector, row.modality, places[0].payload, row.content, row.thumbnail))
            if row is None or all(payload == payloads[0] for payload in payloads):
                alike.append(name)
        if moved:
            self._merge_rows(moved)
        self._places.drop_ids(alike)


def _by_id(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for source, name in pairs:
        found.setdefault(name, set()).add(source)
    return found
