"""``/v1/vector_stores``: the indexes in OpenAI's shape: list, look at, search.

An image to search with comes in the clients' ``extra_body``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request
from starlette.responses import Response

from puma.index import Hit
from puma.serve.queries import page_of_hits, parse_query, query_batch, wanted
from puma.serve.responses import json_answer, stored_item
from puma.serve.schemas import ERRORS, IndexName
from puma.serve.schemas_stores import StoreEntry, StoresAnswer, StoreSearchAnswer, StoreSearchRequest
from puma.serve.service import ServedIndex, service

router = APIRouter(tags=["vector stores"], responses=ERRORS)

StoreId = Annotated[IndexName, Path(description="Name of an index.")]
_EXAMPLES: dict[str, Any] = {
    "text": {
        "summary": "Pictures of what a text says",
        "value": {
            "query": "a red square",
            "filters": {"type": "eq", "key": "modality", "value": "image"},
            "max_num_results": 5,
        },
    }
}


@router.get("/vector_stores", include_in_schema=False)
@router.get("/v1/vector_stores", response_model=StoresAnswer, summary="The indexes")
async def stores(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: IndexName | None = None,
) -> Response:
    own = service(request)
    names = sorted(name for name in own.indexes if after is None or name > after)
    data = [await own.blocking(_entry, own.indexes[name]) for name in names[:limit]]
    return json_answer(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(names) > limit,
        }
    )


@router.get("/vector_stores/{store}", include_in_schema=False)
@router.get("/v1/vector_stores/{store}", response_model=StoreEntry, summary="One index")
async def store(request: Request, store: StoreId) -> Response:
    own = service(request)
    return json_answer(await own.blocking(_entry, own.index(store)))


@router.post("/vector_stores/{store}/search", include_in_schema=False)
@router.post("/v1/vector_stores/{store}/search", response_model=StoreSearchAnswer, summary="Search an index")
async def search(
    request: Request, store: StoreId, body: Annotated[StoreSearchRequest, Body(openapi_examples=_EXAMPLES)]
) -> Response:
    own = service(request)
    index = own.index(store)
    where = None if body.filters is None else body.filters.model_dump()
    texts = body.query if isinstance(body.query, list) else [body.query]
    # The conditions are applied as they are; which modality they ask for matters besides, for the instruction.
    modality = wanted(_modalities(where))
    common: dict[str, Any] = {"image": body.image, "modality": modality, "instruction": body.instruction}
    queries = [await parse_query(own, index.searcher, text=text, **common) for text in texts]
    batches = [await query_batch(own, index.searcher, query) for query in queries]
    least = None if body.ranking_options is None else body.ranking_options.score_threshold
    pages = await asyncio.gather(
        *(page_of_hits(own, index, batch, k=body.max_num_results, where=where, min_score=least) for batch in batches)
    )
    best: dict[str, Hit] = {}
    places: dict[str, int] = {}
    for place, hit in ((place, hit) for hits, _ in pages for place, hit in enumerate(hits)):
        places[hit.id] = min(place, places.get(hit.id, place))
        if hit.id not in best or hit.score > best[hit.id].score:
            best[hit.id] = hit
    # Where one search was made for each modality, only a hit's place tells how good it is.
    if all(len(batch.wanted) == 1 for batch in batches):
        places = dict.fromkeys(places, 0)
    ranked = sorted(best.values(), key=lambda hit: (places[hit.id], -hit.score, hit.id))
    cut = [
        place for place, batch in enumerate(batches) if await index.model.cut_places(batch.items, batch.instructions)
    ]
    return json_answer(
        {
            "object": "vector_store.search_results.page",
            "search_query": [text for text in texts if text is not None],
            "data": [_hit(hit, index.name, own.settings.originals) for hit in ranked[: body.max_num_results]],
            "has_more": len(ranked) > body.max_num_results or any(more for _, more in pages),
            "next_page": None,
        },
        cut,
    )


def _modalities(where: Mapping[str, Any] | None) -> list[str] | str | None:
    """The modalities that a filter leaves; None where it says nothing about them that is easy to read."""
    if where is None:
        return None
    if where["type"] == "and":
        return next((found for one in where["filters"] if (found := _modalities(one)) is not None), None)
    if where.get("key") != "modality" or where["type"] not in ("eq", "in"):
        return None
    values = where["value"] if isinstance(where["value"], list) else [where["value"]]
    return values if set(values) <= {"text", "image", "image,text"} else None


def _hit(hit: Hit, index: str, originals: bool) -> dict[str, Any]:
    shown = stored_item(hit, index, originals)
    attributes = {key: _attribute(value) for key, value in shown["metadata"].items() if value is not None}
    attributes["modality"] = hit.modality
    attributes |= {key: shown[key] for key in ("thumbnail", "path", "original") if shown[key] is not None}
    return {
        "file_id": hit.id,
        "filename": shown["file"] or hit.id,
        "score": hit.score,
        "attributes": attributes,
        "content": [] if shown["text"] is None else [{"type": "text", "text": shown["text"]}],
    }


def _attribute(value: Any) -> str | float | bool:
    """Attributes are flat: what is nested is written as JSON."""
    return value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)


def _entry(index: ServedIndex) -> dict[str, Any]:
    name, stats = index.name, index.searcher.index.stats()
    counts = dict.fromkeys(("cancelled", "failed", "in_progress"), 0)
    return {
        "id": name,
        "object": "vector_store",
        "created_at": 0,
        "name": name,
        "status": "completed",
        "usage_bytes": int(stats.get("bytes", 0)),
        "file_counts": counts | {"completed": stats["rows"], "total": stats["rows"]},
        "last_active_at": None,
        "metadata": {"dim": str(stats["dim"]), "fingerprint": str(stats["fingerprint"])},
    }
