"""``/items``, ``/item``, ``/thumbnail``: what an index holds, one by one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from puma.errors import InputError
from puma.items.item import Item
from puma.items.thumbnails import MEDIA_TYPE
from puma.serve.adding import Incoming, add_items
from puma.serve.formats import words
from puma.serve.images import image_from_text
from puma.serve.known_parameters import known_parameters
from puma.serve.queries import wanted
from puma.serve.responses import NotFoundError, json_answer, stored_item, tagged
from puma.serve.schemas import ERRORS, IndexName, ItemId, Modalities
from puma.serve.schemas_search import AddAnswer, AddRequest, DeleteAnswer, ItemsAnswer, NewItem, Stored
from puma.serve.service import ServedIndex, Service, service
from puma.serve.settings import ServeSettings

router = APIRouter(tags=["items"], responses=ERRORS, dependencies=[Depends(known_parameters)])

_EXAMPLES: dict[str, Any] = {
    "text": {
        "summary": "A text with metadata",
        "value": {"items": [{"id": "example", "text": "a red square", "metadata": {"brand": "acme", "price": 3.5}}]},
    }
}
_NO_STORE = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}


@router.get("/items", response_model=ItemsAnswer, summary="Items by id, a page at a time")
async def items(
    request: Request,
    index: IndexName | None = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    after: ItemId | None = None,
    modality: Annotated[Modalities | None, Query()] = None,
) -> Response:
    own = service(request)
    found = own.index(index)
    searcher, name = found.searcher, found.name
    rows = await own.blocking(searcher.index.page, limit + 1, after, wanted(modality))
    shown = [stored_item(row, name, own.settings.originals) for row in rows[:limit]]
    more = len(rows) > limit
    return json_answer({"index": name, "items": shown, "more": more, "after": shown[-1]["id"] if more else None})


@router.get("/item", response_model=Stored, summary="One item")
async def item(request: Request, id: ItemId, index: IndexName | None = None) -> Response:  # noqa: A002
    own = service(request)
    found = own.index(index)
    rows = await own.blocking(found.searcher.index.get, [id], vectors=False)
    if id not in rows:
        raise NotFoundError(f"item {id!r}: not in index {found.name!r}", "item_not_found")
    return json_answer(stored_item(rows[id], found.name, own.settings.originals))


@router.post("/items", response_model=AddAnswer, summary="Store items")
async def add(request: Request, given: Annotated[AddRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    own = service(request)
    index = _writable(own, given.index)
    if len(given.items) > own.settings.max_inputs:
        raise InputError(f"items: at most {own.settings.max_inputs} a request, got {len(given.items)}; send several")
    incoming = await own.blocking(_incoming, given.items, own.settings)
    outcome = await add_items(own, index, incoming)
    texts = {place: one.item for place, one in enumerate(incoming) if one.item is not None}
    places = list(texts)
    cut = [places[place] for place in await index.model.cut_places(list(texts.values()))]
    added = outcome.added
    return json_answer(
        {"index": index.name, "ids": outcome.ids}
        | {count: getattr(added, count) for count in ("embedded", "present", "updated", "repeated")}
        | {"truncated": cut, "skipped": [{"where": skip.where, "reason": skip.reason} for skip in outcome.skips]},
        cut,
    )


@router.delete("/item", response_model=DeleteAnswer, summary="Remove an item")
async def delete(request: Request, id: ItemId, index: IndexName | None = None) -> Response:  # noqa: A002
    own = service(request)
    found = _writable(own, index)
    if not await own.blocking(found.searcher.index.delete, [id]):
        raise NotFoundError(f"item {id!r}: not in index {found.name!r}", "item_not_found")
    return json_answer({"index": found.name, "id": id, "deleted": True})


@router.get(
    "/thumbnail",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {}}}, 304: {"description": "The picture is as the client has it"}},
    summary="A small picture of an item",
)
async def thumbnail(
    request: Request,
    id: ItemId,  # noqa: A002
    index: IndexName | None = None,
    if_none_match: Annotated[str | None, Header(max_length=1_000)] = None,
) -> Response:
    own = service(request)
    found = own.index(index)
    searcher, name = found.searcher, found.name
    data = await own.blocking(searcher.index.thumbnail, id)
    # What lies in the index may have come from anywhere: nothing but a JPEG is ever shown as one.
    if data is None or data[:3] != b"\xff\xd8\xff":
        raise NotFoundError(f"item {id!r}: index {name!r} holds no picture of it", "picture_not_found")
    return tagged(data, MEDIA_TYPE, _NO_STORE, if_none_match)


def _writable(own: Service, index: str | None) -> ServedIndex:
    if not own.settings.writable:
        raise HTTPException(403, "this service is read-only; start it without --read-only to add and delete items")
    return own.index(index)


def _incoming(given: list[NewItem], limits: ServeSettings) -> list[Incoming]:
    """Items with their images checked; one that cannot be used is left out with its reason, never fatal."""
    found = []
    for place, new in enumerate(given):
        try:
            image = None if new.image is None else image_from_text(new.image, limits, f"items[{place}].image").data
            if image is None and not (new.text or "").strip():
                raise InputError("is empty; give text, image or both")
            found.append(Incoming(Item(words(new.text, f"items[{place}].text"), image), new.id, new.metadata))
        except InputError as error:
            found.append(Incoming(None, new.id, fault=str(error)))
    return found
