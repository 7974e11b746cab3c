"""A service follows its indexes when ``puma index migrate`` gives one another model: that model is loaded and warmed
beside the old one, and index and model change together between two requests. Indexes of one model share it; a model
that no index has any more is released.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from puma.errors import IndexMismatchError, InputError
from puma.index import Index
from puma.index.addresses import generations_of
from puma.index.generations import Generation, Generations
from puma.items.dimensions import whole_encoder
from puma.items.encoder import Encoder
from puma.search.cutoffs import Cutoffs, cutoffs_of
from puma.search.searcher import Searcher
from puma.serve.served_model import ServedModel
from puma.serve.service import ServedIndex, Service

LOOK_SECONDS = 2.0
"""How often it is looked which generation counts."""
AGAIN_SECONDS = 60.0
"""After the new model could not be loaded."""
Load = Callable[[str], Encoder]
"""Makes the encoder of a model's folder or name."""
_log = logging.getLogger(__name__)


def searchers_of(encoder: Encoder, indexes: Mapping[str, Index], load: Load) -> dict[str, Searcher]:
    """Indexes with their models: the given encoder for those that it made, and for each other index the model that its
    migration has noted, loaded once for all that share it.

    Args:
        indexes: by name.

    Raises:
        IndexMismatchError: the encoder made none of them, or one of them has another model and no note which.
    """
    searchers: dict[str, Searcher] = {}
    fits: list[Encoder] = [encoder]
    refused: IndexMismatchError | None = None
    for name, index in indexes.items():
        try:
            searchers[name] = Searcher(encoder, index)
        except IndexMismatchError as error:
            refused = refused or error
            if not noted_model(index):
                raise
    if refused is not None and not searchers:
        raise refused
    for name, index in indexes.items():
        if name not in searchers:
            searchers[name] = _joined(index, fits) or Searcher(load(noted_model(index)), index)
            fits.append(whole_encoder(searchers[name].encoder))
    return {name: searchers[name] for name in indexes}


def noted_model(index: Index) -> str:
    """The folder or name of the model that a migration has given to an index; empty for one that never had another."""
    generations = _generations(index)
    return "" if generations is None else generations.current().model


def cutoffs_by_folder(searchers: Mapping[str, Searcher]) -> Callable[[Encoder], Cutoffs | None]:
    """Finds the cut-offs of an encoder in the folder that the migration of its index has noted, or in the package."""

    def found(encoder: Encoder) -> Cutoffs | None:
        own = (each.index for each in searchers.values() if whole_encoder(each.encoder) is encoder)
        return cutoffs_of(encoder, next(filter(None, map(noted_model, own)), None))

    return found


@dataclass
class _Followed:
    """An index, the number of the generation that is served (0: none that counts), and when to look again."""

    generations: Generations
    number: int
    pause_until: float = 0.0


async def follow(service: Service, load: Load) -> None:
    """Exchange indexes and models of a service whenever an index has another generation; never returns.

    Requests that were accepted before are finished by the model they were accepted for.
    """
    followed = await asyncio.to_thread(_all_followed, dict(service.indexes))
    while followed:
        await asyncio.sleep(LOOK_SECONDS)
        for name, one in followed.items():
            if time.monotonic() < one.pause_until:
                continue
            try:
                await _look(service, name, one, load)
            except Exception as error:
                shown = one.generations.shown
                _log.error("%s: its new model cannot be served, the old one goes on: %s", shown, error)
                one.pause_until = time.monotonic() + AGAIN_SECONDS
        await _release(service)


async def _release(service: Service) -> None:
    unused = service.unused_models()  # of this function alone: what :func:`follow` names would not be freed
    if unused:
        await asyncio.gather(*(asyncio.to_thread(model.close) for model in unused))
        service.released(unused)
        unused.clear()
        await asyncio.to_thread(gc.collect)  # a model's modules refer to each other, and its memory is wanted now


async def _look(service: Service, name: str, one: _Followed, load: Load) -> None:
    newest = await asyncio.to_thread(one.generations.current)
    if newest.number == one.number:
        return
    index = await asyncio.to_thread(_index, service, service.indexes[name], newest, load, list(service.models))
    try:
        await index.warm()
    except BaseException:
        if index.model not in service.models:
            await asyncio.to_thread(index.model.close)
            service.released([index.model])
        raise
    service.replace(index)
    one.number = newest.number
    _log.warning("%s: now served with %s", one.generations.shown, newest.model)


def _index(
    service: Service, old: ServedIndex, newest: Generation, load: Load, models: Sequence[ServedModel]
) -> ServedIndex:
    index = Index(old.searcher.index.address, create=False)
    joined = _joined(index, [model.encoder for model in models])
    if joined is not None:
        encoder = whole_encoder(joined.encoder)
        return ServedIndex(old.name, joined, next(model for model in models if model.encoder is encoder))
    searcher = Searcher(load(newest.model), index)
    encoder = whole_encoder(searcher.encoder)
    return ServedIndex(old.name, searcher, service.model(encoder, cutoffs_of(encoder, newest.model), searcher))


def _joined(index: Index, encoders: Sequence[Encoder]) -> Searcher | None:
    """The index with that of these encoders which made it."""
    for encoder in encoders:
        try:
            return Searcher(encoder, index)
        except IndexMismatchError:
            continue
    return None


def _all_followed(indexes: Mapping[str, ServedIndex]) -> dict[str, _Followed]:
    found = {}
    for name, index in indexes.items():
        generations = _generations(index.searcher.index)
        if generations is not None:
            newest = generations.current()
            # It may have been migrated since it was opened.
            same = newest.number == 1 or newest.fingerprint == index.searcher.index.fingerprint
            found[name] = _Followed(generations, newest.number if same else 0)
    return found


def _generations(index: Index) -> Generations | None:
    """None where the engine cannot change a model."""
    try:
        return generations_of(index.address)
    except InputError:
        return None
