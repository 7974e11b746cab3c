"""``/search``, ``/search/upload``, ``/indexes``: PUMA's own search."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, File, Form, Query, Request, UploadFile
from starlette.responses import Response

from puma.errors import InputError
from puma.index import Hit
from puma.serve.images import image_from_bytes
from puma.serve.known_parameters import known_parameters
from puma.serve.queries import SearchQuery, page_of_groups, page_of_hits, parse_query, query_batch
from puma.serve.responses import json_answer, stored_item
from puma.serve.schemas import (
    ERRORS,
    MAX_K,
    MAX_OFFSET,
    IndexName,
    Instruction,
    ItemId,
    MinScore,
    Modalities,
    Text,
    Word,
)
from puma.serve.schemas_search import IndexesAnswer, SearchAnswer, SearchRequest
from puma.serve.service import ServedIndex, Service, service

router = APIRouter(tags=["search"], responses=ERRORS, dependencies=[Depends(known_parameters)])

_RED_SQUARE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR42mO8IyfHAANMDEgANwcAOHIBID2Vy4IA"
    "AAAASUVORK5CYII="
)
_EXAMPLES: dict[str, Any] = {
    "text": {"summary": "Pictures of what a text says", "value": {"text": "a red square", "modality": "image", "k": 5}},
    "picture": {"summary": "Something like a picture, changed", "value": {"image": _RED_SQUARE, "text": "but blue"}},
    "filter": {
        "summary": "With a condition",
        "value": {"text": "a fox", "where": {"type": "eq", "key": "modality", "value": "image"}, "minus": ["snow"]},
    },
}

PageSize = Annotated[int, Query(ge=1, le=MAX_K)]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]


@router.post("/search", response_model=SearchAnswer, summary="Search by text, picture, both, or a stored item")
async def search(request: Request, body: Annotated[SearchRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    started = time.perf_counter()
    own = service(request)
    served = own.index(body.index)
    query = await parse_query(
        own,
        served.searcher,
        text=body.text,
        image=body.image,
        item=body.item,
        modality=body.modality,
        instruction=body.instruction,
        minus=body.minus,
    )
    where = None if body.where is None else body.where.model_dump()
    return await _answer(
        own, served, query, body.k, body.offset, where, body.min_score, body.group, body.drop_weak, started
    )


@router.get("/search", response_model=SearchAnswer, summary="The same for links and curl")
async def search_link(
    request: Request,
    text: Annotated[Text | None, Query(examples=["a red square"])] = None,
    item: ItemId | None = None,
    index: IndexName | None = None,
    modality: Annotated[Modalities | None, Query()] = None,
    minus: Annotated[list[Word], Query(max_length=16)] = [],  # noqa: B006
    k: PageSize = 10,
    offset: Offset = 0,
    instruction: Instruction | None = None,
    min_score: Annotated[MinScore | None, Query()] = None,
    group: bool = False,
    drop_weak: bool = False,
) -> Response:
    started = time.perf_counter()
    own = service(request)
    served = own.index(index)
    query = await parse_query(
        own, served.searcher, text=text, item=item, modality=modality, instruction=instruction, minus=minus
    )
    return await _answer(own, served, query, k, offset, None, min_score, group, drop_weak, started)


@router.post("/search/upload", response_model=SearchAnswer, summary="Search with a picture file")
async def search_upload(
    request: Request,
    image: Annotated[UploadFile, File(description="A PNG, JPEG, WebP, GIF, BMP, TIFF or PPM file.")],
    text: Annotated[str | None, Form(max_length=100_000)] = None,
    index: Annotated[IndexName | None, Form()] = None,
    modality: Annotated[Modalities | None, Form()] = None,
    minus: Annotated[list[Word], Form(max_length=16)] = [],  # noqa: B006
    k: Annotated[int, Form(ge=1, le=MAX_K)] = 10,
    offset: Annotated[int, Form(ge=0, le=MAX_OFFSET)] = 0,
    instruction: Annotated[Instruction | None, Form()] = None,
    min_score: Annotated[MinScore | None, Form()] = None,
    group: Annotated[bool, Form()] = False,
    drop_weak: Annotated[bool, Form()] = False,
) -> Response:
    started = time.perf_counter()
    own = service(request)
    served = own.index(index)
    # One byte over the limit is enough to see that it is over.
    data = await image.read(own.settings.max_image_bytes + 1)
    opened = await own.blocking(image_from_bytes, data, own.settings)
    query = await parse_query(
        own, served.searcher, text=text, image=opened.data, modality=modality, instruction=instruction, minus=minus
    )
    return await _answer(own, served, query, k, offset, None, min_score, group, drop_weak, started)


@router.get("/indexes", response_model=IndexesAnswer, summary="The indexes that are served")
async def indexes(request: Request) -> Response:
    own = service(request)
    entries = []
    for name, served in own.indexes.items():
        stats = await own.blocking(served.searcher.index.stats)
        entries.append({"name": name} | {key: stats[key] for key in ("rows", "modalities", "dim", "fingerprint")})
    return json_answer({"indexes": entries, "model": own.settings.model_names[0], "writable": own.settings.writable})


async def _answer(
    own: Service,
    served: ServedIndex,
    query: SearchQuery,
    k: int,
    offset: int,
    where: Mapping[str, Any] | None,
    min_score: float | None,
    group: bool,
    drop_weak: bool,
    started: float,
) -> Response:
    if k > own.settings.max_k:
        raise InputError(f"k: at most {own.settings.max_k} hits an answer, got {k}; take the rest by offset")
    batch = await query_batch(own, served.searcher, query)
    options: dict[str, Any] = {"hidden": query.hidden, "k": k, "offset": offset, "where": where, "min_score": min_score}
    if group:
        groups, more = await page_of_groups(own, served, batch, **options)
    else:
        hits, more = await page_of_hits(own, served, batch, **options)
        groups = [[hit] for hit in hits]
    cutoffs, kind = served.cutoffs, query.item.modality
    weak = {one[0].id: None if cutoffs is None else cutoffs.is_weak_hit(kind, batch.wanted, one[0]) for one in groups}
    if drop_weak:
        if cutoffs is None:
            raise InputError("drop_weak: the cut-offs of this model are not known; give min_score")
        groups = [one for one in groups if not weak[one[0].id]]
    cut = await served.model.cut_places(batch.items, batch.instructions)
    return json_answer(
        {
            "index": served.name,
            "query": {
                "modality": kind,
                "instruction": batch.instruction,
                "truncated": bool(cut),
            },
            "hits": [_found(own, served.name, one, group) | {"weak": weak[one[0].id]} for one in groups],
            "offset": offset,
            "more": more,
            "took_ms": round((time.perf_counter() - started) * 1000, 1),
        },
        cut,
    )


def _found(own: Service, index: str, group: list[Hit], with_duplicates: bool) -> dict[str, Any]:
    """A hit with those that are nearly the same."""
    shown = [stored_item(hit, index, own.settings.originals) for hit in group]
    if with_duplicates:
        shown[0]["duplicates"] = [{key: one[key] for key in ("id", "score", "file", "path")} for one in shown[1:]]
    return shown[0]
