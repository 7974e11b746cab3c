"""From a client's query to a page of hits, as ``/search``, uploads and the vector stores need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.index import Hit
from puma.items.dimensions import shortened
from puma.items.item import MODALITIES, Item
from puma.search.grouping import FETCHED, grouped
from puma.search.ingest.fields import FOLDER
from puma.search.queries import QueryBatch
from puma.search.searcher import Searcher
from puma.serve.formats import words
from puma.serve.images import image_from_text
from puma.serve.responses import NotFoundError
from puma.serve.service import ServedIndex, Service

Wanted = str | Sequence[str] | None
"""The modality or modalities searched for; None for any."""


@dataclass(frozen=True)
class SearchQuery:
    """A query that is ready to be embedded.

    Args:
        item: what is embedded.
        modality: what is searched for.
        instruction: what the client gave; None for the one that fits, an empty string for none.
        minus: words to lead away from.
        hidden: id of an item that is left out of the hits: the one that is searched with.
    """

    item: Item
    modality: Wanted = None
    instruction: str | None = None
    minus: Sequence[str] = ()
    hidden: str | None = None


async def parse_query(
    service: Service,
    searcher: Searcher,
    *,
    text: str | None = None,
    image: str | bytes | None = None,
    item: str | None = None,
    modality: Wanted = None,
    instruction: str | None = None,
    minus: Sequence[str] = (),
) -> SearchQuery:
    """A query from what the client gave.

    Args:
        image: a data URI or base64; bytes if they were checked already.
        item: id of a stored item. With a text besides, the query is its image (or its text) changed as the words say.

    Raises:
        InputError: there is nothing to search for, or too much.
        ImageError: the image cannot be used.
    """
    text = words(text, "text") if text and text.strip() else None
    modality = wanted(modality)
    if item is not None:
        if image is not None:
            raise InputError("image and item: both are pictures to search with; give one of them")
        stored = await service.blocking(_stored, searcher, item)
        if text is None:
            return SearchQuery(stored, modality, instruction, minus, hidden=item)
        joined = Item(text, stored.image) if stored.image is not None else Item(f"{stored.text}\n{text}")
        return SearchQuery(joined, modality, instruction, minus)
    if isinstance(image, str):
        image = (await service.blocking(image_from_text, image, service.settings)).data
    if text is None and image is None:
        raise InputError("nothing to search for: give text, image or item (the text was empty or left out)")
    return SearchQuery(Item(text, image), modality, instruction, minus)


async def query_batch(service: Service, searcher: Searcher, query: SearchQuery) -> QueryBatch:
    """What is embedded for a query, by the same rules as :meth:`puma.Searcher.search`."""
    unwanted = [Item(word) for word in query.minus if word.strip()]
    # Looks into the index, which modalities there are.
    return await service.blocking(searcher.query_batch, [query.item], query.modality, query.instruction, unwanted)


async def page_of_hits(
    service: Service,
    index: ServedIndex,
    batch: QueryBatch,
    *,
    k: int,
    offset: int = 0,
    where: Mapping[str, Any] | None = None,
    hidden: str | None = None,
    min_score: float | None = None,
) -> tuple[list[Hit], bool]:
    """Hits ``offset`` to ``offset + k`` of the first query, and whether there are more after them.

    Args:
        hidden: id of an item that is left out.
        min_score: hits of a smaller score are left out of the page; the places of the others stay as they are.

    Raises:
        InputError: ``where`` asks for folders, which this service does not tell.
    """
    if not service.settings.originals and FOLDER in keys_of(where):
        raise InputError(
            f"where: this service tells nothing of folders, so there is no filter by {FOLDER!r}; its operator can "
            "allow it with --originals"
        )
    most, each = service.settings.max_inputs, batch.size
    step = each if len(batch.items) > most else len(batch.items)  # the limit is of what the client sent
    parts = [
        await index.model.embed(batch.items[start : start + step], batch.instructions[start : start + step])
        for start in range(0, len(batch.items), step)
    ]
    vectors = batch.vectors(shortened(np.concatenate(parts), index.searcher.encoder.dim))
    # One more to see whether there are more, and one for the item that is left out.
    hits = await service.find(index.searcher, batch, vectors, k + offset + 1 + (hidden is not None), where)
    hits = [hit for hit in hits if hit.id != hidden]
    page, rest = hits[offset : offset + k], hits[offset + k :]
    if min_score is None:
        return page, bool(rest)
    scores = [hit.score for hit in hits]
    # Where hits are in the order of their scores, nothing comes after the first that is below.
    ended = scores == sorted(scores, reverse=True) and bool(rest) and rest[0].score < min_score
    return [hit for hit in page if hit.score >= min_score], bool(rest) and not ended


async def page_of_groups(
    service: Service, index: ServedIndex, batch: QueryBatch, *, k: int, offset: int = 0, **options: Any
) -> tuple[list[list[Hit]], bool]:
    """As :func:`page_of_hits`, with near-duplicates in groups (:mod:`puma.search.grouping`), each best first. Groups
    are counted, not hits."""
    hits, more = await page_of_hits(service, index, batch, k=(offset + k + 1) * FETCHED, **options)
    groups = await service.blocking(grouped, index.searcher.index, hits)
    return groups[offset : offset + k], more or len(groups) > offset + k


def keys_of(where: Mapping[str, Any] | None) -> set[str]:
    """The fields that a filter asks about."""
    if where is None:
        return set()
    if "filters" in where:
        return {key for part in where["filters"] for key in keys_of(part)}
    return {str(where.get("key"))}


def _stored(searcher: Searcher, name: str) -> Item:
    if name not in searcher.index.get([name], vectors=False):
        raise NotFoundError(f"item {name!r}: not in this index", "item_not_found")
    return searcher.stored_item(name)


def wanted(modality: Wanted) -> Wanted:
    """One modality, several, or None for all of them. One in a list is that one: each has its own instruction."""
    if modality is None or isinstance(modality, str):
        return modality
    kinds = tuple(dict.fromkeys(modality))
    if len(kinds) in (0, len(MODALITIES)):
        return None
    return kinds[0] if len(kinds) == 1 else kinds
