"""A service follows its index when ``puma index migrate`` gives it another model: the new model is loaded and warmed
beside the old one, and both encoder and index change between two requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fastapi import FastAPI

from puma.errors import InputError
from puma.index import Index
from puma.index.addresses import generations_of
from puma.index.generations import Generation, Generations
from puma.items.encoder import Encoder
from puma.search.cutoffs import cutoffs_of
from puma.search.searcher import Searcher
from puma.serve.service import Service

LOOK_SECONDS = 2.0
"""How often it is looked which generation counts."""
AGAIN_SECONDS = 60.0
"""After the new model could not be loaded."""
_log = logging.getLogger(__name__)


def followed(service: Service) -> tuple[str, Generations] | None:
    """The name and the models of the one index that is served; None where there are several, since a service has one
    encoder, or where the engine cannot change a model."""
    if len(service.searchers) != 1:
        return None
    name, searcher = next(iter(service.searchers.items()))
    try:
        return name, generations_of(searcher.index.address)
    except InputError:
        return None


async def follow(app: FastAPI, load: Callable[[str], Encoder]) -> None:
    """Replace ``app.state.service`` whenever its index has another generation; never returns.

    Requests that the old service has accepted are finished by it.

    Args:
        load: makes the encoder of a model's folder or name.
    """
    found = await asyncio.to_thread(followed, app.state.service)
    if found is None:
        return
    name, generations = found
    served = await asyncio.to_thread(generations.current)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            newest = await asyncio.to_thread(generations.current)
            if newest.number == served.number:
                continue
            made = await asyncio.to_thread(_service, app.state.service, name, newest, load)
            await made.warm()
        except Exception as error:
            _log.error("%s: its new model cannot be served, the old one goes on: %s", generations.shown, error)
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        old, app.state.service, served = app.state.service, made, newest
        _log.warning("%s: now served with %s", generations.shown, newest.model)
        await asyncio.sleep(old.settings.timeout_s)  # what it has accepted is answered by then
        await asyncio.to_thread(old.close)


def _service(old: Service, name: str, newest: Generation, load: Callable[[str], Encoder]) -> Service:
    encoder = load(newest.model)
    searcher = Searcher(encoder, Index(old.searchers[name].index.address, create=False))
    return Service(encoder, {name: searcher}, old.settings, cutoffs_of(encoder), old.metrics)
