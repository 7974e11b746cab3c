"""Changing an index's model while it is searched: a new generation is filled beside the one that serves, compared with
it, and takes its place in one step. Loads no torch.

Every batch is on the disk before the next is embedded, and what is there already is not embedded again: after a kill
the same call goes on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from puma.errors import ImageError, InputError, StorageError
from puma.index import Index, Row
from puma.index.addresses import generations_of
from puma.index.generations import Generation, Generations
from puma.index.interface import Engine
from puma.index.tables import parts_of
from puma.items.encoder import BATCH, Encoder, Skip, embed_readable
from puma.items.item import Item
from puma.search.ingest.documents import page_item
from puma.search.originals import NoOriginalError, original

PROBED = 50
"""Rows that must find themselves before a new generation takes over."""
FOUND = 0.999


@dataclass
class Migrated:
    """What a migration did.

    Args:
        embedded: items embedded by this call.
        present: items that an earlier call had embedded.
        from_thumbnails: of those embedded, the ones whose image file is gone or has changed.
        skips: items that cannot be made anew, with the reason.
        generation: the new one's number; 0 while it has not taken over.
    """

    embedded: int = 0
    present: int = 0
    from_thumbnails: int = 0
    skips: list[Skip] = field(default_factory=list)
    generation: int = 0


def migrate(
    address: str | os.PathLike[str],
    encoder: Encoder,
    model: str,
    *,
    batch_size: int = BATCH,
    leave_out: bool = False,
    progress: bool = True,
) -> Migrated:
    """Embed everything in an index with another model, and let that take its place.

    Texts are those of the payloads; images are read from their files, as long as those are what was indexed, else from
    the index's own thumbnails. What others add or remove meanwhile is followed; for the last rows and the change itself
    they wait.

    Args:
        address: of a folder, on Milvus, or in an object store.
        encoder: the new model.
        model: what to load it from, for those who follow: a folder or a name on the hub.
        batch_size: items embedded and stored at once.
        leave_out: take over though some items cannot be made anew; they are lost then.
        progress: a bar with rate and time left on stderr.

    Raises:
        InputError: the index is none that can be migrated, has this model already, another migration is under way, or
            (with ``leave_out`` False) items cannot be made anew. Nothing was changed then.
        StorageError: the new generation is not what it should be; the old one stays.
    """
    generations = generations_of(address)
    old, shown = Index(address, create=False), generations.shown
    if old.fingerprint == encoder.fingerprint:
        raise InputError(f"{shown}: holds the vectors of this model already ({encoder.fingerprint})")
    target = _target(generations, model, encoder.fingerprint)
    used = generations.current()
    made = generations.make(target, encoder.dim)
    work = _Work(generations, used, made, old, encoder, batch_size)
    with tqdm(total=len(old), desc="migrating", unit="item", disable=not progress, smoothing=0.1) as bar:
        while work.turn(bar) > batch_size:
            pass  # more came meanwhile: another turn, while others may still write
        made.optimize()
        work.check(made.verify())
        with generations.closed(used):
            work.turn(bar)
            if work.done.skips and not leave_out:
                raise _refusal(shown, work.done)
            work.finish()
            generations.switch(target)
    work.done.generation = target.number
    return work.done


def _target(generations: Generations, model: str, fingerprint: str) -> Generation:
    under_way = generations.filling()
    if under_way is not None and under_way.number > generations.current().number:
        if under_way.fingerprint != fingerprint:
            raise InputError(
                f"{generations.shown}: a migration to {under_way.model or under_way.fingerprint} is under way; go on "
                "with that model, or drop it with --abandon"
            )
        return under_way
    return generations.begin(model, fingerprint)


def _refusal(shown: str, done: Migrated) -> InputError:
    first = "; ".join(f"{skip.where}: {skip.reason}" for skip in done.skips[:3])
    return InputError(
        f"{shown}: {len(done.skips)} items cannot be made anew ({first}); the old model goes on. Bring their files "
        "back and repeat, or leave them out with --leave-out"
    )


class _Work:
    """The turns of one migration."""

    def __init__(
        self, generations: Generations, used: Generation, made: Engine, old: Index, encoder: Encoder, batch_size: int
    ) -> None:
        self.generations, self.used, self.made, self.source = generations, used, made, generations.open(used)
        self.old, self.encoder, self.batch_size = old, encoder, batch_size
        self.done = Migrated()

    def turn(self, bar: tqdm) -> int:
        """Embed what the new generation lacks; how many items that were."""
        self.done.skips = []
        embedded = present = 0
        for rows in self.source.scan(self.batch_size, False):
            there = self.made.get([row.id for row in rows], vectors=False)
            missing = [row for row in rows if not _same(row, there.get(row.id))]
            present += len(rows) - len(missing)
            if missing:
                embedded += self._embed(missing)
            if bar.n + len(rows) <= (bar.total or 0):
                bar.update(len(rows))
        if not self.done.embedded:
            self.done.present = present
        self.done.embedded += embedded
        return embedded

    def finish(self) -> None:
        """Take over what lies beside the rows, drop rows that are gone, and compare both generations' rows.

        Raises:
            StorageError: they differ, or rows do not find themselves.
        """
        names = {row.id for rows in self.source.scan(4096, False) for row in rows}
        there = {row.id for rows in self.made.scan(4096, False) for row in rows}
        lost = {skip.where for skip in self.done.skips}
        if self.generations.current().number != self.used.number:  # without a lock these rows may be newer than that
            raise self.generations.superseded()
        for part in parts_of(sorted(there - names), 500):
            self.made.delete(part)
        self.made.take_companions(self.source, names - lost)
        missing = len(names - there - lost)
        self.check([f"{missing} rows are missing"] if missing else self._unfound())

    def check(self, faults: Sequence[str]) -> None:
        """Raise StorageError if there are any."""
        if faults:
            raise StorageError(
                f"{self.generations.shown}: the new generation is not sound ({'; '.join(faults[:3])}); repeat"
            )

    def _unfound(self) -> list[str]:
        probes = self.made.page(PROBED, None, None, None)
        if not probes:
            return []
        found = self.made.search(np.stack([row.vector for row in probes]), 1, None, None, False)
        lost = [row.id for row, hits in zip(probes, found, strict=True) if not hits or hits[0].score < FOUND]
        return [f"{len(lost)} rows do not find themselves"] if lost else []

    def _embed(self, rows: Sequence[Row]) -> int:
        usable: list[tuple[Row, Item, bool]] = []
        for row in rows:
            try:
                usable.append((row, *self._item(row)))
            except (ImageError, InputError) as error:
                self.done.skips.append(Skip(row.id, str(error)))
        if not usable:
            return 0
        vectors, readable, faults = embed_readable(self.encoder, [item for _, item, _ in usable])
        self.done.skips += [Skip(usable[place][0].id, reason) for place, reason in faults]
        kept = [(row, vectors[place], small) for place, (row, _, small) in enumerate(usable) if readable[place]]
        if kept:
            self.made.put_copies([row for row, _, _ in kept], np.stack([vector for _, vector, _ in kept]), self.source)
        self.done.from_thumbnails += sum(small for _, _, small in kept)
        return len(kept)

    def _item(self, row: Row) -> tuple[Item, bool]:
        """What a row was made of, and whether its image is only the thumbnail.

        Raises:
            InputError: neither text nor image is to be had. ImageError: its page cannot be rendered.
        """
        text = row.payload.get("text")
        text = text if isinstance(text, str) and "text" in row.modality else None
        if row.modality == "text":
            if text is None:
                raise InputError("its text is not in the index")
            return Item(text), False
        small = False
        try:
            file = original(self.old, row.id)
            if file.media_type == "application/pdf":
                return page_item(file.data, int(row.payload["page"])), False
            image: bytes | None = file.data
        except NoOriginalError as error:
            small, image, reason = True, self.old.thumbnail(row.id), str(error)
            if image is None:
                raise InputError(f"{reason}; and there is no thumbnail") from None
        if "text" in row.modality and text is None:
            raise InputError("its text is not in the index")
        return Item(text, image), small


def _same(row: Row, other: Row | None) -> bool:
    return other is not None and (row.content, row.payload, row.modality) == (
        other.content,
        other.payload,
        other.modality,
    )
