"""``/v2/embed``: Cohere's shape."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from puma.errors import InputError
from puma.items.dimensions import checked_dimensions, shortened
from puma.items.item import Item
from puma.serve.formats import (
    as_types,
    item_of,
    item_of_parts,
    model_name,
    query_instruction,
    warnings_of,
)
from puma.serve.images import CheckedImage, image_from_text
from puma.serve.responses import json_answer
from puma.serve.schemas import ERRORS
from puma.serve.schemas_clients import CohereAnswer, CohereRequest
from puma.serve.service import service
from puma.serve.settings import ServeSettings

router = APIRouter(tags=["embeddings"], responses=ERRORS)

_EXAMPLES: dict[str, Any] = {
    "texts": {
        "summary": "Texts as small numbers",
        "value": {"texts": ["a red fox"], "input_type": "search_document", "embedding_types": ["float", "int8"]},
    }
}


@router.post("/v2/embed", response_model=CohereAnswer, summary="Embed texts and pictures, in Cohere's shape")
async def embed(request: Request, body: Annotated[CohereRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    own = service(request)
    model_name(own, body.model)
    model = own.main
    given = [name for name in ("texts", "images", "inputs") if getattr(body, name) is not None]
    if len(given) != 1:
        raise InputError(f"one of texts, images and inputs is needed, got {', '.join(given) or 'none'}")
    dimensions = checked_dimensions(model.encoder, body.output_dimension or model.encoder.dim, "output_dimension")
    if body.texts is not None:
        items = [item_of(text, None, f"texts[{place}]") for place, text in enumerate(body.texts)]
        images: list[CheckedImage] = []
    else:
        items, images = await own.blocking(_with_images, body, own.settings)
    as_query = body.input_type == "search_query"
    instructions = [query_instruction(model, item) if as_query else None for item in items]
    field = given[0]
    names = [f"{field}[{place}]" for place in range(len(items))]
    embedded = await model.embed_counted(items, instructions, names=names, truncate=body.truncate != "NONE")
    vectors = shortened(embedded.vectors, dimensions)
    billed = ({"images": len(images)} if images else {}) | {"input_tokens": int(embedded.tokens.sum())}
    meta: dict[str, Any] = {"api_version": {"version": "2"}, "billed_units": billed}
    answer: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "response_type": "embeddings_by_type",
        "embeddings": as_types(vectors, body.embedding_types),
        "meta": meta | warnings_of(embedded.cut, names),
    }
    if body.texts is not None:
        answer["texts"] = body.texts
    if images:
        answer["images"] = [
            {"width": seen.width, "height": seen.height, "format": seen.format, "bit_depth": seen.bit_depth}
            for seen in images
        ]
    return json_answer(answer, embedded.cut)


def _with_images(body: CohereRequest, limits: ServeSettings) -> tuple[list[Item], list[CheckedImage]]:
    items, images = [], []
    for place, text in enumerate(body.images or ()):
        image = image_from_text(text, limits, f"images[{place}]")
        items.append(Item(image=image.data))
        images.append(image)
    for place, entry in enumerate(body.inputs or ()):
        item, seen = item_of_parts(entry.content, limits, f"inputs[{place}]")
        items.append(item)
        images += [seen] if seen else []
    return items, images
