"""Items that come in over HTTP: checked, embedded through the service's queue by ``Searcher.add``, stored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from puma.index import Place
from puma.index.interface import encoded_payload
from puma.items.digest import content_digest
from puma.items.dimensions import trained_dimensions
from puma.items.encoder import Skip
from puma.items.item import Item
from puma.search.searcher import Added, Searcher
from puma.serve.batching import BusyError
from puma.serve.served_model import ServedModel
from puma.serve.service import ServedIndex, Service

MAX_WAITING = 16
"""Requests to add that may wait for their turn; each holds its items in memory meanwhile."""


class QueuedEncoder:
    """An :class:`~puma.items.Encoder` for worker threads, whose work waits in the model's queue like all other."""

    def __init__(self, model: ServedModel, loop: asyncio.AbstractEventLoop) -> None:
        self._model, self._loop = model, loop
        self.dim, self.fingerprint = model.encoder.dim, model.fingerprint
        self.dimensions = trained_dimensions(model.encoder)[:-1]

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        return asyncio.run_coroutine_threadsafe(self._model.embed(items, instruction), self._loop).result()


@dataclass(frozen=True)
class Incoming:
    """An item of a request, its id (None: the digest of its content) and its metadata; or why it cannot be used."""

    item: Item | None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a request's items: ``ids``, one each (None: left out), counts, and ``skips`` with reasons."""

    ids: list[str | None]
    added: Added
    skips: list[Skip]


async def add_items(service: Service, index: ServedIndex, incoming: Sequence[Incoming]) -> Outcome:
    """Store items.

    Raises:
        BusyError, TimeoutError: from the queue; what was stored until then stays, and the same request goes on there.
    """
    encoder = QueuedEncoder(index.model, asyncio.get_running_loop())
    if service.writers >= MAX_WAITING:
        raise BusyError(f"{service.writers} requests to add items are waiting; try again later", retry_after=5)
    service.writers += 1
    try:
        async with service.writing:
            # Not in the service's pool: this thread waits for the queue, which needs that pool.
            return await asyncio.to_thread(_add, encoder, index.searcher, incoming, service.settings.max_batch)
    finally:
        service.writers -= 1


def _add(encoder: QueuedEncoder, searcher: Searcher, incoming: Sequence[Incoming], batch_size: int) -> Outcome:
    outcome = Outcome([None] * len(incoming), Added(), [])
    fresh: dict[str, tuple[int, Item, dict[str, Any], str]] = {}
    others: list[tuple[str, dict[str, Any]]] = []  # the same content once more, with other metadata
    for place, given in enumerate(incoming):
        where = f"items[{place}]"
        if given.item is None:
            outcome.skips.append(Skip(where, given.fault))
            continue
        content = content_digest(given.item)
        name = given.id or content
        if name in fresh and fresh[name][3] != content:
            first = fresh[name][0]
            outcome.skips.append(Skip(where, f"id {name!r} is also that of items[{first}], with other content"))
            continue
        outcome.ids[place] = name
        payload = ({} if given.item.text is None else {"text": given.item.text}) | dict(given.metadata)
        if name in fresh and payload != fresh[name][2]:
            others.append((name, payload))
        fresh.setdefault(name, (place, given.item, payload, content))
    if not fresh:
        return outcome
    kept = list(fresh.values())
    added = Searcher(encoder, searcher.index).add(
        [item for _, item, _, _ in kept],
        list(fresh),
        [payload for _, _, payload, _ in kept],
        batch_size=batch_size,
    )
    left_out = set()
    for skip in added.skips:
        assert skip.position is not None  # of items given directly
        place = kept[skip.position][0]
        left_out.add(outcome.ids[place])
        outcome.skips.append(Skip(f"items[{place}]", skip.reason))
    places = [Place("", name, encoded_payload(payload, name)) for name, payload in others if name not in left_out]
    added.places += len(searcher.index.add_places(places))
    added.repeated += sum(name is not None for name in outcome.ids) - len(fresh)
    ids = [None if name in left_out else name for name in outcome.ids]
    return Outcome(ids, added, outcome.skips)
