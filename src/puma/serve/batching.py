"""Requests of many clients joined into batches for one encoder, which runs in a thread of its own.

While the encoder works, requests gather; when it is done it takes as many as a batch holds. A batch is delayed to be
joined by further requests only where the last one served several, and then for a moment only. Waiting requests get
equal shares of each batch: one with a thousand items cannot keep one with a single item waiting for more than a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np

from puma.errors import InputError
from puma.items.encoder import Encoder
from puma.items.item import Item
from puma.serve.encoding import BatchEncoding, Entry, Observer
from puma.serve.queue import (
    BusyError,
    ClientGoneError,
    ClosingError,
    EncoderFaultError,
    Request,
    WaitedTooLongError,
    next_batch,
)
from puma.serve.settings import ServeSettings

LONGEST_RETRY_S = 60
BATCHING_DELAY = 0.05
"""Share of the last batch's time, at most, for which the next one is delayed."""


class Batcher:
    """Embeds items for many requests at once.

    Args:
        encoder: used by one thread only. With ``mixed_instructions`` true it takes an instruction an item.
        settings: sizes of batches and queue, waiting times, limits of images.
        observer: notified of each batch.
    """

    def __init__(self, encoder: Encoder, settings: ServeSettings, observer: Observer | None = None) -> None:
        self.settings = settings
        self.dim = encoder.dim
        self.encoding = BatchEncoding(encoder, settings, observer, self._deliver, self._fail)
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._weight = 0
        self._closing = False
        self._busy = False
        self._several = False
        self._lasted = 0.0
        self._thread: threading.Thread | None = None

    @property
    def depth(self) -> int:
        """Items that wait."""
        with self._changed:
            return sum(len(request.items) - request.taken for request in self._waiting)

    async def embed(
        self,
        items: Sequence[Item],
        instructions: Sequence[str | None],
        pixels: Sequence[int],
        gone: Callable[[], Awaitable[object]] | None = None,
        *,
        names: Sequence[str] | None = None,
        tokens: np.ndarray | None = None,
    ) -> np.ndarray:
        """Embed the items of one request: float32 [n, dim].

        Args:
            instructions: one an item, or None.
            pixels: of each item's image, 0 for a text; see :func:`puma.serve.queue.image_pixels`.
            gone: makes an awaitable that completes when the client disconnects.
            names: what messages call the items.
            tokens: integers [n], filled with how many tokens the model read of each, where the encoder tells.

        Raises:
            BusyError, ClosingError: nothing was begun. WaitedTooLongError, ClientGoneError: the rest was dropped.
            ImageError: an image cannot be decoded. EncoderFaultError: the encoder failed.
        """
        if not items:
            return np.zeros((0, self.dim), np.float32)
        request = self._admit(items, instructions, pixels, names, tokens)
        watcher = None
        if gone is not None:
            watcher = asyncio.ensure_future(gone())
            watcher.add_done_callback(partial(_gone, request))
        try:
            return await request.future
        finally:
            if watcher is not None:
                watcher.cancel()
            if request.timer is not None:
                request.timer.cancel()
            if request.left:
                self._drop(request)

    def close(self) -> None:
        """Take nothing new, finish what waits, end the thread. Blocks until then."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.encoding.close()

    def _admit(
        self,
        items: Sequence[Item],
        instructions: Sequence[str | None],
        pixels: Sequence[int],
        names: Sequence[str] | None,
        tokens: np.ndarray | None,
    ) -> Request:
        loop = asyncio.get_running_loop()
        limits = self.settings
        weight = min(len(items), limits.max_batch, limits.max_queue)
        now = time.monotonic()
        future = loop.create_future()
        request = Request(items, instructions, pixels, weight, future, loop, now, left=len(items))
        request.names, request.tokens = names, tokens
        with self._changed:
            if self._closing:
                raise ClosingError("the service is shutting down; ask again when it is back")
            if self._weight + weight > limits.max_queue:
                raise BusyError(
                    f"{self._weight} items are waiting and the queue holds {limits.max_queue}; try again later",
                    self._retry_after(),
                )
            self._waiting.append(request)
            self._weight += weight
            if self._thread is None:
                # A daemon: a second Ctrl-C must not wait for a forward pass.
                self._thread = threading.Thread(target=self._work, name="puma-encoder", daemon=True)
                self._thread.start()
            if not self._busy:
                self._changed.notify_all()
        request.timer = loop.call_later(limits.timeout_s, self._late, request)
        return request

    def _retry_after(self) -> int:
        items = sum(len(request.items) - request.taken for request in self._waiting)
        return max(1, min(LONGEST_RETRY_S, math.ceil(items / self.encoding.rate))) if self.encoding.rate else 1

    def _late(self, request: Request) -> None:
        if request.future.done():
            return
        rest = request.touched + self.settings.timeout_s - time.monotonic()
        if rest > 0:  # parts of it came meanwhile
            request.timer = request.loop.call_later(rest, self._late, request)
            return
        waited = f"no result within {self.settings.timeout_s:g} s; the service is busy, try again later"
        request.future.set_exception(WaitedTooLongError(waited))

    def _drop(self, request: Request) -> None:
        with self._changed:
            request.dead = True
            if request in self._waiting:
                self._waiting.remove(request)
                self._weight -= request.weight

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                idle = not self._waiting
                while not self._waiting:
                    if self._closing:
                        return
                    self._changed.wait()
                if self._several and not self._closing:
                    self._delay(idle)
                self._busy = True
                entries = self._take_batch()
            started = time.monotonic()
            try:
                self.encoding.encode(entries)
            except BaseException as error:  # a defect here must not leave everyone waiting for a thread that is gone
                for request in {request for request, _ in entries}:
                    if not request.dead:
                        self._fail(request, error)
            self._lasted = time.monotonic() - started

    def _delay(self, idle: bool) -> None:
        """The batching delay: wait for further requests, up to the time limit or a full batch.

        After a batch most of its clients send their next request within a moment. Without a delay they and those who
        waited would take turns in two half batches for ever; it may cost a small part of what a batch takes.
        """
        delay = self.settings.max_wait_ms / 1000
        if not idle:
            delay = min(delay, BATCHING_DELAY * self._lasted)
        until = time.monotonic() + delay
        while self._waiting and self._weight < self.settings.max_batch and not self._closing:
            rest = until - time.monotonic()
            if rest <= 0:
                return
            self._changed.wait(rest)

    def _take_batch(self) -> list[tuple[Request, int]]:
        """The next batch; the lock is held."""
        batch, self._waiting = next_batch(self._waiting, self.settings)
        self._weight -= sum(request.weight for request in batch.served if request.taken == len(request.items))
        self._several = len(batch.served) > 1
        return batch.entries

    def _deliver(self, entries: Sequence[Entry], vectors: np.ndarray) -> None:
        now = time.monotonic()
        done = []
        for (request, place), vector in zip(entries, vectors, strict=True):
            if request.vectors is None:
                request.vectors = np.empty((len(request.items), self.dim), np.float32)
            request.vectors[place] = vector
            request.left -= 1
            request.touched = now
            if not request.left:
                done.append(request)
        loops: dict[asyncio.AbstractEventLoop, list[Request]] = {}
        for request in done:
            loops.setdefault(request.loop, []).append(request)
        for loop, requests in loops.items():
            _call_in(loop, _finish, requests)

    def _fail(self, request: Request, error: BaseException) -> None:
        self._drop(request)
        if not isinstance(error, (InputError, MemoryError)):
            fault = EncoderFaultError(f"the model failed ({type(error).__name__}: {error})")
            fault.__cause__ = error
            error = fault
        _call_in(request.loop, _refuse, request, error)


def _gone(request: Request, watcher: asyncio.Future) -> None:
    if not watcher.cancelled() and watcher.exception() is None and not request.future.done():
        request.future.set_exception(ClientGoneError("the client disconnected"))


def _finish(requests: Sequence[Request]) -> None:
    for request in requests:
        if not request.future.done():
            assert request.vectors is not None
            request.future.set_result(request.vectors)


def _refuse(request: Request, error: BaseException) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
        loop.call_soon_threadsafe(function, *arguments)
