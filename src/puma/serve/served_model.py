"""A model behind the queue that joins the requests for it. A service has one, or one for each model of its indexes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from puma.errors import InputError
from puma.items.encoder import Encoder
from puma.items.item import Item
from puma.search.cutoffs import Cutoffs
from puma.search.queries import INSTRUCTIONS
from puma.serve.batching import Batcher
from puma.serve.metrics import Metrics
from puma.serve.queue import image_pixels
from puma.serve.settings import ServeSettings
from puma.serve.workers import Workers

CLIENT_GONE: ContextVar[Callable[[], Awaitable[object]] | None] = ContextVar("CLIENT_GONE", default=None)
"""Of the current request: makes an awaitable that completes when the client disconnects. Set by
:mod:`puma.serve.middleware`."""

Instructions = Mapping[tuple[str, str | None], str]


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


class ServedModel:
    """An encoder that many requests share.

    Args:
        encoder: used by one thread only.
        settings: sizes of batches and queue, waiting times, limits of images and inputs. They hold for each model.
        workers: threads that check images and count tokens; its owner closes them.
        metrics: count each batch under the model's fingerprint; None for no counting.
        cutoffs: by which hits are marked as weak, measured on the model's whole vectors; None where they are not known.
        instructions: those of queries, by their modality and the one that is wanted; its own or the general ones if
            None.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: ServeSettings,
        workers: Workers,
        metrics: Metrics | None = None,
        cutoffs: Cutoffs | None = None,
        instructions: Instructions | None = None,
    ) -> None:
        self.encoder, self.settings, self.workers, self.cutoffs = encoder, settings, workers, cutoffs
        own: Instructions = getattr(encoder, "instructions", {})
        self.instructions = (own or INSTRUCTIONS) if instructions is None else instructions
        self.fingerprint = encoder.fingerprint  # of every weight: computed once, not with every item that is added
        self.batcher = Batcher(encoder, settings, None if metrics is None else metrics.of_model(self.fingerprint))
        self.text_tokens: TextCounter | None = getattr(encoder, "text_tokens", None)
        if self.text_tokens is not None:
            self.text_tokens.count("")  # copies the tokenizer now, while nobody uses it
        self.warmed: np.ndarray | None = None

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
        if not long:
            return []
        return await self.workers.blocking(lambda: sorted({n for n, text in long if counter.is_cut(text)}))

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
            pixels = await self.workers.blocking(image_pixels, items, self.settings.max_batch_pixels)
        else:
            pixels = [0] * len(items)
        return await self.batcher.embed(items, given, pixels, CLIENT_GONE.get(), names=names, tokens=tokens)

    async def warm(self) -> np.ndarray:
        """Send a text and an image through the encoder, once: their vectors, float32 [2, dim].

        Raises:
            EncoderFaultError: the model cannot embed anything here.
        """
        if self.warmed is None:
            image = Image.new("RGB", (64, 64), (120, 60, 30))
            self.warmed = await self.batcher.embed([Item("warm"), Item(image=image)], [None, None], [0, 64 * 64])
        return self.warmed

    def close(self) -> None:
        """Finish what was accepted, end the encoder's threads. Blocks until then."""
        self.batcher.close()


def _check_text(text: str | None, what: str) -> None:
    try:
        if text is not None and not text.isascii():
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what}: holds half of a surrogate pair, which is no character") from None
