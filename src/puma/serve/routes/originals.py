"""``/original``: the file that an item was made of, to open or to download; by the item's id, never by a path."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from puma.search.originals import PDF, NoOriginalError, original
from puma.serve.responses import NotFoundError, tagged
from puma.serve.schemas import ERRORS, IndexName, ItemId
from puma.serve.service import service

router = APIRouter(tags=["items"], responses=ERRORS)

_ALONE = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
_PDF_ALONE = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""A browser's own reader of PDF does not work in a sandbox."""


@router.get(
    "/original",
    response_class=Response,
    responses={200: {"content": {"*/*": {}}}, 304: {"description": "The file is as the client has it"}},
    summary="The file of an item",
)
async def original_file(
    request: Request,
    id: ItemId,  # noqa: A002
    index: IndexName | None = None,
    download: Annotated[bool, Query(description="Save it rather than show it.")] = False,
    if_none_match: Annotated[str | None, Header(max_length=1_000)] = None,
) -> Response:
    """Only bytes that are what was indexed are given out. A service for this machine alone does so by default; any
    other has to be started with --originals."""
    own = service(request)
    if not own.settings.originals:
        raise HTTPException(403, "this service does not give out files; its operator can allow it with --originals")
    searcher = own.index(index).searcher
    try:
        found = await own.blocking(original, searcher.index, id)
    except NoOriginalError as error:
        raise NotFoundError(str(error), "original_not_found") from None
    kind = "attachment" if download else "inline"
    headers = {
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": _PDF_ALONE if found.media_type == PDF else _ALONE,
        "Content-Disposition": f"{kind}; filename*=UTF-8''{quote(found.name, safe='')}",
    }
    return tagged(found.data, found.media_type, headers, if_none_match)
