"""``puma.Searcher``: an encoder and an index joined, items in and ranked hits out.

Here: filling an index from items or from paths (progress, resume, counted skips), and asking it. Not here: reading
files (:mod:`puma.ingest`), storing (:mod:`puma.index`), models. Works with anything that has an
:class:`~puma.items.Encoder`'s methods.

Usage::

    import puma
    searcher = puma.Searcher(puma.Retriever.from_pretrained("runs/quickstart/model"), "pictures.index")
    searcher.add_paths(["~/Pictures", "captions.txt"])
    hits = searcher.search("a red fox in snow", k=5, modality="image")
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from puma.embedding import BATCH, Skip, embed_readable
from puma.errors import ImageError, InputError
from puma.index import Hit, Index
from puma.index.interface import checked_ids, checked_k, checked_modality, encoded_payload
from puma.ingest import Ignored, Record, content_digest, read_items
from puma.items import IMAGE, IMAGE_TEXT, TEXT, Encoder, Item, as_item

INSTRUCTIONS: dict[tuple[str, str | None], str] = {
    (TEXT, IMAGE): "Find a picture that shows this.",
    (TEXT, TEXT): "Find a text that means the same.",
    (TEXT, IMAGE_TEXT): "Find a captioned picture of this.",
    (TEXT, None): "Find what this describes.",
    (IMAGE, TEXT): "Find a text that describes this picture.",
    (IMAGE, IMAGE): "Find another picture of the same thing.",
    (IMAGE, IMAGE_TEXT): "Find a captioned picture of the same thing.",
    (IMAGE, None): "Find what this picture shows.",
    (IMAGE_TEXT, TEXT): "Find a text that fits the picture and the words.",
    (IMAGE_TEXT, IMAGE): "Find a picture like this one, changed as the words say.",
    (IMAGE_TEXT, IMAGE_TEXT): "Find a captioned picture that fits the picture and the words.",
    (IMAGE_TEXT, None): "Find what fits the picture and the words.",
}
"""The instruction a query gets if none is given, by its modality and the one searched for (None: any) and the
model brings none of its own (``Retriever.instructions``, those it was trained with)."""


@dataclass
class Added:
    """What an ingest did.

    Args:
        embedded: items embedded and stored.
        present: items the index had already, with the same content; not embedded again.
        updated: of those present, the ones whose payload changed and was rewritten.
        repeated: items that occurred before in the same ingest.
        ignored: files in folders that are no pictures.
        skips: everything that could not be used, with the reason.
    """

    embedded: int = 0
    present: int = 0
    updated: int = 0
    repeated: int = 0
    ignored: int = 0
    skips: list[Skip] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {name: getattr(self, name) for name in ("embedded", "present", "updated", "repeated", "ignored")}
        skips = [{"where": skip.where, "reason": skip.reason} for skip in self.skips]
        return counts | {"skipped": len(skips), "skips": skips}


class Searcher:
    """Embeds, stores and finds items.

    Args:
        encoder: a Retriever, or anything with its ``encode``, ``dim`` and ``fingerprint``.
        index: an Index or a folder's path.
        instructions: ``{(query modality, wanted modality or None): instruction}``, over :data:`INSTRUCTIONS`.

    Raises:
        IndexMismatchError: the index was made by another model.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: Index | str | os.PathLike[str],
        *,
        instructions: Mapping[tuple[str, str | None], str] | None = None,
    ) -> None:
        self.encoder = encoder
        # Reopened even if it is an Index: this is where model and index are compared.
        path = index.path if isinstance(index, Index) else Path(index).expanduser()
        self.index = Index(path, dim=encoder.dim, fingerprint=encoder.fingerprint)
        own: Mapping[tuple[str, str | None], str] = getattr(encoder, "instructions", {})
        # A model that was taught its questions never met the general ones; where any modality is welcome it gets none.
        general = {key: text for key, text in INSTRUCTIONS.items() if not own or key[1] is not None}
        self.instructions: dict[tuple[str, str | None], str] = {**general, **own, **(instructions or {})}

    def add_paths(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        batch_size: int = BATCH,
        progress: bool = True,
    ) -> Added:
        """Read, embed and store everything in these paths (see :func:`puma.ingest.read_items`). Each batch is safe on
        the disk before the next is embedded; after a kill, the same call goes on where it was.

        Raises:
            InputError: a path does not exist or is of no known kind; nothing was done then.
        """
        if isinstance(paths, (str, os.PathLike)):
            paths = [paths]
        # Listed first, so that the bar knows how much is left; pictures stay on the disk meanwhile.
        found = read_items([Path(path).expanduser() for path in paths])
        listing = tqdm(found, desc="reading", unit="item", disable=not progress)
        return self._add(list(listing), batch_size, progress)

    def add(
        self,
        items: Iterable[Any],
        ids: Sequence[str] | None = None,
        payloads: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> Added:
        """Embed and store items.

        Args:
            items: whatever :func:`puma.items.as_item` takes.
            ids: one per item; the digest of its content if None.
            payloads: one dict per item, or None.

        Raises:
            InputError: lengths differ, an id is unfit or occurs twice, an item is none.
        """
        rows = [as_item(item) for item in items]
        if ids is not None:
            ids = checked_ids(ids)
        for name, given in (("ids", ids), ("payloads", payloads)):
            if given is not None and len(given) != len(rows):
                raise InputError(f"{name} must be as many as the items: {len(rows)}, got {len(given)}")
        found: list[Record | Skip | Ignored] = []
        for place, item in enumerate(rows):
            where = f"items[{place}]" if ids is None else f"items[{place}] ({ids[place]})"
            try:
                content = content_digest(item)
            except ImageError as error:
                found.append(Skip(where, str(error)))
                continue
            given_payload = payloads[place] if payloads is not None else None
            # As JSON gives it back (lists for tuples), to be comparable with what is stored.
            payload = json.loads(encoded_payload(given_payload or _payload(item), where))
            found.append(Record(content if ids is None else ids[place], item, payload, content, where))
        return self._add(found, batch_size, progress)

    def search(
        self,
        query: Any,
        k: int = 10,
        modality: str | None = None,
        instruction: str | None = None,
        *,
        exact: bool = False,
    ) -> list[Hit]:
        """The k best matches of a query: a string (always text), a picture, a Path to one, a dict with ``text`` and
        ``image``, or an Item.

        Args:
            modality: only matches of this modality.
            instruction: instead of the default; an empty string for none.

        Raises:
            InputError: the query is none, k is below 1, or the modality is unknown.
            ImageError: its picture is unreadable.
        """
        return self.search_many([query], k, modality, instruction, exact=exact)[0]

    def search_many(
        self,
        queries: Sequence[Any],
        k: int = 10,
        modality: str | None = None,
        instruction: str | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """As :meth:`search`, for many queries: they are embedded together."""
        k = checked_k(k)
        checked_modality(modality)
        if isinstance(queries, (str, bytes, os.PathLike, Mapping, Item)):
            raise InputError("search_many takes a sequence of queries; for a single one use search")
        items = [as_item(query) for query in queries]
        vectors = np.zeros((len(items), self.encoder.dim), dtype=np.float32)
        groups: dict[str | None, list[int]] = {}
        for place, item in enumerate(items):
            text = self.instructions.get((item.modality, modality)) if instruction is None else instruction
            groups.setdefault(text or None, []).append(place)
        for text, places in groups.items():
            vectors[places] = self.encoder.encode([items[place] for place in places], instruction=text)
        return self.index.search(vectors, k, modality, exact=exact)

    def _add(self, found: Sequence[Record | Skip | Ignored], batch_size: int, progress: bool) -> Added:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        added = Added()
        records = list(_fresh(found, added))
        with tqdm(total=len(records), desc="embedding", unit="item", disable=not progress, smoothing=0.1) as bar:
            for start in range(0, len(records), batch_size):
                batch = records[start : start + batch_size]
                self._add_batch(batch, added)
                bar.update(len(batch))
        if added.embedded or added.updated:
            self.index.optimize()
        return added

    def _add_batch(self, batch: Sequence[Record], added: Added) -> None:
        stored = self.index.get([record.id for record in batch])
        fresh, changed = [], []
        for record in batch:
            row = stored.get(record.id)
            if row is None or row.content != record.content:
                fresh.append(record)
            else:
                added.present += 1
                if row.payload != record.payload:
                    changed.append(record)
        rows = [(record, stored[record.id].vector) for record in changed]
        if fresh:
            vectors, readable, faults = embed_readable(self.encoder, [record.item for record in fresh])
            added.skips += [Skip(fresh[place].where, reason) for place, reason in faults]
            rows += [(record, vectors[place]) for place, record in enumerate(fresh) if readable[place]]
        if not rows:
            return
        self.index.add(
            [record.id for record, _ in rows],
            np.stack([vector for _, vector in rows]),
            [record.item.modality for record, _ in rows],
            [record.payload for record, _ in rows],
            contents=[record.content for record, _ in rows],
        )
        added.updated += len(changed)
        added.embedded += len(rows) - len(changed)


def _fresh(found: Iterable[Record | Skip | Ignored], added: Added) -> Iterator[Record]:
    """The records that are to be looked at, each id once; the others are counted."""
    seen: dict[str, Record] = {}
    for entry in found:
        if isinstance(entry, Ignored):
            added.ignored += 1
        elif isinstance(entry, Skip):
            added.skips.append(entry)
        elif entry.id in seen:
            if entry.content == seen[entry.id].content:
                added.repeated += 1
            else:
                reason = f"id {entry.id!r} is also at {seen[entry.id].where}, with other content"
                added.skips.append(Skip(entry.where, reason))
        else:
            try:
                checked_ids([entry.id])
                encoded_payload(entry.payload, entry.id)
            except InputError as error:
                added.skips.append(Skip(entry.where, str(error)))
                continue
            seen[entry.id] = entry
            yield entry


def _payload(item: Item) -> dict[str, Any]:
    payload = {} if item.text is None else {"text": item.text}
    if isinstance(item.image, (str, os.PathLike)):
        payload["image"] = str(Path(item.image).absolute())
    return payload
