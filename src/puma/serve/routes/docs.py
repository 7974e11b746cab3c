"""``/docs``: the API's description as a page that can be tried out, from files on this machine only.

The program that draws it is Swagger UI, as the package ``fastapi-offline`` ships it. The page has no script inside, so
that a strict policy can hold.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import HTMLResponse, Response

from puma.errors import DependencyError, install_command
from puma.serve.responses import NotFoundError, tagged

router = APIRouter(include_in_schema=False)

FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
START = """window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({ url: "../openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
});
"""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Of this page alone: Swagger UI writes styles into its elements."""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>PUMA: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<main id="docs"><noscript>The API's description is at <a href="openapi.json">openapi.json</a>.</noscript></main>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""


@router.get("/docs")
async def docs() -> Response:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/{name}")
async def docs_file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    if name == "start.js":
        data, kind = START.encode(), "text/javascript"
    elif name in FILES:
        data, kind = _file(name), FILES[name]
    else:
        raise NotFoundError(f"docs: there is no file {name!r}", "not_found")
    headers = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
    return tagged(data, kind, headers, if_none_match)


@cache
def _file(name: str) -> bytes:
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise DependencyError(f"the page of the API's description needs fastapi-offline: {install_command('serve')}")
    return Path(found.origin).with_name("static").joinpath(name).read_bytes()
