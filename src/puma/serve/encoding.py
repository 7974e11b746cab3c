"""One batch through the encoder: images decoded, items grouped, faults traced to the item that causes them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from puma.errors import ImageError, ModelError
from puma.items.encoder import Encoder
from puma.items.item import Item, open_image
from puma.serve.queue import Request
from puma.serve.settings import ServeSettings

DECODERS = min(4, os.cpu_count() or 1)
Entry = tuple[Request, int]
"""A request and the place of one of its items."""


class Observer(Protocol):
    """What is notified of the encoder's work, from its thread."""

    def batch(self, modalities: Sequence[str], seconds: float) -> None:
        """Items of these modalities went through the encoder together."""


class BatchEncoding:
    """Embeds batches, one at a time, all from one thread.

    Args:
        encoder: with ``mixed_instructions`` true it takes an instruction an item, with ``counts_tokens`` true it fills
            in how many tokens it read (as :meth:`puma.Retriever.encode` does).
        settings: limits of images.
        observer: notified of each group of items that went through the encoder.
        deliver: called with entries and their vectors [n, dim].
        fail: called with a request of which an item cannot be embedded, and why.

    Attributes:
        rate: items a second, a running mean; 0 before the first.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: ServeSettings,
        observer: Observer | None,
        deliver: Callable[[Sequence[Entry], np.ndarray], None],
        fail: Callable[[Request, BaseException], None],
    ) -> None:
        self.encoder, self.settings, self.observer = encoder, settings, observer
        self.dim, self.rate = encoder.dim, 0.0
        self._deliver, self._fail = deliver, fail
        self.counting = bool(getattr(encoder, "counts_tokens", False))
        self.mixed = bool(getattr(encoder, "mixed_instructions", False))
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="puma-decode")

    def close(self) -> None:
        """End the threads that decode."""
        self._decoders.shutdown()

    def encode(self, entries: Sequence[Entry]) -> None:
        """Embed a batch: texts before images, which take longer; each kind's results go out when they are there."""
        groups: dict[tuple[bool, str | None], list[Entry]] = {}
        for request, place in entries:
            instruction = None if self.mixed else request.instructions[place]
            groups.setdefault((request.items[place].image is not None, instruction), []).append((request, place))
        for with_image, instruction in sorted(groups, key=lambda key: key[0]):
            group = [entry for entry in groups[with_image, instruction] if not entry[0].dead]
            if with_image:
                self._encode_images(group)
            else:
                self._encode(group, [request.items[place] for request, place in group])

    def _encode_images(self, group: Sequence[Entry]) -> None:
        """Decoded first, so that an image which cannot be does not spoil the batch."""
        opened = list(self._decoders.map(self._decoded, [request.items[place] for request, place in group]))
        good: list[Entry] = []
        items: list[Item] = []
        for entry, found in zip(group, opened, strict=True):
            if isinstance(found, Item):
                good.append(entry)
                items.append(found)
            else:
                self._fail(entry[0], _naming(found, *entry))
        self._encode(good, items)

    def _decoded(self, item: Item) -> Item | Exception:
        limits = self.settings
        try:
            assert item.image is not None
            image = open_image(item.image, max_pixels=limits.max_image_pixels, max_bytes=limits.max_image_bytes)
            return Item(item.text, image)
        except Exception as error:
            return error

    def _encode(self, entries: Sequence[Entry], items: Sequence[Item]) -> None:
        """Embed one group and deliver it. If the encoder fails the group is halved until the item at fault is alone."""
        pairs = [pair for pair in zip(entries, items, strict=True) if not pair[0][0].dead]
        if not pairs:
            return
        entries, items = [entry for entry, _ in pairs], [item for _, item in pairs]
        instructions = [request.instructions[place] for request, place in entries]
        started = time.monotonic()
        try:
            tokens = np.zeros(len(items), np.int64)
            vectors = self._vectors(items, instructions, tokens)
        except Exception as error:
            if len(entries) == 1:
                self._fail(entries[0][0], _naming(error, *entries[0]))
                return
            middle = len(entries) // 2
            self._encode(entries[:middle], items[:middle])
            self._encode(entries[middle:], items[middle:])
            return
        seconds = time.monotonic() - started
        rate = len(items) / max(seconds, 1e-6)
        self.rate = rate if not self.rate else 0.8 * self.rate + 0.2 * rate
        if self.observer is not None:
            self.observer.batch([item.modality for item in items], seconds)
        for (request, place), count in zip(entries, tokens, strict=True):
            if request.tokens is not None:
                request.tokens[place] = count
        self._deliver(entries, vectors)

    def _vectors(self, items: Sequence[Item], instructions: Sequence[str | None], tokens: np.ndarray) -> np.ndarray:
        same = all(instruction == instructions[0] for instruction in instructions)
        given = instructions[0] if same else list(instructions)
        options: dict[str, Any] = {"tokens": tokens} if self.counting else {}
        encoded = self.encoder.encode(items, instruction=given, **options)  # type: ignore[arg-type]
        vectors = np.asarray(encoded, dtype=np.float32)
        if vectors.shape != (len(items), self.dim) or not np.isfinite(vectors).all():
            raise ModelError(
                f"the model gave {list(vectors.shape)} values, or some that are not finite, "
                f"where [{len(items)}, {self.dim}] finite ones are due"
            )
        return vectors


def _naming(error: Exception, request: Request, place: int) -> Exception:
    """An image's fault with the name that the request has for it, instead of its type's."""
    if not isinstance(error, ImageError) or request.names is None:
        return error
    return ImageError(f"{request.names[place]}: {re.sub(r'^<[A-Za-z]+>: ', '', str(error))}")
