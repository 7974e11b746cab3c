"""Requests of many clients joined into batches for one encoder, which runs in a thread of its own.

Here: the queue with its bound, the encoder's thread, and how results, faults and cancellations find their way. Not
here: how a batch is shared out (:mod:`puma.serve.queue`), HTTP, indexes (:mod:`puma.serve.service`).

While the encoder works, requests gather; when it is done it takes as many as a batch holds, so no request waits for
company except where others have lately been about, and then for a moment only. Waiting requests get equal shares of
each batch: one with a thousand items cannot keep one with a single item waiting for more than a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from puma.errors import InputError, ModelError
from puma.items.encoder import Encoder
from puma.items.item import Item, open_image
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
PATIENCE = 0.05
"""Of the last batch's time, at most, is spent on waiting for its clients to ask again."""
DECODERS = min(4, os.cpu_count() or 1)


class Observer(Protocol):
    """What is told about the work, from the encoder's thread."""

    def batch(self, modalities: Sequence[str], seconds: float) -> None:
        """Items of these modalities went through the encoder together."""


class Batcher:
    """Embeds items for many requests at once.

    Args:
        encoder: used by one thread only. With ``mixed_instructions`` true it takes an instruction an item.
        settings: sizes of batches and queue, waiting times, limits of images.
        observer: hears of each batch.
    """

    def __init__(self, encoder: Encoder, settings: ServeSettings, observer: Observer | None = None) -> None:
        self.encoder, self.settings, self.observer = encoder, settings, observer
        self.dim = encoder.dim
        self._mixed = bool(getattr(encoder, "mixed_instructions", False))
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._weight = 0
        self._closing = False
        self._busy = False
        self._company = False
        self._lasted = 0.0
        self._rate = 0.0
        self._thread: threading.Thread | None = None
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="puma-decode")

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
    ) -> np.ndarray:
        """Embed the items of one request: float32 [n, dim].

        Args:
            instructions: one an item, or None.
            pixels: of each item's image, 0 for a text; see :func:`puma.serve.queue.image_pixels`.
            gone: comes back when whoever asked has hung up.

        Raises:
            BusyError, ClosingError: nothing was begun. WaitedTooLongError, ClientGoneError: the rest was dropped.
            ImageError: an image cannot be decoded. EncoderFaultError: the encoder failed.
        """
        if not items:
            return np.zeros((0, self.dim), np.float32)
        request = self._admitted(items, instructions, pixels)
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
        self._decoders.shutdown()

    def _admitted(self, items: Sequence[Item], instructions: Sequence[str | None], pixels: Sequence[int]) -> Request:
        loop = asyncio.get_running_loop()
        limits = self.settings
        weight = min(len(items), limits.max_batch, limits.max_queue)
        now = time.monotonic()
        request = Request(items, instructions, pixels, weight, loop.create_future(), loop, now, left=len(items))
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
        return max(1, min(LONGEST_RETRY_S, math.ceil(items / self._rate))) if self._rate else 1

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
                if self._company and not self._closing:
                    self._await_company(idle)
                self._busy = True
                entries = self._taken()
            started = time.monotonic()
            try:
                self._encode_all(entries)
            except BaseException as error:  # a defect here must not leave everyone waiting for a thread that is gone
                for request in {request for request, _ in entries}:
                    if not request.dead:
                        self._fail(request, error)
            self._lasted = time.monotonic() - started

    def _await_company(self, idle: bool) -> None:
        """A little patience, but only where the last batch shows that others are about.

        After a batch most of its clients ask again within a moment. Without patience they and those who waited would
        take turns in two half batches for ever; it may cost a small part of what a batch takes.
        """
        patience = self.settings.max_wait_ms / 1000
        if not idle:
            patience = min(patience, PATIENCE * self._lasted)
        until = time.monotonic() + patience
        while self._waiting and self._weight < self.settings.max_batch and not self._closing:
            rest = until - time.monotonic()
            if rest <= 0:
                return
            self._changed.wait(rest)

    def _taken(self) -> list[tuple[Request, int]]:
        """The next batch; the lock is held."""
        batch, self._waiting = next_batch(self._waiting, self.settings)
        self._weight -= sum(request.weight for request in batch.served if request.taken == len(request.items))
        self._company = len(batch.served) > 1
        return batch.entries

    def _encode_all(self, entries: Sequence[tuple[Request, int]]) -> None:
        """Texts before images, which take longer; each kind's results go out when they are there."""
        groups: dict[tuple[bool, str | None], list[tuple[Request, int]]] = {}
        for request, place in entries:
            asked = None if self._mixed else request.instructions[place]
            groups.setdefault((request.items[place].image is not None, asked), []).append((request, place))
        for with_image, asked in sorted(groups, key=lambda key: key[0]):
            group = [entry for entry in groups[with_image, asked] if not entry[0].dead]
            if with_image:
                self._encode_images(group)
            else:
                self._encode(group, [request.items[place] for request, place in group])

    def _encode_images(self, group: Sequence[tuple[Request, int]]) -> None:
        """Decoded first, so that an image which cannot be does not spoil the batch."""
        opened = list(self._decoders.map(self._opened, [request.items[place] for request, place in group]))
        good: list[tuple[Request, int]] = []
        items: list[Item] = []
        for entry, found in zip(group, opened, strict=True):
            if isinstance(found, Item):
                good.append(entry)
                items.append(found)
            else:
                self._fail(entry[0], found)
        self._encode(good, items)

    def _opened(self, item: Item) -> Item | Exception:
        limits = self.settings
        try:
            assert item.image is not None
            image = open_image(item.image, max_pixels=limits.max_image_pixels, max_bytes=limits.max_image_bytes)
            return Item(item.text, image)
        except Exception as error:
            return error

    def _encode(self, entries: Sequence[tuple[Request, int]], items: Sequence[Item]) -> None:
        """Embed one group and hand the results out. If the encoder fails it is halved until the guilty are alone."""
        pairs = [pair for pair in zip(entries, items, strict=True) if not pair[0][0].dead]
        if not pairs:
            return
        entries, items = [entry for entry, _ in pairs], [item for _, item in pairs]
        instructions = [request.instructions[place] for request, place in entries]
        started = time.monotonic()
        try:
            vectors = self._vectors(items, instructions)
        except Exception as error:
            if len(entries) == 1:
                self._fail(entries[0][0], error)
                return
            middle = len(entries) // 2
            self._encode(entries[:middle], items[:middle])
            self._encode(entries[middle:], items[middle:])
            return
        seconds = time.monotonic() - started
        rate = len(items) / max(seconds, 1e-6)
        self._rate = rate if not self._rate else 0.8 * self._rate + 0.2 * rate
        if self.observer is not None:
            self.observer.batch([item.modality for item in items], seconds)
        self._hand_out(entries, vectors)

    def _vectors(self, items: Sequence[Item], instructions: Sequence[str | None]) -> np.ndarray:
        one = all(asked == instructions[0] for asked in instructions)
        asked = instructions[0] if one else list(instructions)
        vectors = np.asarray(self.encoder.encode(items, instruction=asked), dtype=np.float32)  # type: ignore[arg-type]
        if vectors.shape != (len(items), self.dim) or not np.isfinite(vectors).all():
            raise ModelError(
                f"the model gave {list(vectors.shape)} values, or some that are not finite, "
                f"where [{len(items)}, {self.dim}] finite ones are due"
            )
        return vectors

    def _hand_out(self, entries: Sequence[tuple[Request, int]], vectors: np.ndarray) -> None:
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
            _tell(loop, _finish, requests)

    def _fail(self, request: Request, error: BaseException) -> None:
        self._drop(request)
        if not isinstance(error, (InputError, MemoryError)):
            fault = EncoderFaultError(f"the model failed ({type(error).__name__}: {error})")
            fault.__cause__ = error
            error = fault
        _tell(request.loop, _refuse, request, error)


def _gone(request: Request, watcher: asyncio.Future) -> None:
    if not watcher.cancelled() and watcher.exception() is None and not request.future.done():
        request.future.set_exception(ClientGoneError("the client hung up"))


def _finish(requests: Sequence[Request]) -> None:
    for request in requests:
        if not request.future.done():
            assert request.vectors is not None
            request.future.set_result(request.vectors)


def _refuse(request: Request, error: BaseException) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
        loop.call_soon_threadsafe(function, *arguments)
