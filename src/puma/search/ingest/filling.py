"""Records embedded and stored, batch after batch, so that a kill at any moment costs one batch of work. Loads no torch.

The next batch is read while the model works on this one; both are held in memory.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from puma.errors import InputError
from puma.index import Index, Stamp
from puma.items.ahead import one_ahead
from puma.items.encoder import BATCH, Batch, Embedded, Encoder, Skip, embed_batches
from puma.search.ingest.portions import Pair, Portion, PortionReader
from puma.search.ingest.records import Found


@dataclass
class Added:
    """What an ingest did.

    Args:
        embedded: items embedded and stored.
        present: items the index had already, with the same content; not embedded again.
        updated: of those present, the ones whose payload changed (or thumbnail was missing) and was rewritten.
        repeated: items that occurred before in the same ingest.
        places: further places of stored items that were kept: the same content elsewhere, or with other fields.
        ignored: files and folders inside folders that are not read.
        ignored_by: how many of them for each reason.
        notes: what should be known of files that were read: columns that look like images and are not used.
        deleted: items removed because the files that gave them give others now or (``sync``) are gone.
        kept: items that would have been removed, were it not that what they came from could not be read this time.
        skips: everything that could not be used, with the reason.
        ids: of items given directly (``Searcher.add``), one an item: its id, or None where it was skipped.
        new_places: source and id of the :attr:`places`.
    """

    embedded: int = 0
    present: int = 0
    updated: int = 0
    repeated: int = 0
    places: int = 0
    ignored: int = 0
    deleted: int = 0
    kept: int = 0
    ignored_by: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    new_places: set[Pair] = field(default_factory=set, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("embedded", "present", "updated", "repeated", "places", "ignored", "deleted", "kept")
        skips = [{"where": skip.where, "reason": skip.reason} for skip in self.skips]
        more = {"ignored_by": dict(self.ignored_by), "notes": self.notes, "skipped": len(skips), "skips": skips}
        return {name: getattr(self, name) for name in names} | more

    @property
    def nothing_readable(self) -> bool:
        """Whether there was something in the paths, and nothing of it could be used."""
        used = self.embedded + self.present + self.updated + self.repeated + self.places + self.deleted
        return not used and bool(self.skips or self.ignored)


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
    remember: Callable[[list[Stamp]], object] | None = None,
) -> Added:
    """Embed and store what is not in the index yet.

    Args:
        batch_size: items embedded and stored at once; when they are on the disk, the next ones are embedded.
        known: pairs of source and id that the index has already.
        total: about how many entries will be found, for the bar's time left.
        remember: called with what is to be remembered of files all of whose items are stored.
        on_batch: called with the counts so far whenever a batch is on the disk.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
    added, failed, faulty = Added(), dict[str, str](), set[str | None]()
    reading = PortionReader(index, batch_size, known or set(), failed)
    bar_of = tqdm(total=total, desc="embedding", unit="item", disable=not progress, smoothing=0.1)
    with bar_of as bar, closing(one_ahead(reading.portions(found))) as portions:
        for portion, embedded in _embedded(encoder, portions):
            _store(index, portion, embedded, added, failed)
            faulty.update(skip.source for skip in portion.skips)
            if remember is not None and portion.finished:
                remember([stamp for stamp in portion.finished if stamp.source not in faulty])
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


def _embedded(encoder: Encoder, portions: Iterable[Portion]) -> Iterator[tuple[Portion, Embedded]]:
    """Each portion with what its fresh records gave, in the order of reading: a repetition comes after what it
    repeats, and a file counts as read when all before it is stored."""
    drawn: deque[Portion] = deque()

    def batches() -> Iterator[Batch]:
        for portion in portions:
            drawn.append(portion)
            yield [record.loaded_item for record in portion.fresh], None

    for embedded in embed_batches(encoder, batches()):
        yield drawn.popleft(), embedded


def _store(index: Index, portion: Portion, embedded: Embedded, added: Added, failed: dict[str, str]) -> None:
    rows = list(portion.changed)
    if portion.fresh:
        vectors, readable, faults = embedded
        for place, reason in faults:
            failed[portion.fresh[place].id] = reason
            portion.skips.append(portion.fresh[place].skipped(reason))
        rows += [(record, vectors[place]) for place, record in enumerate(portion.fresh) if readable[place]]
    if rows:
        index.add(
            [record.id for record, _ in rows],
            np.stack([vector for _, vector in rows]),
            [record.item.modality for record, _ in rows],
            [record.payload_json for record, _ in rows],
            contents=[record.content for record, _ in rows],
            thumbnails=[portion.thumbnails.get(record.id) for record, _ in rows],
            sources=[record.source for record, _ in rows],
        )
    places = list(portion.places)
    for repeat in portion.repeats:
        if repeat.place.id in failed:
            portion.skips.append(replace(repeat.skip, reason=failed[repeat.place.id]))
            continue
        added.repeated += 1
        places.append(repeat.place)
    new = index.add_places(places)
    added.places += len(new)
    added.new_places.update((place.source, place.id) for place in new)
    added.embedded += len(rows) - len(portion.changed)
    added.updated += len(portion.changed)
    added.present += portion.present
    added.repeated += portion.repeated
    added.ignored += portion.ignored
    added.ignored_by += portion.reasons
    added.notes += portion.notes
    added.skips += portion.skips
