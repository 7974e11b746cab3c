"""``puma.Searcher``: an encoder and an index joined, items in and ranked hits out.

Works with anything that has an :class:`~puma.items.Encoder`'s methods.

Usage::

    import puma
    searcher = puma.Searcher(puma.Retriever.from_pretrained("runs/quickstart/model"), "images.index")
    searcher.add_paths(["~/Images", "captions.txt"])
    hits = searcher.search("a red fox in snow", k=5, modality="image")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.index import Hit, Index
from puma.index.addresses import expanded
from puma.index.interface import checked_ids, checked_k, checked_modality, encoded_payload
from puma.index.reads import one_read
from puma.items.dimensions import of_length, trained_dimensions
from puma.items.encoder import BATCH, Encoder, Skip
from puma.items.item import IMAGE, TEXT, Item, as_item
from puma.search.finding import find, searches
from puma.search.ingest.filling import Added, fill
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.prepared import PreparedPaths
from puma.search.ingest.records import Record, encoded_text, payload_of, record_of_item
from puma.search.merging import CALIBRATED
from puma.search.queries import INSTRUCTIONS, Modalities, QueryBatch

__all__ = ["Added", "Searcher"]


class Searcher:
    """Embeds, stores and finds items.

    Args:
        encoder: a Retriever, or anything with its ``encode``, ``dim`` and ``fingerprint``.
        index: an Index, a folder's path or another address of one. If it holds shortened vectors, of a length that
            the encoder was trained for, all others are cut to that length too.
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
        self.index = index if isinstance(index, Index) else Index(expanded(index))
        if self.index.dim in trained_dimensions(encoder):  # an index of shortened vectors says so itself
            encoder = of_length(encoder, self.index.dim)
        self.index.bind(encoder.dim, encoder.fingerprint)
        self.encoder = encoder
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
        options: ReadOptions | None = None,
        on_batch: Callable[[Added], object] | None = None,
    ) -> Added:
        """Read, embed and store what these paths hold (see :func:`puma.search.ingest.read_items`). Each batch is on
        the disk before the next is embedded: after a kill, call again. A file read again replaces what it gave before.

        Args:
            batch_size: items embedded and stored at once; fewer where their files are large.
            progress: a bar with rate and time left on stderr.
            sync: when all is read, remove the items that came from these paths and are not there any more. What could
                not be read this time stays (:attr:`Added.kept`), and so does what came from elsewhere too.
            allow_empty: with ``sync``, a path that is empty now, or gone itself, is no mistake.
            options: columns, encoding, what is left out of folders.
            on_batch: called with the counts so far whenever a batch is on the disk.

        Raises:
            InputError: a path does not exist or is of no known kind; nothing was done then. With ``sync``, a path has
                nothing in it though the index holds items of it (a disk that is not mounted?); nothing was deleted.
        """
        prepared = PreparedPaths(self.index, paths, sync=sync, allow_empty=allow_empty, options=options)
        return self.add_prepared(prepared, batch_size=batch_size, progress=progress, on_batch=on_batch)

    def add_prepared(
        self,
        prepared: PreparedPaths,
        *,
        batch_size: int = BATCH,
        progress: bool = True,
        on_batch: Callable[[Added], object] | None = None,
    ) -> Added:
        """As :meth:`add_paths`, of paths that were checked against :attr:`index` before.

        Raises:
            InputError: with ``sync``, as :meth:`add_paths`; or the paths were prepared for another index.
        """
        if prepared.index.address != self.index.address:
            raise InputError(
                f"prepared: its paths are for index {prepared.index.address}, not for {self.index.address}"
            )
        added = prepared.fill(self.encoder, batch_size=batch_size, progress=progress, on_batch=on_batch)
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
        wheres = [f"items[{place}]" + ("" if ids is None else f" ({ids[place]})") for place in range(len(rows))]
        # All payloads and texts are checked before anything is stored; files are read when their batch comes.
        given_payloads = [None] * len(rows) if payloads is None else payloads
        texts = [
            encoded_payload(payload or payload_of(item), where)
            for item, payload, where in zip(rows, given_payloads, wheres, strict=True)
        ]
        for item in rows:
            encoded_text(item)
        names: list[str | None] = [None] * len(rows)

        def found() -> Iterator[Record | Skip]:
            for place, (item, text, where) in enumerate(zip(rows, texts, wheres, strict=True)):
                entry = record_of_item(item, None if ids is None else ids[place], text, where, place)
                names[place] = entry.id
                yield entry

        total = len(rows) if progress else None
        added = fill(self.encoder, self.index, found(), batch_size=batch_size, total=total, progress=progress)
        skipped = {skip.position for skip in added.skips}
        added.ids = [None if place in skipped else name for place, name in enumerate(names)]
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
        merge: str = CALIBRATED,
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
            merge: how the hits of several modalities come into one order, see :mod:`puma.search.merging`. Unless it is
                ``single``, each modality is asked for with its own instruction; the order is not that of the scores.

        Raises:
            InputError: the query is none, k is below 1, or the modality or the way to merge is unknown.
            ImageError: its image is unreadable.
        """
        options: dict[str, Any] = {"where": where, "minus": minus, "offset": offset, "exact": exact, "merge": merge}
        return self.search_many([query], k, modality, instruction, **options)[0]

    @one_read()
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
        merge: str = CALIBRATED,
    ) -> list[list[Hit]]:
        """As :meth:`search`, for many queries: they are embedded together, and ``minus`` is taken from each."""
        k = checked_k(k)
        if isinstance(offset, bool) or not isinstance(offset, (int, np.integer)) or offset < 0:
            raise InputError(f"offset must be an integer of at least 0, got {offset!r}")
        for name, given in (("search_many", queries), ("minus", minus)):
            if isinstance(given, (str, bytes, os.PathLike, Mapping, Item)):
                raise InputError(f"{name} takes a sequence; put a single one into a list")
        batch = self.query_batch(map(as_item, queries), modality, instruction, map(as_item, minus), merge)
        vectors = batch.vectors(self._embed(batch.items, batch.instructions))
        found = find(self.index, batch, vectors, k + int(offset), where=where, exact=exact)
        return [hits[offset:] for hits in found]

    def query_batch(
        self,
        queries: Iterable[Item],
        modality: Modalities = None,
        instruction: str | None = None,
        minus: Iterable[Item] = (),
        merge: str = CALIBRATED,
    ) -> QueryBatch:
        """What a search embeds: queries and unwanted items, with the instruction for each modality that is searched.
        Looks up which modalities the index has.

        Args:
            modality, instruction, minus, merge: as in :meth:`search`.
        """
        given = list(queries)
        items = (*given, *minus)
        wanted = searches(self.index, modality, merge)
        sets = [tuple(self.instruction_for(item.modality, kind, instruction) for item in items) for kind in wanted]
        different = list(dict.fromkeys(sets))  # one instruction for all modalities: embedded once
        texts = tuple(text for one in different for text in one)
        blocks = tuple(different.index(one) for one in sets)
        return QueryBatch(items * len(different), texts, len(given), wanted, blocks, merge)

    def _embed(self, items: Sequence[Item], instructions: Sequence[str | None]) -> np.ndarray:
        if getattr(self.encoder, "mixed_instructions", False):
            return self.encoder.encode(items, instruction=list(instructions))  # type: ignore[arg-type]
        vectors = np.zeros((len(items), self.encoder.dim), dtype=np.float32)
        groups: dict[str | None, list[int]] = {}
        for place, text in enumerate(instructions):
            groups.setdefault(text, []).append(place)
        for text, places in groups.items():
            vectors[places] = self.encoder.encode([items[place] for place in places], instruction=text)
        return vectors

    def instruction_for(
        self, item_modality: str, modality: Modalities = None, instruction: str | None = None
    ) -> str | None:
        """The instruction that a query of one modality gets when these modalities are searched for; None for none.

        Args:
            instruction: one that was given, which goes first; an empty string for none.

        Raises:
            InputError: a modality is unknown.
        """
        for given in (item_modality, *((modality,) if isinstance(modality, str) else modality or ())):
            checked_modality(given)
        if instruction is not None:
            return instruction or None
        wanted = {modality} if isinstance(modality, str) else set(modality or ())
        return self.instructions.get((item_modality, wanted.pop() if len(wanted) == 1 else None)) or None

    @one_read()
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
