"""``create_app``: the service as an ASGI application."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

import puma
from puma.errors import InputError
from puma.index.addresses import name_of
from puma.items.dimensions import whole_encoder
from puma.items.encoder import Encoder
from puma.search.cutoffs import Cutoffs, cutoffs_of
from puma.search.searcher import Searcher
from puma.serve import routes
from puma.serve.error_responses import install
from puma.serve.following import follow
from puma.serve.middleware import RequestGuard
from puma.serve.schemas import ERRORS
from puma.serve.service import Service
from puma.serve.settings import ServeSettings


def create_app(
    searchers: Searcher | Mapping[str, Searcher] | None = None,
    *,
    encoder: Encoder | None = None,
    settings: ServeSettings | None = None,
    cutoffs: Cutoffs | None = None,
    load: Callable[[str], Encoder] | None = None,
) -> FastAPI:
    """The service as an ASGI application. Under a server it warms the encoder before the first request, and finishes
    what it accepted before it ends.

    Args:
        searchers: one, or several by name, all of one encoder; None to serve embeddings only.
        encoder: needed only without searchers.
        settings: see :class:`ServeSettings`.
        cutoffs: by which hits are marked as weak; those of the package's table if None.
        load: makes the encoder of a model's folder or name: a service of one index then follows it to another model
            (:mod:`puma.serve.following`).

    Raises:
        InputError: neither is given, or the searchers have several encoders.
    """
    if isinstance(searchers, Searcher):
        searchers = {name_of(searchers.index.address): searchers}
    searchers = dict(searchers or {})
    if encoder is None:
        if not searchers:
            raise InputError("create_app needs a searcher or an encoder, got neither")
        encoder = whole_encoder(next(iter(searchers.values())).encoder)
    for name, searcher in searchers.items():
        if whole_encoder(searcher.encoder) is not encoder:
            raise InputError(f"searchers: {name!r} has another encoder than the others; a service has one")
    running = Service(encoder, searchers, settings or ServeSettings(), cutoffs or cutoffs_of(encoder))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await running.warm()
        following = asyncio.create_task(follow(app, load)) if load else None
        yield
        if following is not None:
            following.cancel()
        await asyncio.to_thread(app.state.service.close)

    app = FastAPI(
        title="PUMA",
        version=puma.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=ERRORS,
        # Only for the document and its "Authorize": the request guard has checked the token before.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if running.settings.token else [],
    )
    app.state.service = running
    app.add_middleware(RequestGuard, settings=running.settings, metrics=running.metrics)
    install(app)
    for module in sorted(found.name for found in pkgutil.iter_modules(routes.__path__) if found.name[0] != "_"):
        app.include_router(importlib.import_module(f"puma.serve.routes.{module}").router)
    return app
