"""``/healthz`` and ``/metrics``: is it alive, and how is it doing. Neither touches the encoder or a disk."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from puma.serve.metrics import MEDIA_TYPE
from puma.serve.service import service

router = APIRouter(tags=["service"])


@router.get("/ping", include_in_schema=False)
@router.get("/readyz", include_in_schema=False)
@router.get("/livez", include_in_schema=False)
@router.get("/health", include_in_schema=False)
@router.get("/healthz", summary="Whether the service is alive", response_class=Response, responses={
    200: {"content": {"application/json": {"schema": {
        "type": "object",
        "required": ["status", "model", "indexes"],
        "properties": {
            "status": {"const": "ok"},
            "model": {"type": "string"},
            "indexes": {"type": "array", "items": {"type": "string"}},
        },
    }}}},
})  # fmt: skip
async def healthz(request: Request) -> Response:
    """Also at `/health`, `/livez`, `/readyz` and `/ping`. Answers at once, also while the encoder is busy.
    Needs no token."""
    own = service(request)
    body = {"status": "ok", "model": own.model_name, "indexes": list(own.indexes)}
    return Response(json.dumps(body), media_type="application/json")


@router.get("/metrics", summary="Counters in Prometheus' format", response_class=Response, responses={
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
})  # fmt: skip
async def metrics(request: Request) -> Response:
    """Requests by route and status, their latency, batches, the queue, items embedded, index searches."""
    return Response(service(request).metrics.text(), headers={"Content-Type": MEDIA_TYPE})
