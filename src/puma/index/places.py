"""Where an item's content was found, with which fields: one vector, any number of places. Loads no torch.

Most items have one payload, and it lies in their own row. Of an item that was found with different payloads, all
places are listed here, the one of its row among them; so an index without such items has no table of places, and pays
nothing. The caller holds the write lock around everything that writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from puma.index.companions import IDS_AT_ONCE, Companion, one_of
from puma.index.filters import Filter, as_sql, filter_fields, matches
from puma.index.interface import Hit, Row
from puma.index.provenance import Place
from puma.index.tables import PLACES, parts_of, place_schema, reading, writing

Payload = dict[str, Any]


class ListedPlaces(Protocol):
    """Any engine's table of places."""

    def of_ids(self, ids: Iterable[str]) -> dict[str, list[Place]]:
        """The places of those of these ids that have several, in a fixed order."""


class Places(Companion):
    """Places of the items that have several."""

    name = PLACES

    def put(self, places: Iterable[Place], modalities: Mapping[str, str]) -> None:
        """Insert places that are not there yet.

        Args:
            places: what is to be listed.
            modalities: of their items, by id.
        """
        import pyarrow as pa

        fresh = {place_key(place): place for place in places}
        if not fresh:
            return
        schema = place_schema()
        table = self._create(schema)
        seen = [filter_fields(json.loads(place.payload)) for place in fresh.values()]
        fields = pa.array([text for text, _ in seen], pa.string())
        batch = pa.table(
            {
                "key": list(fresh),
                "source": [place.source for place in fresh.values()],
                "id": [place.id for place in fresh.values()],
                "modality": [modalities[place.id] for place in fresh.values()],
                "payload": [place.payload for place in fresh.values()],
                "fields": pa.ExtensionArray.from_storage(schema.field("fields").type, fields),
                "tokens": pa.array([tokens for _, tokens in seen], pa.list_(pa.string())),
            },
            schema=schema,
        )
        merge = table.merge_insert("key").when_not_matched_insert_all()
        writing(self.folder, lambda: merge.execute(batch))

    def of_ids(self, ids: Iterable[str]) -> dict[str, list[Place]]:
        """The places of those of these ids that have several, in a fixed order."""
        found: dict[str, list[Place]] = {}
        if self.table is not None:
            for part in parts_of(sorted(set(ids)), IDS_AT_ONCE):
                for place in self._where(one_of("id", part)):
                    found.setdefault(place.id, []).append(place)
        return found

    def under(self, paths: Sequence[str]) -> list[Place]:
        """Listed places whose source is one of these paths or lies below one."""
        return [place for condition in self.conditions_under(paths) for place in self._where(condition)]

    def ids_that_fit(self, where: Filter) -> list[str]:
        """The ids of which a listed place fits a checked filter."""
        if self.table is None:
            return []
        condition = as_sql(where)

        def work() -> set[str]:
            return {name for part in self.columns(["id"], condition) for (name,) in part}

        return sorted(reading(self.folder, work))

    def drop_ids(self, ids: Iterable[str]) -> int:
        """Remove all listed places of these ids; how many there were."""
        return self._drop("id", ids)

    def drop_places(self, places: Iterable[Place]) -> int:
        """Remove single places; how many there were."""
        return self._drop("key", map(place_key, places))

    def faults(self) -> list[str]:
        """The ids of listed places that are not what was written."""
        rows = (row for part in self.columns(["key", "source", "id", "payload"]) for row in part)
        return [name for key, source, name, payload in rows if place_key(Place(source, name, payload)) != key]

    def _where(self, condition: str) -> list[Place]:
        def work() -> list[Place]:
            parts = self.columns(["source", "id", "payload"], condition)
            return sorted(Place(*row) for part in parts for row in part)

        return reading(self.folder, work)


def place_key(place: Place) -> str:
    """What a place is stored under: the digest of all that it says."""
    return hashlib.sha256("\0".join(place).encode("utf-8")).hexdigest()[:32]


def implied(name: str, payload: str, sources: Iterable[str]) -> list[Place]:
    """The places of an item that has none listed: all its sources gave the payload of its row; without sources it was
    given directly."""
    return [Place(source, name, payload) for source in sorted(sources) or [""]]


def other_payloads(first: Payload, places: Sequence[Place]) -> tuple[Payload, ...]:
    """The different payloads of an item's places beside ``first``."""
    found: list[Payload] = []
    for place in places:
        payload = json.loads(place.payload)
        if payload != first and payload not in found:
            found.append(payload)
    return tuple(found)


def with_other_payloads(rows: Sequence[Row], places: ListedPlaces) -> list[Row]:
    """Rows with the payloads of their listed places."""
    several = places.of_ids(row.id for row in rows) if rows else {}
    return [
        replace(row, other_payloads=other_payloads(row.payload, several[row.id])) if row.id in several else row
        for row in rows
    ]


def shown_hits(found: list[list[Hit]], places: ListedPlaces, where: Filter | None) -> list[list[Hit]]:
    """Hits with the payloads of their listed places: each is shown with the one that :func:`shown_payloads` says."""
    several = places.of_ids(hit.id for row in found for hit in row)

    def shown(hit: Hit) -> Hit:
        if hit.id not in several:
            return hit
        payload, others = shown_payloads(hit.modality, hit.payload, several[hit.id], where)
        return replace(hit, payload=payload, other_payloads=others)

    return [[shown(hit) for hit in row] for row in found] if several else found


def shown_payloads(
    modality: str, first: Payload, places: Sequence[Place], where: Filter | None
) -> tuple[Payload, tuple[Payload, ...]]:
    """The payload that a result is shown with, and the item's others: the first that fits the filter leads."""
    every = (first, *other_payloads(first, places))
    leading = next((payload for payload in every if matches(modality, payload, where)), first)
    return leading, tuple(payload for payload in every if payload is not leading)
