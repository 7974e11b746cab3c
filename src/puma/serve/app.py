"""``create_app``: the service as an ASGI application."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

import puma
from puma.errors import InputError
from puma.index.addresses import name_of
from puma.items.dimensions import whole_encoder
from puma.items.encoder import Encoder
from puma.search.cutoffs import Cutoffs
from puma.search.searcher import Searcher
from puma.serve import routes
from puma.serve.error_responses import install
from puma.serve.following import Load, cutoffs_by_folder, follow
from puma.serve.middleware import RequestGuard
from puma.serve.reading import OneReadEach
from puma.serve.schemas import ERRORS
from puma.serve.service import Service
from puma.serve.settings import ServeSettings


def create_app(
    searchers: Searcher | Mapping[str, Searcher] | None = None,
    *,
    encoder: Encoder | None = None,
    settings: ServeSettings | None = None,
    cutoffs: Cutoffs | None = None,
    load: Load | None = None,
) -> FastAPI:
    """The service as an ASGI application. Under a server it warms the encoder before the first request, and finishes
    what it accepted before it ends.

    Args:
        searchers: one, or several by name; None to serve embeddings only. Each encoder is held once, whole, so those
            of one model should share it. The first one's also answers what is not about one index: embeddings and
            reranking.
        encoder: needed only without searchers.
        settings: see :class:`ServeSettings`.
        cutoffs: by which hits are marked as weak, of ``encoder``, or of the first searcher's. Those of the package's
            table, or of a model that a migration has noted, where this is None and for further encoders.
        load: makes the encoder of a model's folder or name: the service then follows its indexes to other models
            (:mod:`puma.serve.following`).

    Raises:
        InputError: neither is given, or no searcher has the encoder.
    """
    if isinstance(searchers, Searcher):
        searchers = {name_of(searchers.index.address): searchers}
    searchers = dict(searchers or {})
    encoders = [whole_encoder(searcher.encoder) for searcher in searchers.values()]
    if not encoders and encoder is None:
        raise InputError("create_app needs a searcher or an encoder, got neither")
    if encoders and encoder is not None and not any(encoder is other for other in encoders):
        raise InputError("encoder: none of the searchers has it; leave it out, the first searcher's is taken")
    given = encoder if encoder is not None else encoders[0]
    noted = cutoffs_by_folder(searchers)

    def found(other: Encoder) -> Cutoffs | None:
        return cutoffs if cutoffs is not None and other is given else noted(other)

    running = Service(searchers, settings or ServeSettings(), encoder, found)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await running.warm()
        following = asyncio.create_task(follow(running, load)) if load else None
        yield
        if following is not None:
            following.cancel()
        await asyncio.to_thread(running.close)

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
    app.add_middleware(OneReadEach)
    app.add_middleware(RequestGuard, settings=running.settings, metrics=running.metrics)
    install(app)
    for module in sorted(found.name for found in pkgutil.iter_modules(routes.__path__) if found.name[0] != "_"):
        app.include_router(importlib.import_module(f"puma.serve.routes.{module}").router)
    return app
