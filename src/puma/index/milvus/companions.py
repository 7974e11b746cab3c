"""What is stored beside the rows of an index on Milvus: images, sources, places and stamps, in one collection. Loads no
torch.

A row's key is a digest of what it says, so writing it again changes nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from puma.errors import InputError
from puma.index.filters import Filter
from puma.index.milvus.collections import TEXT, read_text, stored_text, within
from puma.index.milvus.connection import AT_ONCE, Server
from puma.index.milvus.expressions import below, expression, hexed, one_of, stored_fields, unhexed
from puma.index.milvus.names import companions_of
from puma.index.places import place_key
from puma.index.provenance import FileState, Place, Stamp
from puma.index.tables import parts_of

SOME_SECONDS, NONE_SECONDS = 60.0, 2.0
"""How long it is remembered that some items have several places, and, where reads need not see every write, that none
has: the first place of all that another client adds is seen so much later then."""


class Companion:
    """The rows of one kind.

    Args:
        server: of the index.
    """

    kind: str

    def __init__(self, server: Server) -> None:
        self.server = server
        self.collection = companions_of(server.address.name)

    def rows(self) -> int:
        """How many rows there are."""
        return self.server.count(self.collection, self._own())

    def _own(self, condition: str = "") -> str:
        own = f'kind == "{self.kind}"'
        return f"{own} and ({condition})" if condition else own

    def _where(self, condition: str, fields: Sequence[str]) -> Iterator[Any]:
        for page in self.server.rows(self.collection, self._own(condition), fields):
            yield from page

    def _where_any(self, column: str, values: Iterable[str], fields: Sequence[str]) -> Iterator[Any]:
        for part in parts_of(sorted(set(values)), AT_ONCE):
            yield from self._where(one_of(column, map(hexed, part)), fields)

    def _under(self, paths: Sequence[str], fields: Sequence[str]) -> Iterator[Any]:
        for part in parts_of(sorted(set(paths)), 50):
            yield from self._where(below("source", part, os.sep), fields)

    def _key(self, *parts: str) -> str:
        return self.kind + hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()[:40]

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        empty = {"vector": [0.0, 0.0], "kind": self.kind, "source": "", "item": "", "modality": "", "data": ""}
        for part in parts_of([{**empty, "fields": {}, **row} for row in rows], AT_ONCE):
            self.server.write(self.collection, part)

    def _drop(self, keys: Iterable[str]) -> int:
        """Remove rows by key; how many there were."""
        return self.server.drop(self.collection, keys)

    def values(self, column: str) -> set[str]:
        """Everything that stands in the column ``source`` or, by ``id`` or ``content``, in ``item``."""
        stored = "source" if column == "source" else "item"
        return {unhexed(row[stored]) for row in self._where("", [stored])}


class Thumbnails(Companion):
    """Small images by content digest."""

    kind = "t"

    def put(self, images: Mapping[str, bytes]) -> None:
        """Insert or replace.

        Raises:
            InputError: an image has more bytes than a server stores.
        """
        rows = []
        for content, image in images.items():
            data = base64.b64encode(image).decode()
            if len(data) > TEXT:
                most = TEXT * 3 // 4
                raise InputError(f"the thumbnail of {content!r:.80} has {len(image):,} bytes; Milvus stores {most:,}")
            rows.append({"key": self._key(content), "item": hexed(content), "data": data})
        self._write(rows)

    def get(self, content: str) -> bytes | None:
        """One image."""
        found = self.server.query(self.collection, one_of("key", [self._key(content)]), ["data"], 1)
        return base64.b64decode(found[0]["data"]) if found else None

    def present(self, contents: Sequence[str]) -> set[str]:
        """Which of these contents have an image."""
        names = {self._key(content): content for content in contents}
        found: set[str] = set()
        for part in parts_of(sorted(names), AT_ONCE):
            rows = self.server.query(self.collection, one_of("key", part), [], len(part))
            found |= {names[row["key"]] for row in rows}
        return found

    def drop(self, contents: Iterable[str]) -> int:
        """Remove images; how many there were."""
        return self._drop(map(self._key, contents))


class Sources(Companion):
    """Pairs of a source (a path) and an id that it gave."""

    kind = "s"

    def note(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Remember pairs."""
        fresh = sorted(set(pairs))
        self._write({"key": self._key(*pair), "source": hexed(pair[0]), "item": hexed(pair[1])} for pair in fresh)

    def of_ids(self, ids: Iterable[str]) -> set[tuple[str, str]]:
        """All pairs of these ids."""
        return set(map(_pair, self._where_any("item", ids, ["source", "item"])))

    def under(self, paths: Sequence[str]) -> set[tuple[str, str]]:
        """All pairs whose source is one of these paths or lies below one."""
        return set(map(_pair, self._under(paths, ["source", "item"])))

    def every(self) -> set[tuple[str, str]]:
        """All pairs."""
        return set(map(_pair, self._where("", ["source", "item"])))

    def orphaned_by(self, pairs: Iterable[tuple[str, str]]) -> set[str]:
        """The ids that no source would hold any more without these pairs. Pairs that are not there orphan nothing."""
        gone = set(pairs)
        known = self.of_ids({name for _, name in gone})
        return {name for _, name in known & gone} - {name for _, name in known - gone}

    def drop(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Remove pairs."""
        self._drop(self._key(*pair) for pair in pairs)

    def drop_ids(self, ids: Iterable[str]) -> int:
        """Remove all pairs of these ids; how many there were."""
        return self._drop(row["key"] for row in list(self._where_any("item", ids, [])))


class Places(Companion):
    """Places of the items that have several."""

    kind = "p"
    fields = ("source", "item", "data")

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._known: tuple[float, bool] | None = None

    def any(self) -> bool:
        """Whether any item has several; mostly none has."""
        known = self._known
        if known is None or time.monotonic() >= known[0]:
            found = bool(self.server.query(self.collection, self._own(), [], 1))
            none = 0.0 if self.server.is_strong else NONE_SECONDS
            known = self._known = time.monotonic() + (SOME_SECONDS if found else none), found
        return known[1]

    def forget(self) -> None:
        """Look anew the next time whether any item has several."""
        self._known = None

    def put(self, places: Iterable[Place], modalities: Mapping[str, str]) -> None:
        """Insert places, with the modalities of their items by id."""
        self.forget()
        self._write(
            {
                "key": self.kind + place_key(place),
                "source": hexed(place.source),
                "item": hexed(place.id),
                "modality": modalities[place.id],
                "data": stored_text(place.payload, place.id),
                "fields": within(stored_fields(json.loads(place.payload)), place.id),
            }
            for place in dict.fromkeys(places)
        )

    def of_ids(self, ids: Iterable[str]) -> dict[str, list[Place]]:
        """The places of those of these ids that have several, in a fixed order."""
        found: dict[str, list[Place]] = {}
        for place in sorted(map(_place, self._where_any("item", ids, self.fields))) if self.any() else ():
            found.setdefault(place.id, []).append(place)
        return found

    def under(self, paths: Sequence[str]) -> list[Place]:
        """Listed places whose source is one of these paths or lies below one."""
        return sorted(map(_place, self._under(paths, self.fields)))

    def ids_that_fit(self, where: Filter) -> list[str]:
        """The ids of which a listed place fits a checked filter."""
        if not self.any():
            return []
        return sorted({unhexed(row["item"]) for row in self._where(expression(where), ["item"])})

    def drop_ids(self, ids: Iterable[str]) -> int:
        """Remove all listed places of these ids; how many there were."""
        return self._drop(row["key"] for row in list(self._where_any("item", ids, [])))

    def drop_places(self, places: Iterable[Place]) -> int:
        """Remove single places; how many there were."""
        return self._drop(self.kind + place_key(place) for place in places)

    def faults(self) -> list[str]:
        """The ids of listed places that are not what was written."""
        rows = ((row["key"], _place(row)) for row in self._where("", self.fields))
        return [place.id for key, place in rows if key != self.kind + place_key(place)]


class Stamps(Companion):
    """What is remembered of sources that were read to their end."""

    kind = "f"

    def put(self, stamps: Sequence[Stamp]) -> None:
        """Insert or replace, by source. One of more files than fit into a row is left out: its source is read again."""
        rows = []
        for stamp in {stamp.source: stamp for stamp in stamps}.values():
            with contextlib.suppress(InputError):
                data = stored_text(_json(stamp), stamp.source)
                rows.append({"key": self._key(stamp.source), "source": hexed(stamp.source), "data": data})
        self._write(rows)

    def under(self, paths: Sequence[str]) -> dict[str, Stamp]:
        """By source, of those that are one of these paths or lie below one."""
        return {stamp.source: stamp for stamp in map(_stamp, self._under(paths, ["source", "data"]))}

    def drop(self, sources: Iterable[str]) -> int:
        """Forget these sources; how many there were."""
        return self._drop(map(self._key, sources))


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    return unhexed(row["source"]), unhexed(row["item"])


def _place(row: Mapping[str, Any]) -> Place:
    return Place(unhexed(row["source"]), unhexed(row["item"]), read_text(row["data"]))


def _json(stamp: Stamp) -> str:
    return json.dumps([stamp.files, stamp.ids, stamp.how])


def _stamp(row: Mapping[str, Any]) -> Stamp:
    files, ids, how = json.loads(read_text(row["data"]))
    return Stamp(unhexed(row["source"]), tuple(FileState(*state) for state in files), ids, how)
