"""``/v1/rerank`` and ``/v2/rerank``: documents ordered by a query, in Cohere's and Jina's shape.

The score is the cosine similarity of the embeddings, as a search's. Late interaction over token states
(:mod:`puma.search.reranking`) orders worse with the models that are trained here, and is not used.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from puma.errors import InputError
from puma.index.interface import SCORE_DECIMALS
from puma.items.item import Item
from puma.serve.formats import item_of_input, model_name, query_instruction, warnings_of
from puma.serve.responses import json_answer
from puma.serve.schemas import ERRORS
from puma.serve.schemas_clients import TextOrImage
from puma.serve.schemas_rerank import RerankAnswer, RerankRequest
from puma.serve.service import service
from puma.serve.settings import ServeSettings

router = APIRouter(tags=["embeddings"], responses=ERRORS)

_EXAMPLES: dict[str, Any] = {
    "texts": {
        "summary": "Texts by a question",
        "value": {"query": "a red fox", "documents": ["a fox in snow", "a quiet lake", "a red car"], "top_n": 2},
    }
}


@router.post("/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/v1/rerank", response_model=RerankAnswer, summary="Order documents by a query, in Cohere's shape")
async def rerank(request: Request, body: Annotated[RerankRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    own = service(request)
    name, model = model_name(own, body.model), own.main
    if len(body.documents) >= own.settings.max_inputs:
        raise InputError(f"documents: at most {own.settings.max_inputs - 1} a request, got {len(body.documents)}")
    names = ["query", *(f"documents[{place}]" for place in range(len(body.documents)))]
    items = await own.blocking(_items, [body.query, *body.documents], names, own.settings)
    query, *documents = items
    instruction: str | None = body.instruction or None
    if body.instruction is None:
        kinds = {item.modality for item in documents}
        instruction = query_instruction(model, query, kinds.pop() if len(kinds) == 1 else None)
    embedded = await model.embed_counted(
        items,
        [instruction, *[None] * len(documents)],
        names=names,
        truncate=body.truncate is not False and body.truncation is not False,
    )
    scores = np.round(embedded.vectors[1:].astype(np.float64) @ embedded.vectors[0], SCORE_DECIMALS)
    order = np.argsort(-scores, kind="stable")[: body.top_n or body.top_k or len(documents)].tolist()
    results: list[dict[str, Any]] = [{"index": place, "relevance_score": float(scores[place])} for place in order]
    if body.return_documents:
        for entry in results:
            text = documents[entry["index"]].text
            entry["document"] = {} if text is None else {"text": text}
    cut = [place - 1 for place in embedded.cut if place]
    read = int(embedded.tokens.sum())
    meta: dict[str, Any] = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return json_answer(
        {
            "id": str(uuid.uuid4()),
            "object": "list",
            "model": name,
            "results": results,
            "usage": {"prompt_tokens": read, "total_tokens": read, "truncated_inputs": cut},
            "meta": meta | warnings_of(embedded.cut, names),
        },
        cut,
    )


def _items(given: list[str | TextOrImage], names: list[str], limits: ServeSettings) -> list[Item]:
    return [item_of_input(one, limits, name) for one, name in zip(given, names, strict=True)]
