"""From items to a model's input tensors: the prompt written out, texts cut to its limit, images within the processors'
limits.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from puma.errors import ImageError, ModelError
from puma.items.item import Item
from puma.retriever.images.decoding import decode_side, why_refused, within_limits
from puma.retriever.images.quick_pixels import quick_pixels
from puma.retriever.pooling import last_token_state
from puma.retriever.prompts import RET, PromptFormat, control_tokens
from puma.retriever.stored_vision import VisionFeatures
from puma.retriever.writing import PromptWriter


class Inputs(PromptWriter):
    """Turns items into a model's input tensors.

    Args:
        processor: the model's processor; its tokenizer knows ``[RET]``.
        prompt: how items are written out.

    Raises:
        ModelError: the tokenizer has no ``[RET]`` token.
    """

    def __init__(self, processor: Any, prompt: PromptFormat) -> None:
        super().__init__(prompt, control_tokens(processor))
        self.processor = processor
        self.draft = False
        """Whether JPEGs are decoded small where the processor makes them small anyway: faster, and not the very same
        pixels (:mod:`puma.retriever.images.decoding`). Training does; vectors that are kept come of the full image."""
        self.tokenizer = processor.tokenizer
        self.ret_id = self.tokenizer.convert_tokens_to_ids(RET)
        if self.ret_id is None or self.ret_id == self.tokenizer.unk_token_id:
            raise ModelError(f"the tokenizer has no {RET} token: make a retriever of the base (puma train, from_base)")

    @property
    def _image_token(self) -> str:
        return getattr(self.processor, "image_token", None) or "<image>"

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """As :meth:`puma.retriever.writing.PromptWriter.offsets`."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False)
        return list(found["offset_mapping"])

    def token_ids(self, items: Sequence[Item], instructions: Sequence[str | None]) -> list[list[int]]:
        """The tokens of each item as :meth:`~puma.retriever.writing.PromptWriter.written` has them, with one token for
        an image whatever its size."""
        if not items:
            return []
        alone = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        ids: list[list[int]] = self.tokenizer(self.written(items, instructions), **alone)["input_ids"]
        return ids

    def head_ids(self, modality: str, instruction: str | None) -> list[int]:
        """The tokens of what stands before an item's own text or image. The last of them may join with the text."""
        head = self.written_head(modality, instruction)
        ids: list[int] = self.tokenizer(head, add_special_tokens=False)["input_ids"] if head else []
        return ids

    def padded(self, ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """:meth:`features` of items without images, from their :meth:`token_ids`."""
        table = np.full((len(ids), max(map(len, ids))), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros_like(table)
        for row, tokens in enumerate(ids):
            table[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        batch = {"input_ids": torch.from_numpy(table), "attention_mask": torch.from_numpy(mask)}
        self._check(batch["input_ids"], batch["attention_mask"])
        return batch

    def features(
        self,
        items: Sequence[Item],
        instructions: Sequence[str | None] | str | None = None,
        vision: VisionFeatures | None = None,
    ) -> dict[str, torch.Tensor]:
        """One padded batch. Items with and without images may mix where the processor allows it.

        Args:
            items: n items.
            instructions: one for all, or one an item.
            vision: where the tower's outputs may be found; they are used only if every image of the batch is there.

        Returns:
            ``input_ids`` and ``attention_mask`` [n, length] and the processor's image tensors; with stored features
            ``pixel_values`` holds those, [images, channels, height, width].

        Raises:
            ImageError: an image cannot be opened.
        """
        texts = self.written(items, instructions)
        with_image = [item for item in items if item.image is not None]
        stored = [vision.lookup(item) for item in with_image] if vision is not None else []
        if with_image and stored and all(row is not None for row in stored):
            pixels = torch.from_numpy(np.stack(stored)).float()  # type: ignore[arg-type]
            # The projector reads positions as rows: in this layout that view costs no copy in the step.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            texts = [text.replace(self._image_token, self._image_token * pixels[0, 0].numel()) for text in texts]
            batch = dict(self.tokenizer(texts, **_PADDED))
            batch["pixel_values"] = pixels
        elif with_image:
            side = functools.partial(decode_side, self.processor) if self.draft else None
            opened = (None if item.image is None else item.open_image(least_side=side) for item in items)
            images = [[] if image is None else [within_limits(image)] for image in opened]
            try:
                batch = dict(self.processor(text=texts, images=images, **_PADDED))
            except Exception:  # a processor raises almost anything on an image that it does not expect
                self._name_refused(items, images)
                raise
        else:
            batch = dict(self.tokenizer(texts, **_PADDED))
        batch.pop("token_type_ids", None) if not with_image else None
        self._check(batch["input_ids"], batch["attention_mask"])
        return batch

    def _name_refused(self, items: Sequence[Item], images: Sequence[Sequence[Any]]) -> None:
        """Raise an ImageError for the first image that the image processor refuses by itself."""
        for item, held in zip(items, images, strict=True):
            for image in held:
                reason = why_refused(self.processor, image)
                if reason is not None:
                    raise ImageError(f"{item.image_name}: {reason}") from None

    def _check(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        counts = (ids == self.ret_id).sum(1)
        if not bool((counts == 1).all()):
            raise ModelError(
                f"every sequence must hold {RET} exactly once, got {counts.tolist()}: the processor cut or doubled it"
            )
        last = last_token_state(ids, mask)
        if not bool((last == self.ret_id).all()):
            wrong = self.tokenizer.convert_ids_to_tokens(int(last[last != self.ret_id][0]))
            raise ModelError(
                f"{RET} must be the last token of every sequence, and {wrong!r} is: the tokenizer appends it; make the "
                "retriever anew of its base (Retriever.from_base keeps tokenizers from that)"
            )


_PADDED = {"padding": True, "return_tensors": "pt", "padding_side": "right", "add_special_tokens": False}
"""The prompt holds every special token there is (:func:`puma.retriever.prompts.with_special_tokens`)."""


def why_unusable(inputs: Inputs | None, item: Item) -> str | None:
    """Why the item's image cannot be opened or, where ``inputs`` are given, is refused by the processor; else None."""
    try:
        if inputs is None:
            item.open_image()
        elif item.image is not None:
            inputs.features([item])
    except ImageError as error:
        return str(error)
    return None


class _OneAtATime:
    """A tokenizer that several threads may call: a fast one must not be set up by one while another uses it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def __call__(self, *args: Any, **options: Any) -> Any:
        with self._lock:
            return self._tokenizer(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def for_threads(inputs: Inputs) -> Inputs:
    """The same inputs, safe to be used by several threads at once, as long as all use these. They make the same tensors
    with less of Python, of which one thread runs at a time."""
    if isinstance(inputs.tokenizer, _OneAtATime):
        return inputs
    shared = copy.copy(inputs)
    shared.tokenizer = _OneAtATime(inputs.tokenizer)
    shared.processor = copy.copy(inputs.processor)
    shared.processor.tokenizer = shared.tokenizer
    shared.processor.image_processor = quick_pixels(inputs.processor.image_processor)
    return shared
