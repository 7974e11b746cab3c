"""``/v1/models``: the model under each of its names, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from puma.items.dimensions import trained_dimensions
from puma.serve.formats import model_name
from puma.serve.responses import json_answer
from puma.serve.schemas import ERRORS
from puma.serve.schemas_clients import ModelEntry, ModelsAnswer
from puma.serve.service import Service, service

router = APIRouter(tags=["models"], responses=ERRORS)


@router.get("/models", include_in_schema=False)
@router.get("/v1/models", response_model=ModelsAnswer, summary="The model's names")
async def models(request: Request) -> Response:
    own = service(request)
    return json_answer({"object": "list", "data": [_entry(own, name) for name in own.settings.model_names]})


@router.get("/models/{model:path}", include_in_schema=False)
@router.get("/v1/models/{model:path}", response_model=ModelEntry, summary="The model under one of its names")
async def model(request: Request, model: str) -> Response:
    own = service(request)
    return json_answer(_entry(own, model_name(own, model)))


def _entry(own: Service, name: str) -> dict[str, Any]:
    encoder = own.main.encoder
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "puma",
        "dimensions": encoder.dim,
        "matryoshka_dimensions": trained_dimensions(encoder),
        "fingerprint": own.main.fingerprint,
    }
