"""What every route works with: the indexes, each with its model behind a queue, and the settings."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
from starlette.requests import Request

from puma.errors import InputError
from puma.index import Hit
from puma.items.dimensions import shortened, whole_encoder
from puma.items.encoder import Encoder
from puma.search.cutoffs import Cutoffs
from puma.search.finding import find
from puma.search.queries import QueryBatch
from puma.search.searcher import Searcher
from puma.serve.metrics import Metrics
from puma.serve.served_model import ServedModel
from puma.serve.settings import ServeSettings
from puma.serve.workers import Workers

P = ParamSpec("P")
T = TypeVar("T")


class UnknownIndexError(InputError):
    """No index of this name is served; the message lists those that are."""


@dataclass(frozen=True)
class ServedIndex:
    """An index with the model that made it. A request takes it once and keeps it: index and model then belong together,
    though the index may get another model meanwhile.

    Args:
        name: under which it is served.
        model: whose encoder ``searcher`` has, whole or shortened.
    """

    name: str
    searcher: Searcher
    model: ServedModel

    @property
    def cutoffs(self) -> Cutoffs | None:
        """Those of the model, measured on whole vectors; None for an index of shortened ones."""
        return self.model.cutoffs if self.searcher.encoder.dim == self.model.encoder.dim else None

    async def warm(self) -> None:
        """Embed and search once, so that the first request is as fast as the next.

        Raises:
            EncoderFaultError: the model cannot embed anything here.
        """
        vectors = await self.model.warm()
        index = self.searcher.index
        await self.model.workers.blocking(index.search, shortened(vectors[:1], self.searcher.encoder.dim), 1)
        await self.model.workers.blocking(index.sample)


class Service:
    """The running service. One a process; routes get it by :func:`service`.

    Its attributes change in the event loop's thread only.

    Args:
        searchers: by the names of their indexes. Those of one encoder share its queue.
        encoder: for a service without an index; else the first index's counts.
        cutoffs: of each encoder's hits, asked for once.

    Attributes:
        indexes: by name; the first one is meant where a request names none.
        models: all that are held: those of the indexes, and those that accepted requests still need.
    """

    def __init__(
        self,
        searchers: Mapping[str, Searcher],
        settings: ServeSettings,
        encoder: Encoder | None = None,
        cutoffs: Callable[[Encoder], Cutoffs | None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.metrics, self.workers = Metrics(), Workers(settings)
        models: dict[int, ServedModel] = {}
        for searcher in searchers.values():
            own = whole_encoder(searcher.encoder)
            if id(own) not in models:
                models[id(own)] = self.model(own, cutoffs(own), searcher)
        if encoder is not None and id(encoder) not in models:
            models[id(encoder)] = self.model(encoder, cutoffs(encoder))
        self.models = list(models.values())
        self.indexes = {
            name: ServedIndex(name, searcher, models[id(whole_encoder(searcher.encoder))])
            for name, searcher in searchers.items()
        }
        self.metrics.watch_queues(self._queues)
        # One writer: more would only wait for each other's commits.
        self.writing, self.writers = asyncio.Lock(), 0
        self._unused: dict[int, float] = {}
        self._warm = False

    @property
    def model_name(self) -> str:
        """The name that is answered for the model."""
        return self.settings.model_names[0]

    @property
    def main(self) -> ServedModel:
        """The model of all requests that are not about one index: the first index's."""
        first = next(iter(self.indexes.values()), None)
        return self.models[0] if first is None else first.model

    def index(self, name: str | None) -> ServedIndex:
        """The index of this name; the first one if None.

        Raises:
            UnknownIndexError: there is none.
        """
        if name is None and self.indexes:
            return next(iter(self.indexes.values()))
        if not self.indexes:
            raise UnknownIndexError("this service has no index; start it with one: puma serve my.index")
        if name not in self.indexes:
            raise UnknownIndexError(f"index {name!r}: not served; there are {sorted(self.indexes)}")
        return self.indexes[name]

    def model(self, encoder: Encoder, cutoffs: Cutoffs | None, searcher: Searcher | None = None) -> ServedModel:
        """A further model, which :meth:`replace` takes with the first index that has it. Reads all weights.

        Args:
            searcher: of that index; its instructions are the model's.
        """
        instructions = None if searcher is None else searcher.instructions
        return ServedModel(encoder, self.settings, self.workers, self.metrics, cutoffs, instructions)

    def replace(self, index: ServedIndex) -> None:
        """From the next request on this is the index of its name."""
        if index.model not in self.models:
            self.models.append(index.model)
        self.indexes[index.name] = index

    def unused_models(self) -> list[ServedModel]:
        """Models that no index has had for so long that what they had accepted is answered. They are dropped here; who
        asks has to close them."""
        now = time.monotonic()
        used = {id(index.model) for index in self.indexes.values()} or {id(self.main)}
        unused = {id(model): self._unused.get(id(model), now) for model in self.models if id(model) not in used}
        gone = [model for model in self.models if now - unused.get(id(model), now) > self.settings.timeout_s]
        self.models = [model for model in self.models if model not in gone]
        self._unused = {id(model): unused[id(model)] for model in self.models if id(model) in unused}
        return gone

    def released(self, models: Iterable[ServedModel]) -> None:
        """These models are closed: what was counted for them goes, where no model that is held is the same."""
        for fingerprint in {model.fingerprint for model in models} - {model.fingerprint for model in self.models}:
            self.metrics.forget(fingerprint)

    async def find(
        self,
        searcher: Searcher,
        batch: QueryBatch,
        vectors: np.ndarray,
        k: int,
        where: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """:func:`puma.search.finding.find` for the first query of a batch, off the event loop."""
        started = time.perf_counter()
        hits = await self.blocking(find, searcher.index, batch, vectors, k, where=where)
        self.metrics.searched(time.perf_counter() - started)
        return hits[0]

    async def blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """:meth:`puma.serve.workers.Workers.blocking` of the service's threads."""
        return await self.workers.blocking(function, *args, **kwargs)

    async def warm(self) -> None:
        """Send a text and an image through each model and a search through each index, so that the first request is
        as fast as the next. Done once.

        Raises:
            EncoderFaultError: a model cannot embed anything here.
        """
        if self._warm:
            return
        await self.main.warm()
        for index in self.indexes.values():
            await index.warm()
        self._warm = True

    def _queues(self) -> dict[str, int]:
        depths: Counter[str] = Counter()
        for model in self.models:
            depths[model.fingerprint] += model.batcher.depth
        return depths

    def close(self) -> None:
        """Finish what was accepted, end all threads."""
        for model in self.models:
            model.close()
        self.workers.close()


def service(request: Request) -> Service:
    """The service of this request's app."""
    found: Service = request.app.state.service
    return found
