"""What was read, cut into portions: new records to embed together, and what is only counted. Loads no torch.

Held in memory: of the records of a portion the images' files, and of everything else that was read its id.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from puma.errors import ImageError, InputError
from puma.index import Index, Place, Row, Stamp
from puma.index.interface import PayloadJson, checked_ids, encoded_payload
from puma.items.digest import ID_LENGTH
from puma.items.encoder import Skip
from puma.items.item import TEXT
from puma.items.thumbnails import make_thumbnail
from puma.search.ingest.records import Finished, Found, Ignored, Note, Record, Same, is_text

HELD_BYTES = 128 * 2**20
"""A batch ends early when the images' files that it holds take more than this."""
LOOKED_UP = 64
"""Records looked up in the index at once, at least, so that few fresh ones among many do not mean many look-ups."""
REPEATS_HELD = 10_000
"""A batch ends early when so many repetitions wait for it."""

_DIGEST = re.compile(f"[0-9a-f]{{{ID_LENGTH}}}")

Pair = tuple[str, str]
"""A source and the id of something that was read from it."""


@dataclass(frozen=True)
class Repeat:
    """Another place of something that this run has met before; whether that could be read shows later."""

    place: Place
    skip: Skip


@dataclass
class Portion:
    """Part of what was read: what is to be embedded and stored, and what is only to be counted."""

    fresh: list[Record] = field(default_factory=list)
    changed: list[tuple[Record, np.ndarray]] = field(default_factory=list)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    finished: list[Stamp] = field(default_factory=list)
    present: int = 0
    repeated: int = 0
    ignored: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    def entries(self) -> int:
        """How many of what was read are dealt with here."""
        return len(self.fresh) + len(self.repeats) + self.present + self.repeated + self.ignored + len(self.skips)


class PortionReader:
    """Cuts what is found into portions: what the index has is only counted, what it has not is gathered into batches.

    Args:
        index: what is stored.
        batch_size: records of a portion that are to be embedded, at most.
        known: pairs of source and id that the index has already.
        failed: reasons by id of what could not be embedded; the writer of portions adds to them.
    """

    def __init__(self, index: Index, batch_size: int, known: set[Pair], failed: dict[str, str]) -> None:
        self.index, self.batch_size, self.known, self.failed = index, batch_size, known, failed
        self.seen: dict[str, tuple[str, str] | None] = {}
        self.unsure: list[Record] = []
        self.fresh: list[Record] = []
        self.thumbnails: dict[str, bytes] = {}
        self.counted = Portion()
        self.repeats: list[Repeat] = []
        self.finished: list[Stamp] = []
        self.held = 0

    def portions(self, found: Iterable[Found]) -> Generator[Portion]:
        entries = iter(found)
        try:
            for entry in entries:
                self._take(entry)
                full = len(self.unsure) + len(self.fresh) >= self.batch_size
                if (full and len(self.unsure) >= min(LOOKED_UP, self.batch_size)) or self.held > HELD_BYTES:
                    self._look_up()
                    if len(self.fresh) >= self.batch_size or self.held > HELD_BYTES:
                        yield self._portion(self.batch_size)
                    elif self.counted.entries():
                        yield self._portion(0)
                elif self.counted.entries() >= self.batch_size:
                    yield self._portion(0)
                elif len(self.repeats) >= REPEATS_HELD:
                    self._look_up()
                    yield self._portion(self.batch_size)
            self._look_up()
            while self.fresh or self.counted.entries() or self.repeats or self.finished:
                yield self._portion(self.batch_size)
        finally:
            close = getattr(entries, "close", None)
            if close is not None:
                close()

    def _take(self, entry: Found) -> None:
        if isinstance(entry, Finished):
            self.finished += [entry.stamp] if entry.stamp is not None else []
            return
        if isinstance(entry, Same):
            self._take_same(entry)
            return
        if isinstance(entry, Ignored):
            self.counted.ignored += 1
            self.counted.reasons[entry.reason] += 1
            return
        if isinstance(entry, Note):
            self.counted.notes.append(str(entry))
            return
        if isinstance(entry, Skip):
            self.counted.skips.append(entry)
            return
        if entry.source is not None and not is_text(entry.source):
            self.counted.skips.append(entry.skipped("the file's name is not valid Unicode; rename it"))
            return
        if entry.id in self.failed:
            self.counted.skips.append(entry.skipped(self.failed[entry.id]))
            return
        try:
            checked_ids([entry.id])
            if entry.payload_json is None:
                entry = replace(entry, payload_json=PayloadJson(encoded_payload(entry.payload, entry.id)))
        except InputError as error:
            self.counted.skips.append(entry.skipped(str(error)))
            return
        if entry.id in self.seen:
            before = self.seen[entry.id]
            content, where = before if before is not None else (entry.id, "")
            if entry.content != content:
                also = f" is also at {where}" if where else " is that of another item"
                self.counted.skips.append(entry.skipped(f"id {entry.id!r}{also}, with other content"))
                return
            self.repeats.append(Repeat(place_of(entry), entry.skipped("")))
            return
        # An id that is the content's digest needs nothing beside it: half the memory of a long list.
        self.seen[entry.id] = None if entry.id == entry.content else (entry.content, entry.where)
        self.unsure.append(entry)
        self.held += entry.held_bytes()

    def _take_same(self, entry: Same) -> None:
        named = [name for name in entry.ids if name not in self.seen and not _DIGEST.fullmatch(name)]
        rows = self.index.get(named, vectors=False) if named else {}
        for name in entry.ids:
            if name in self.seen:
                self.counted.repeated += 1
            else:
                self.counted.present += 1
                self.seen[name] = (rows[name].content, entry.source) if name in rows else None

    def _look_up(self) -> None:
        records, self.unsure = self.unsure, []
        stored = self.index.get([record.id for record in records], vectors=False)
        changed: list[Record] = []
        for record in records:
            row = stored.get(record.id)
            fresh = row is None or row.content != record.content
            with_image = record.item.modality != TEXT
            # Of an index made before there were thumbnails, or one filled by hand.
            lacking = with_image and row is not None and not fresh and not row.thumbnail
            if with_image and (fresh or lacking):
                try:
                    self.thumbnails[record.id] = make_thumbnail(record.loaded_item.image)  # type: ignore[arg-type]
                except ImageError as error:
                    lacking = False
                    if fresh:
                        self.failed[record.id] = str(error)
                        self.counted.skips.append(record.skipped(str(error)))
                        continue
            if fresh:
                self.fresh.append(record)
                continue
            assert row is not None
            self.counted.present += 1
            record = replace(record, file=None)  # its vector is there: nothing of the file is needed
            same = record.payload == row.payload
            if lacking or (record.replaces and not same):
                changed.append(record if same or record.replaces else _as_stored(record, row))
            if not record.replaces and not (same and (record.source, record.id) in self.known):
                self.counted.places.append(place_of(record))
        rows = self.index.get([record.id for record in changed]) if changed else {}
        self.counted.changed += [(record, rows[record.id].vector) for record in changed if record.id in rows]
        self.held = sum(record.held_bytes() for record in self.fresh)

    def _portion(self, size: int) -> Portion:
        portion, self.counted = self.counted, Portion()
        portion.fresh, self.fresh = self.fresh[:size], self.fresh[size:]
        self.held = sum(record.held_bytes() for record in (*self.unsure, *self.fresh))
        changed = [record for record, _ in portion.changed]
        for record in (*portion.fresh, *changed):
            if record.id in self.thumbnails:
                portion.thumbnails[record.id] = self.thumbnails.pop(record.id)
        # A second place of something that is not stored yet waits until it is.
        waiting = {record.id for record in (*self.unsure, *self.fresh)}
        portion.repeats = [repeat for repeat in self.repeats if repeat.place.id not in waiting]
        self.repeats = [repeat for repeat in self.repeats if repeat.place.id in waiting]
        if not waiting:
            portion.finished, self.finished = self.finished, []
        return portion


def place_of(record: Record) -> Place:
    """Where a record was found, with its payload."""
    assert record.payload_json is not None
    return Place(record.source or "", record.id, record.payload_json.text)


def _as_stored(record: Record, row: Row) -> Record:
    """The record with the payload that its row has."""
    return replace(record, payload=row.payload, payload_json=PayloadJson(encoded_payload(row.payload, row.id)))
