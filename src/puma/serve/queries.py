"""From what a client asks to hits: the query's item, its instruction, its vector, its page of results.

Here: what ``/search``, uploads and the vector stores have in common. Not here: their schemas and routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.index import Hit
from puma.items.item import MODALITIES, Item
from puma.search.searcher import Searcher, without
from puma.serve.images import image_from_text
from puma.serve.responses import NotFoundError
from puma.serve.service import Service

Wanted = str | Sequence[str] | None
"""The modality or modalities searched for; None for any."""


@dataclass(frozen=True)
class Question:
    """A query that is ready to be embedded.

    Args:
        item: what is embedded.
        modality: what is searched for.
        instruction: what the client gave; None for the one that fits, an empty string for none.
        minus: words to lead away from.
        hidden: id of an item that is left out of the hits: the one that was asked with.
    """

    item: Item
    modality: Wanted = None
    instruction: str | None = None
    minus: Sequence[str] = ()
    hidden: str | None = None


async def question(
    service: Service,
    searcher: Searcher,
    *,
    text: str | None = None,
    image: str | bytes | None = None,
    item: str | None = None,
    modality: Wanted = None,
    instruction: str | None = None,
    minus: Sequence[str] = (),
) -> Question:
    """A question of what the client gave.

    Args:
        image: a data URI or base64; bytes if they were checked already.
        item: id of a stored item. With a text besides, the item's image (or its text) is asked for as the words say.

    Raises:
        InputError: there is nothing to ask for, or too much.
        ImageError: the image cannot be used.
    """
    text = text if text and text.strip() else None
    modality = wanted(modality)
    if item is not None:
        if image is not None:
            raise InputError("image and item: both are pictures to search with; give one of them")
        stored = await service.blocking(_stored, searcher, item)
        if text is None:
            return Question(stored, modality, instruction, minus, hidden=item)
        asked = Item(text, stored.image) if stored.image is not None else Item(f"{stored.text}\n{text}")
        return Question(asked, modality, instruction, minus)
    if isinstance(image, str):
        image = (await service.blocking(image_from_text, image, service.settings)).data
    if text is None and image is None:
        raise InputError("nothing to search for: give text, image or item (the text was empty or left out)")
    return Question(Item(text, image), modality, instruction, minus)


def instruction_of(searcher: Searcher, asked: Question, item: Item | None = None) -> str | None:
    """The instruction that the query, or one of its unwanted words, is embedded with."""
    if asked.instruction is not None:
        return asked.instruction or None
    return searcher.instruction_for((item or asked.item).modality, asked.modality)


async def vector_of(service: Service, searcher: Searcher, asked: Question) -> np.ndarray:
    """The query's unit vector [dim], led away from the words of ``minus``."""
    items = [asked.item, *(Item(word) for word in asked.minus if word.strip())]
    vectors = await service.embed(items, [instruction_of(searcher, asked, item) for item in items])
    return vectors[0] if len(items) == 1 else without(vectors[0], vectors[1:])


async def page_of_hits(
    service: Service,
    searcher: Searcher,
    asked: Question,
    *,
    k: int,
    offset: int = 0,
    where: Mapping[str, Any] | None = None,
) -> tuple[list[Hit], bool]:
    """Hits ``offset`` to ``offset + k``, and whether there are more after them."""
    vector = await vector_of(service, searcher, asked)
    # One more to see whether there are more, and one for the item that is left out.
    fetched = k + offset + 1 + (asked.hidden is not None)
    options: dict[str, Any] = {} if where is None else {"where": where}
    hits = await service.find(searcher, vector, fetched, modality=asked.modality, **options)
    hits = [hit for hit in hits if hit.id != asked.hidden]
    return hits[offset : offset + k], len(hits) > offset + k


def _stored(searcher: Searcher, name: str) -> Item:
    if name not in searcher.index.get([name], vectors=False):
        raise NotFoundError(f"item {name!r}: not in this index", "item_not_found")
    return searcher.stored_item(name)


def named(service: Service, name: str | None) -> tuple[Searcher, str]:
    """The index of this name, and the name of the one that None stands for."""
    searcher = service.searcher(name)
    return searcher, name if name is not None else next(iter(service.searchers))


def wanted(modality: Wanted) -> Wanted:
    """One modality, several, or None for all of them. One in a list is that one: each has its own instruction."""
    if modality is None or isinstance(modality, str):
        return modality
    kinds = tuple(dict.fromkeys(modality))
    if len(kinds) in (0, len(MODALITIES)):
        return None
    return kinds[0] if len(kinds) == 1 else kinds
