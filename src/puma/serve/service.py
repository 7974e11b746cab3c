"""What every route works with: the encoder behind its batcher, the indexes, the settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
from PIL import Image
from starlette.requests import Request

from puma.errors import InputError
from puma.index import Hit
from puma.items.dimensions import shortened
from puma.items.encoder import Encoder
from puma.items.item import Item
from puma.search.cutoffs import Cutoffs
from puma.search.finding import find
from puma.search.queries import QueryBatch
from puma.search.searcher import Searcher
from puma.serve.batching import Batcher
from puma.serve.metrics import Metrics
from puma.serve.queue import BusyError, WaitedTooLongError, image_pixels
from puma.serve.settings import ServeSettings

P = ParamSpec("P")
T = TypeVar("T")

CLIENT_GONE: ContextVar[Callable[[], Awaitable[object]] | None] = ContextVar("CLIENT_GONE", default=None)
"""Of the current request: makes an awaitable that completes when the client disconnects. Set by
:mod:`puma.serve.middleware`."""


class UnknownIndexError(InputError):
    """No index of this name is served; the message lists those that are."""


@dataclass(frozen=True)
class Embedded:
    """What became of a request's items.

    Args:
        vectors: float32 [n, dim].
        tokens: int [n], that the model read of each, the prompt's and the image's included; 0 where it does not tell.
        cut: places of the items of which a text, or the instruction, was too long to be read to its end.
    """

    vectors: np.ndarray
    tokens: np.ndarray
    cut: list[int]


class TextCounter(Protocol):
    """What an encoder may have as ``text_tokens``; see :class:`puma.retriever.text_tokens.TextTokens`."""

    limit: int

    def count(self, text: str) -> int: ...

    def is_cut(self, text: str | None) -> bool: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Service:
    """The running service. One a process; routes get it by :func:`service`."""

    def __init__(
        self,
        encoder: Encoder,
        searchers: Mapping[str, Searcher],
        settings: ServeSettings,
        cutoffs: Cutoffs | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.encoder, self.searchers, self.settings = encoder, dict(searchers), settings
        self.cutoffs = cutoffs
        self.metrics = metrics or Metrics()
        self.batcher = Batcher(encoder, settings, self.metrics)
        self.metrics.watch_queue(lambda: self.batcher.depth)
        self.fingerprint = encoder.fingerprint  # of every weight: computed once, not with every item that is added
        self.text_tokens: TextCounter | None = getattr(encoder, "text_tokens", None)
        if self.text_tokens is not None:
            self.text_tokens.count("")  # copies the tokenizer now, while nobody uses it
        # One writer: more would only wait for each other's commits.
        self.writing, self.writers = asyncio.Lock(), 0
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="puma-index")
        self._pending = 0
        self._warm = False

    @property
    def model_name(self) -> str:
        """The name that is answered for the model."""
        return self.settings.model_names[0]

    def searcher(self, name: str | None) -> Searcher:
        """The index of this name; the first one if None.

        Raises:
            UnknownIndexError: there is none.
        """
        if name is None and self.searchers:
            return next(iter(self.searchers.values()))
        if not self.searchers:
            raise UnknownIndexError("this service has no index; start it with one: puma serve my.index")
        if name not in self.searchers:
            raise UnknownIndexError(f"index {name!r}: not served; there are {sorted(self.searchers)}")
        return self.searchers[name]

    def cutoffs_of(self, searcher: Searcher) -> Cutoffs | None:
        """Those of the model, measured on whole vectors; None for an index of shortened ones."""
        return self.cutoffs if searcher.encoder.dim == self.encoder.dim else None

    async def embed_counted(
        self,
        items: Sequence[Item],
        instructions: Sequence[str | None] | str | None = None,
        *,
        names: Sequence[str],
        truncate: bool = True,
    ) -> Embedded:
        """As :meth:`embed`, with the tokens that were read, and what was too long to be read whole.

        Args:
            truncate: False refuses a text that is too long.

        Raises:
            InputError: a text is too long and ``truncate`` is False. Else as :meth:`embed`.
        """
        cut = await self.cut_places(items, instructions)
        if cut and not truncate:
            assert self.text_tokens is not None
            raise InputError(
                f"{names[cut[0]]}: its text or instruction is over the limit of {self.text_tokens.limit} tokens; "
                "shorten or divide it, or let it be truncated"
            )
        tokens = np.zeros(len(items), np.int64)
        return Embedded(await self.embed(items, instructions, names=names, tokens=tokens), tokens, cut)

    async def cut_places(
        self, items: Sequence[Item], instructions: Sequence[str | None] | str | None = None
    ) -> list[int]:
        """Places of the items of which the text, or the instruction, is too long to be read to its end."""
        counter = self.text_tokens
        if counter is None:
            return []
        given = [instructions] * len(items) if instructions is None or isinstance(instructions, str) else instructions
        # A token is at least one character: most texts need not be counted. (One longer by control tokens only is not
        # seen here.)
        long = [
            (place, text)
            for place, (item, instruction) in enumerate(zip(items, given, strict=True))
            for text in (item.text, instruction)
            if len(text or "") > counter.limit
        ]
        return await self.blocking(lambda: sorted({n for n, text in long if counter.is_cut(text)})) if long else []

    async def embed(
        self,
        items: Sequence[Item],
        instructions: Sequence[str | None] | str | None = None,
        *,
        names: Sequence[str] | None = None,
        tokens: np.ndarray | None = None,
    ) -> np.ndarray:
        """Embed items together with those of other requests: float32 [n, dim].

        Args:
            items: images as encoded bytes; they are decoded when their turn comes.
            instructions: one for all, or one an item.
            names: what messages call the items.
            tokens: integers [n], filled with how many tokens the model read of each; 0 where the encoder does not tell.

        Raises:
            InputError: too many items, or a text that no UTF-8 can say. ImageError: an image cannot be decoded. Only
                this request fails.
            BusyError: the queue is full (429). WaitedTooLongError (a TimeoutError): it waited too long (503).
        """
        given = [instructions] * len(items) if instructions is None or isinstance(instructions, str) else instructions
        if len(given) != len(items):
            raise InputError(f"instructions: {len(given)} of them for {len(items)} items; give one for all or one each")
        if len(items) > self.settings.max_inputs:
            raise InputError(f"{len(items)} inputs are over the limit of {self.settings.max_inputs} a request")
        for place, (item, instruction) in enumerate(zip(items, given, strict=True)):
            name = f"input {place}" if names is None else names[place]
            _check_text(item.text, name)
            _check_text(instruction, f"the instruction of {name}")
        if any(item.image is not None for item in items):
            pixels = await self.blocking(image_pixels, items, self.settings.max_batch_pixels)
        else:
            pixels = [0] * len(items)
        return await self.batcher.embed(items, given, pixels, CLIENT_GONE.get(), names=names, tokens=tokens)

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
        """Run what blocks (index reads and writes, decoding) in a pool of a few threads.

        Raises:
            BusyError: too much is waiting for them. WaitedTooLongError: it took too long; it may still be done.
        """
        if self._pending >= self.settings.max_queue:
            raise BusyError(f"{self._pending} calls are waiting for the indexes; try again later")
        self._pending += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))
        except BaseException:
            self._pending -= 1
            raise
        work.add_done_callback(self._returned)
        done, _ = await asyncio.wait({work}, timeout=self.settings.timeout_s)
        if not done:
            work.cancel()
            raise WaitedTooLongError(f"no answer within {self.settings.timeout_s:g} s; the service is busy, try later")
        return work.result()

    def _returned(self, work: asyncio.Future) -> None:
        self._pending -= 1
        if not work.cancelled():
            work.exception()  # retrieved: the caller may be gone

    async def warm(self) -> None:
        """Send a text and an image through the encoder and a search through each index, so that the first request is
        as fast as the next. Done once.

        Raises:
            EncoderFaultError: the model cannot embed anything here.
        """
        if self._warm:
            return
        image = Image.new("RGB", (64, 64), (120, 60, 30))
        vectors = await self.batcher.embed([Item("warm"), Item(image=image)], [None, None], [0, 64 * 64])
        for searcher in self.searchers.values():
            await self.blocking(searcher.index.search, shortened(vectors[:1], searcher.encoder.dim), 1)
            await self.blocking(searcher.index.sample)
        self._warm = True

    def close(self) -> None:
        """Finish what was accepted, end all threads."""
        self.batcher.close()
        self._pool.shutdown()


def service(request: Request) -> Service:
    """The service of this request's app."""
    found: Service = request.app.state.service
    return found


def _check_text(text: str | None, what: str) -> None:
    try:
        if text is not None and not text.isascii():
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what}: holds half of a surrogate pair, which is no character") from None
