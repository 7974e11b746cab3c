"""The search page: ``/`` and its static files below ``/page/``, read once from the package.

A file is served by its name in a dict made beforehand, never by a path: there is nothing to traverse.
"""

from __future__ import annotations

import functools
from importlib import resources

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from puma.serve.responses import tagged
from puma.serve.service import service
from puma.serve.settings import ServeSettings

router = APIRouter(include_in_schema=False)

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_INDEX = "index.html"


@router.get("/")
async def page(request: Request) -> Response:
    """The page, with the limits of this service filled in."""
    return _answer(request, _with_limits(service(request).settings), "html")


@router.get("/page/{name}")
async def static(request: Request, name: str) -> Response:
    """One of the page's files."""
    data = _files().get(name)
    if data is None or name == _INDEX:
        raise HTTPException(404, "there is no such file of the page")
    return _answer(request, data, name.rpartition(".")[2])


@functools.cache
def _files() -> dict[str, bytes]:
    folder = resources.files("puma.serve") / "page"
    return {
        entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.rpartition(".")[2] in MEDIA_TYPES
    }


@functools.cache
def _with_limits(settings: ServeSettings) -> bytes:
    # base64 makes an image a third larger, and the query has other parts.
    in_body = (settings.max_body_bytes - 64 * 1024) * 3 // 4
    limits = {
        b"__MAX_IMAGE_BYTES__": max(1, min(settings.max_image_bytes, in_body)),
        b"__MAX_IMAGE_PIXELS__": settings.max_image_pixels,
        b"__MAX_HITS__": settings.max_k,
    }
    text = _files()[_INDEX]
    for place, value in limits.items():
        text = text.replace(place, b"%d" % value)
    return text


def _answer(request: Request, data: bytes, kind: str) -> Response:
    # Asked for anew each time, answered with 304 while it is the same: a new version is seen at once.
    return tagged(data, MEDIA_TYPES[kind], {"Cache-Control": "no-cache"}, request.headers.get("if-none-match"))
