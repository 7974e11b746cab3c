"""Requests that wait for the encoder, and the equal shares of which a batch is made."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from puma.errors import PumaError
from puma.items.item import FORMATS, Item
from puma.serve.settings import ServeSettings


class BusyError(PumaError):
    """Too much is waiting already. ``retry_after``: seconds after which there should be room."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WaitedTooLongError(PumaError, TimeoutError):
    """A result did not come in time; the rest of its work is dropped."""


class ClosingError(PumaError):
    """The service is shutting down and takes nothing new."""


class ClientGoneError(PumaError):
    """The client disconnected; nobody reads the answer."""


class EncoderFaultError(PumaError):
    """The encoder failed on this request's item; other requests are not touched. The cause is chained."""


@dataclass(eq=False, slots=True)
class Request:
    """One request's items on their way. ``taken`` of them are out of the queue, ``left`` are not embedded yet;
    ``weight`` counts against the queue's bound; ``touched`` is when the last result came; ``names`` is what messages
    call the items; ``tokens`` [n] takes how many tokens the model read of each."""

    items: Sequence[Item]
    instructions: Sequence[str | None]
    pixels: Sequence[int]
    weight: int
    future: asyncio.Future[np.ndarray]
    loop: asyncio.AbstractEventLoop
    touched: float
    vectors: np.ndarray | None = None
    taken: int = 0
    left: int = 0
    dead: bool = False
    timer: asyncio.TimerHandle | None = None
    names: Sequence[str] | None = None
    tokens: np.ndarray | None = None


@dataclass(eq=False, slots=True)
class Batch:
    """What is taken from the queue at once, with the room that is left in it."""

    room: int
    images: int
    pixels: int
    entries: list[tuple[Request, int]] = field(default_factory=list)
    served: set[Request] = field(default_factory=set)

    def take(self, request: Request, share: int) -> int:
        """Up to ``share`` next items of a request, as far as there is room; how many."""
        before = request.taken
        while share and self.room and request.taken < len(request.items):
            pixels = request.pixels[request.taken]
            if pixels:
                if not self.images or pixels > self.pixels:
                    break
                self.images -= 1
                self.pixels -= pixels
            self.entries.append((request, request.taken))
            self.served.add(request)
            request.taken += 1
            self.room -= 1
            share -= 1
        return request.taken - before


def next_batch(waiting: Sequence[Request], limits: ServeSettings) -> tuple[Batch, deque[Request]]:
    """What goes through the encoder next, and what waits on, in order. Shares are equal as far as there is room; who
    got none stays ahead of who got some."""
    batch = Batch(limits.max_batch, limits.max_batch_images, limits.max_batch_pixels)
    unfinished = list(waiting)
    while unfinished and batch.room:
        share = max(1, batch.room // len(unfinished))
        if not sum(batch.take(request, share) for request in unfinished):
            break
        unfinished = [request for request in unfinished if request.taken < len(request.items)]
    return batch, deque(sorted(unfinished, key=lambda request: request in batch.served))


def image_pixels(items: Iterable[Item], most: int) -> list[int]:
    """Pixels of each item's image, read from its header, at most ``most``; 0 for a text.

    A header that cannot be read counts as one pixel: what is wrong with it is reported when it is opened.
    """
    return [0 if item.image is None else max(1, min(most, _pixels(item))) for item in items]


def _pixels(item: Item) -> int:
    try:
        if isinstance(item.image, bytes):
            with Image.open(io.BytesIO(item.image), formats=FORMATS) as image:
                return image.width * image.height
        if isinstance(item.image, Image.Image):
            return item.image.width * item.image.height
        if isinstance(item.image, np.ndarray):
            return int(item.image.size)
    except Exception:
        pass
    return 1
