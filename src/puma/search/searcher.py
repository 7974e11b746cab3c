"""``puma.Searcher``: an encoder and an index joined, items in and ranked hits out.

Here: filling an index from items or from paths, and asking it. Not here: reading files and the batches of an ingest
(:mod:`puma.search.ingest`), storing (:mod:`puma.index`), models. Works with anything that has an
:class:`~puma.items.Encoder`'s methods.

Usage::

    import puma
    searcher = puma.Searcher(puma.Retriever.from_pretrained("runs/quickstart/model"), "images.index")
    searcher.add_paths(["~/Images", "captions.txt"])
    hits = searcher.search("a red fox in snow", k=5, modality="image")
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import ImageError, InputError
from puma.index import Hit, Index
from puma.index.interface import checked_ids, checked_k, checked_modality, encoded_payload
from puma.items.encoder import BATCH, Encoder, Skip
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT, Item, as_item
from puma.search.ingest import Record, content_digest, count_items
from puma.search.ingest.filling import Added, fill
from puma.search.ingest.reading import read_by_path
from puma.search.ingest.syncing import Watch

__all__ = ["INSTRUCTIONS", "MINUS_WEIGHT", "Added", "Searcher", "without"]

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

MINUS_WEIGHT = 0.75
"""How much :func:`without` takes away, chosen by looking at what puma-mini finds: at 0.5 some of the unwanted is still
among the first, above 1 results leave the query's own subject."""

Modalities = str | Sequence[str] | None
"""What is searched for: one of the three modalities, several, or None for all."""


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
        sync: bool = False,
        allow_empty: bool = False,
        on_batch: Callable[[Added], object] | None = None,
    ) -> Added:
        """Read, embed and store everything in these paths (see :func:`puma.search.ingest.read_items`). Each batch is safe on
        the disk before the next is embedded; after a kill, the same call goes on where it was.

        Args:
            batch_size: items embedded and stored at once.
            progress: a bar with rate and time left on stderr.
            sync: when all is read, remove the items that came from these paths and are not there any more. What could
                not be read this time stays (:attr:`Added.kept`), and so does what came from elsewhere too.
            allow_empty: with ``sync``, a path that has nothing in it any more, or is gone itself, is no mistake.
            on_batch: called with the counts so far whenever a batch is on the disk.

        Raises:
            InputError: a path does not exist or is of no known kind; nothing was done then. With ``sync``, a path has
                nothing in it though the index holds items of it (a disk that is not mounted?); nothing was deleted.
        """
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        places = [Path(path).expanduser() for path in given]
        watch = Watch(self.index, places)
        if sync and not allow_empty:
            watch.refuse_empty()
        # With allow_empty, a path that is gone is one with nothing in it.
        lost = watch.lost() if sync else []
        numbers = [number for number, path in enumerate(places) if path not in lost]
        there = [places[number] for number in numbers]
        entries = read_by_path(there)
        added = fill(
            self.encoder,
            self.index,
            watch.seeing((numbers[number], entry) for number, entry in entries),
            batch_size=batch_size,
            known=watch.known,
            total=count_items(there) if progress else None,
            progress=progress,
            on_batch=on_batch,
        )
        if sync:
            added.deleted, added.kept = watch.settle(added.skips, allow_empty)
        if added.embedded or added.updated or added.deleted:
            self.index.optimize()
        return added

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
        found: list[Record | Skip] = []
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
        added = fill(
            self.encoder, self.index, found, batch_size=batch_size, total=len(found) if progress else None,
            progress=progress,
        )  # fmt: skip
        skipped = {skip.where for skip in added.skips}
        added.ids = [entry.id if isinstance(entry, Record) and entry.where not in skipped else None for entry in found]
        if added.embedded or added.updated:
            self.index.optimize()
        return added

    def search(
        self,
        query: Any,
        k: int = 10,
        modality: Modalities = None,
        instruction: str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        minus: Sequence[Any] = (),
        offset: int = 0,
        exact: bool = False,
    ) -> list[Hit]:
        """The k best matches of a query: a string (always text), an image, a Path to one, a dict with ``text`` and
        ``image``, or an Item.

        Args:
            modality: only matches of this modality, or of these.
            instruction: instead of the default; an empty string for none.
            where: only matches whose payload says so, see :meth:`puma.Index.search`.
            minus: what the matches should not be like: words, images, whatever a query may be.
            offset: this many of the best are left out: the second page of ten is ``offset=10``.
            exact: search without the approximate index.

        Raises:
            InputError: the query is none, k is below 1, or the modality is unknown.
            ImageError: its image is unreadable.
        """
        return self.search_many(
            [query], k, modality, instruction, where=where, minus=minus, offset=offset, exact=exact
        )[0]

    def search_many(
        self,
        queries: Sequence[Any],
        k: int = 10,
        modality: Modalities = None,
        instruction: str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        minus: Sequence[Any] = (),
        offset: int = 0,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """As :meth:`search`, for many queries: they are embedded together, and ``minus`` is taken from each."""
        k = checked_k(k)
        if isinstance(offset, bool) or not isinstance(offset, (int, np.integer)) or offset < 0:
            raise InputError(f"offset must be an integer of at least 0, got {offset!r}")
        for name, given in (("search_many", queries), ("minus", minus)):
            if isinstance(given, (str, bytes, os.PathLike, Mapping, Item)):
                raise InputError(f"{name} takes a sequence; put a single one into a list")
        items = [as_item(query) for query in queries]
        unwanted = [as_item(value) for value in minus]
        vectors = self.vectors([*items, *unwanted], modality, instruction)
        asked, others = vectors[: len(items)], vectors[len(items) :]
        if len(others):
            asked = np.stack([without(vector, others) for vector in asked]) if len(asked) else asked
        found = self.index.search(asked, k + int(offset), modality, where=where, exact=exact)
        return [hits[offset:] for hits in found]

    def vectors(self, items: Sequence[Item], modality: Modalities = None, instruction: str | None = None) -> np.ndarray:
        """Queries embedded, each with its instruction: float32 [n, dim].

        Args:
            modality, instruction: as in :meth:`search`.
        """
        vectors = np.zeros((len(items), self.encoder.dim), dtype=np.float32)
        groups: dict[str | None, list[int]] = {}
        for place, item in enumerate(items):
            text = self.instruction_for(item.modality, modality) if instruction is None else instruction
            groups.setdefault(text or None, []).append(place)
        for text, places in groups.items():
            vectors[places] = self.encoder.encode([items[place] for place in places], instruction=text)
        return vectors

    def instruction_for(self, item_modality: str, modality: Modalities = None) -> str | None:
        """The instruction that a query of one modality gets when these modalities are searched for; None for none.

        Raises:
            InputError: a modality is unknown.
        """
        for given in (item_modality, *((modality,) if isinstance(modality, str) else modality or ())):
            checked_modality(given)
        wanted = {modality} if isinstance(modality, str) else set(modality or ())
        return self.instructions.get((item_modality, wanted.pop() if len(wanted) == 1 else None)) or None

    def stored_item(self, id: str) -> Item:  # noqa: A002 - the index's own word
        """A stored item as a query ("search with this result"): its text, and its image as the index shows it.

        Raises:
            InputError: there is no such item, or nothing of it is kept that could be embedded.
        """
        row = self.index.get([id], vectors=False).get(id)
        if row is None:
            raise InputError(f"id {id!r}: no such item in the index")
        text = row.payload.get("text") if row.modality != IMAGE else None
        image = self.index.thumbnail(id) if row.modality != TEXT else None
        if not isinstance(text, str) or not text.strip():
            text = None
        if text is None and image is None:
            raise InputError(f"id {id!r}: the index holds its vector, but neither its text nor its picture")
        return Item(text=text, image=image)


def _payload(item: Item) -> dict[str, Any]:
    payload = {} if item.text is None else {"text": item.text}
    if isinstance(item.image, (str, os.PathLike)):
        payload["image"] = str(Path(item.image).absolute())
    return payload


def without(vector: Any, others: Any, weight: float = MINUS_WEIGHT) -> np.ndarray:
    """A query's vector moved away from what is not wanted: ``vector - weight * (sum of others, each without the part
    of it that the query has itself)``, of unit length.

    The shared part stays because queries of one model are much alike ("vehicle" and "car" have a cosine of 0.96 with
    puma-mini): were it taken away, little of the query would be left.

    Args:
        vector: float [dim], of unit length.
        others: float [n, dim], of unit length; with none of them the vector stays as it is.
        weight: at least 0.

    Returns:
        float32 [dim].

    Raises:
        InputError: shapes do not fit, or the weight is negative.

    Examples:
        >>> without([1.0, 0.0], [[0.6, 0.8]], weight=1.0).astype(float).round(3).tolist()
        [0.781, -0.625]
    """
    start = np.asarray(vector, dtype=np.float64)
    away = np.asarray(others, dtype=np.float64)
    if start.ndim != 1 or (away.size and (away.ndim != 2 or away.shape[1] != len(start))):
        raise InputError(f"vector must be [dim] and others [n, dim], got {list(start.shape)} and {list(away.shape)}")
    if not (np.isfinite(weight) and weight >= 0):
        raise InputError(f"weight must be a number of at least 0, got {weight!r}")
    if away.size:
        start = start - weight * (away - (away @ start)[:, None] * start).sum(axis=0)
    return (start / np.linalg.norm(start)).astype(np.float32)
