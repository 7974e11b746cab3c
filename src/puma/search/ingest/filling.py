"""Records embedded and stored, batch after batch, so that a kill at any moment costs one batch of work.

Here: :class:`Added`, telling what is there already, making thumbnails, reading the next batch while the model works on
this one, progress. Not here: reading files (:mod:`puma.search.ingest.reading`), deleting what vanished
(:mod:`puma.search.ingest.syncing`), storing (:mod:`puma.index`). Nothing in this module loads torch.

Held in memory: the batch in work, the next one, and of everything else that was read its id.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from puma.errors import ImageError, InputError
from puma.index import Index
from puma.index.interface import checked_ids, encoded_payload
from puma.items.encoder import BATCH, Encoder, Skip, embed_readable
from puma.items.item import TEXT
from puma.items.thumbnails import make_thumbnail
from puma.search.ingest.records import Found, Ignored, Record, is_text

HELD_BYTES = 128 * 2**20
"""A batch ends early when the images that it holds as bytes (Parquet's, PDF's) take more than this."""
LOOKED_UP = 64
"""Records asked for in the index at once, at least, so that few fresh ones among many do not mean many questions."""

REPEATS_HELD = 10_000
"""A batch ends early when so many repetitions wait for it."""

Pair = tuple[str, str]
"""A source and the id of something that was read from it."""


@dataclass
class Added:
    """What an ingest did.

    Args:
        embedded: items embedded and stored.
        present: items the index had already, with the same content; not embedded again.
        updated: of those present, the ones whose payload changed (or thumbnail was missing) and was rewritten.
        repeated: items that occurred before in the same ingest.
        ignored: files in folders that are no images.
        deleted: items removed because nothing in the paths is them any more (``sync``).
        kept: items that would have been removed, were it not that what they came from could not be read this time.
        skips: everything that could not be used, with the reason.
        ids: of items given directly (``Searcher.add``), one an item: its id, or None where it was skipped.
    """

    embedded: int = 0
    present: int = 0
    updated: int = 0
    repeated: int = 0
    ignored: int = 0
    deleted: int = 0
    kept: int = 0
    skips: list[Skip] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("embedded", "present", "updated", "repeated", "ignored", "deleted", "kept")
        skips = [{"where": skip.where, "reason": skip.reason} for skip in self.skips]
        return {name: getattr(self, name) for name in names} | {"skipped": len(skips), "skips": skips}


@dataclass(frozen=True)
class Repeat:
    """Another place of something that this run has met before; whether that could be read shows later."""

    id: str
    source: str | None
    skip: Skip


@dataclass
class Portion:
    """Part of what was read: what is to be embedded and stored, and what is only to be counted."""

    fresh: list[Record] = field(default_factory=list)
    changed: list[tuple[Record, np.ndarray]] = field(default_factory=list)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    present: int = 0
    ignored: int = 0
    skips: list[Skip] = field(default_factory=list)

    def entries(self) -> int:
        """How many of what was read are dealt with here."""
        return len(self.fresh) + len(self.repeats) + self.present + self.ignored + len(self.skips)


def fill(
    encoder: Encoder,
    index: Index,
    found: Iterable[Found],
    *,
    batch_size: int = BATCH,
    known: set[Pair] | None = None,
    total: int | None = None,
    progress: bool = False,
    on_batch: Callable[[Added], object] | None = None,
) -> Added:
    """Embed and store what is not in the index yet.

    Args:
        batch_size: items embedded and stored at once; when they are on the disk, the next ones are embedded.
        known: pairs of source and id that the index has already.
        total: about how many entries will be found, for the bar's time left.
        on_batch: called with the counts so far whenever a batch is on the disk.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
    added, failed = Added(), dict[str, str]()
    reading = _Reading(index, batch_size, known or set(), failed)
    bar_of = tqdm(total=total, desc="embedding", unit="item", disable=not progress, smoothing=0.1)
    with bar_of as bar, closing(_ahead(reading.portions(found))) as portions:
        for portion in portions:
            _store(encoder, index, portion, added, failed)
            # What costs nothing leaves the bar's total: rate and time left are those of embedding.
            if bar.total is not None:
                bar.total = max(bar.total - (portion.entries() - portion.ignored - len(portion.fresh)), 0)
            bar.update(len(portion.fresh))
            if added.present:
                bar.set_postfix_str(f"{added.present} there already", refresh=False)
            if on_batch is not None:
                on_batch(added)
        if bar.total is not None:
            bar.total = bar.n  # the count was an estimate
    return added


def _store(encoder: Encoder, index: Index, portion: Portion, added: Added, failed: dict[str, str]) -> None:
    rows = list(portion.changed)
    if portion.fresh:
        vectors, readable, faults = embed_readable(
            encoder, [record.item for record in portion.fresh], batch_size=len(portion.fresh)
        )
        for place, reason in faults:
            failed[portion.fresh[place].id] = reason
            portion.skips.append(portion.fresh[place].skipped(reason))
        rows += [(record, vectors[place]) for place, record in enumerate(portion.fresh) if readable[place]]
    if rows:
        index.add(
            [record.id for record, _ in rows],
            np.stack([vector for _, vector in rows]),
            [record.item.modality for record, _ in rows],
            [record.payload for record, _ in rows],
            contents=[record.content for record, _ in rows],
            thumbnails=[portion.thumbnails.get(record.id) for record, _ in rows],
            sources=[record.source for record, _ in rows],
        )
    pairs = list(portion.pairs)
    for repeat in portion.repeats:
        if repeat.id in failed:
            portion.skips.append(replace(repeat.skip, reason=failed[repeat.id]))
            continue
        added.repeated += 1
        if repeat.source is not None:
            pairs.append((repeat.source, repeat.id))
    if pairs:
        index.note_sources(pairs)
    added.embedded += len(rows) - len(portion.changed)
    added.updated += len(portion.changed)
    added.present += portion.present
    added.ignored += portion.ignored
    added.skips += portion.skips


class _Reading:
    """Cuts what is found into portions: what the index has is told apart, what it has not is gathered into batches."""

    def __init__(self, index: Index, batch_size: int, known: set[Pair], failed: dict[str, str]) -> None:
        self.index, self.batch_size, self.known, self.failed = index, batch_size, known, failed
        self.seen: dict[str, tuple[str, str] | None] = {}
        self.unsure: list[Record] = []
        self.fresh: list[Record] = []
        self.thumbnails: dict[str, bytes] = {}
        self.told = Portion()
        self.repeats: list[Repeat] = []
        self.noted: set[Pair] = set()
        self.held = 0

    def portions(self, found: Iterable[Found]) -> Iterator[Portion]:
        entries = iter(found)
        try:
            for entry in entries:
                self._take(entry)
                full = len(self.unsure) + len(self.fresh) >= self.batch_size
                if (full and len(self.unsure) >= min(LOOKED_UP, self.batch_size)) or self.held > HELD_BYTES:
                    self._look_up()
                    if len(self.fresh) >= self.batch_size or self.held > HELD_BYTES:
                        yield self._portion(self.batch_size)
                    elif self.told.entries():
                        yield self._portion(0)
                elif self.told.entries() >= self.batch_size:
                    yield self._portion(0)
                elif len(self.repeats) >= REPEATS_HELD:
                    self._look_up()
                    yield self._portion(self.batch_size)
            self._look_up()
            while self.fresh or self.told.entries() or self.repeats:
                yield self._portion(self.batch_size)
        finally:
            close = getattr(entries, "close", None)
            if close is not None:
                close()

    def _take(self, entry: Found) -> None:
        if isinstance(entry, Ignored):
            self.told.ignored += 1
            return
        if isinstance(entry, Skip):
            self.told.skips.append(entry)
            return
        if entry.source is not None and not is_text(entry.source):
            self.told.skips.append(entry.skipped("the file's name is not valid Unicode; rename it"))
            return
        if entry.id in self.failed:
            self.told.skips.append(entry.skipped(self.failed[entry.id]))
            return
        if entry.id in self.seen:
            before = self.seen[entry.id]
            content, where = before if before is not None else (entry.id, "")
            if entry.content != content:
                also = f" is also at {where}" if where else " is that of another item"
                self.told.skips.append(entry.skipped(f"id {entry.id!r}{also}, with other content"))
                return
            source = entry.source if self._is_new(entry) else None
            self.repeats.append(Repeat(entry.id, source, entry.skipped("")))
            return
        try:
            checked_ids([entry.id])
            encoded_payload(entry.payload, entry.id)
        except InputError as error:
            self.told.skips.append(entry.skipped(str(error)))
            return
        # An id that is the content's digest needs nothing beside it: half the memory of a long list.
        self.seen[entry.id] = None if entry.id == entry.content else (entry.content, entry.where)
        self.unsure.append(entry)
        self.held += _bytes(entry)

    def _is_new(self, record: Record) -> bool:
        """Whether the index has yet to be told that this source gives this id; True once."""
        pair = (record.source or "", record.id)
        if record.source is None or pair in self.known or pair in self.noted:
            return False
        self.noted.add(pair)
        return True

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
                    self.thumbnails[record.id] = make_thumbnail(record.item.image)  # type: ignore[arg-type]
                except ImageError as error:
                    lacking = False
                    if fresh:
                        self.failed[record.id] = str(error)
                        self.told.skips.append(record.skipped(str(error)))
                        continue
            if fresh:
                self.fresh.append(record)
                continue
            assert row is not None
            self.told.present += 1
            if row.payload != record.payload or lacking:
                changed.append(record)
            elif self._is_new(record):
                self.told.pairs.append((record.source or "", record.id))
        rows = self.index.get([record.id for record in changed]) if changed else {}
        self.told.changed += [(record, rows[record.id].vector) for record in changed if record.id in rows]
        self.held = sum(map(_bytes, self.fresh))

    def _portion(self, size: int) -> Portion:
        portion, self.told = self.told, Portion()
        portion.fresh, self.fresh = self.fresh[:size], self.fresh[size:]
        self.held = sum(map(_bytes, (*self.unsure, *self.fresh)))
        changed = [record for record, _ in portion.changed]
        for record in (*portion.fresh, *changed):
            if record.id in self.thumbnails:
                portion.thumbnails[record.id] = self.thumbnails.pop(record.id)
        # A second place of something that is not stored yet waits until it is.
        waiting = {record.id for record in (*self.unsure, *self.fresh)}
        portion.repeats = [repeat for repeat in self.repeats if repeat.id not in waiting]
        self.repeats = [repeat for repeat in self.repeats if repeat.id in waiting]
        return portion


def _bytes(record: Record) -> int:
    return len(record.item.image) if isinstance(record.item.image, bytes) else 0


def _ahead(portions: Iterator[Portion]) -> Generator[Portion]:
    """Each portion, while the next is being read on another thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="puma-reading") as pool:
        try:
            coming = pool.submit(next, portions, None)
            while (portion := coming.result()) is not None:
                coming = pool.submit(next, portions, None)
                yield portion
        finally:
            coming.cancel()
            pool.submit(getattr(portions, "close", lambda: None)).result()
