"""The encoders that ``encode.py`` compares: PUMA's, sentence-transformers', and a plain loop of transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from puma.items import Item
from puma.retriever.encoding import ret_states, seen_images
from puma.retriever.model import Retriever

Embed = Callable[[Sequence[Item], str | None], np.ndarray]
BATCH_SIZES = (8, 16, 32, 64)
"""Tried for the peers; each kind of items is timed at the one that is fastest for it."""


class Peer:
    """One way to embed, over a model folder."""

    def __init__(
        self,
        embed: Callable[[Sequence[Item], str | None, int], np.ndarray],
        sizes: Sequence[int],
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.embed, self.sizes, self.forget = embed, sizes, forget


def ours(folder: Path) -> Peer:
    """``puma.Retriever`` with its defaults, but without puma-mini's classifier of photographs, which the other programs
    lack: all sides make the same vectors."""
    retriever = Retriever.from_pretrained(folder, device="cpu")
    retriever.photo_classifier = None

    def forget() -> None:
        """What it has kept of earlier calls."""
        for memory in (ret_states.MEMORIES, seen_images.MEMORIES):
            memory.clear()

    return Peer(
        lambda items, instruction, size: retriever.encode(list(items), instruction, batch_size=size), (64,), forget
    )


def sentence_transformers(folder: Path) -> Peer:
    """``SentenceTransformer(folder).encode``; images as it takes them, opened from their files within the call."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(os.fspath(folder), device="cpu", model_kwargs={"dtype": "float32"})

    def embed(items: Sequence[Item], instruction: str | None, size: int) -> np.ndarray:
        given: list[Any] = []
        for item in items:
            image = None if item.image is None else _opened(item)
            given.append(
                item.text if image is None else image if item.text is None else {"image": image, "text": item.text}
            )
        options = {"prompt": instruction} if instruction else {}
        return np.asarray(model.encode(given, batch_size=size, show_progress_bar=False, **options))

    return Peer(embed, BATCH_SIZES)


def transformers_loop(folder: Path) -> Peer:
    """What one writes by hand: batches in the order given, the processor, the model, the last token."""
    retriever = Retriever.from_pretrained(folder, device="cpu")  # for the prompt's wording alone
    model, processor, prompt = retriever.model, retriever.processor, retriever.prompt

    @torch.inference_mode()
    def embed(items: Sequence[Item], instruction: str | None, size: int) -> np.ndarray:
        rows = []
        for start in range(0, len(items), size):
            part = items[start : start + size]
            texts = [prompt.render(item.text, item.image is not None, instruction) for item in part]
            images = [[_opened(item)] for item in part if item.image is not None]
            options: dict[str, Any] = {"padding": True, "return_tensors": "pt", "padding_side": "right"}
            if images:
                batch = processor(text=texts, images=images, add_special_tokens=False, **options)
            else:
                batch = processor.tokenizer(texts, add_special_tokens=False, **options)
                batch.pop("token_type_ids", None)
            hidden = model(**batch, use_cache=False).last_hidden_state
            last = batch["attention_mask"].sum(1) - 1
            rows.append(torch.nn.functional.normalize(hidden[torch.arange(len(part)), last], dim=-1).numpy())
        return np.concatenate(rows)

    return Peer(embed, BATCH_SIZES)


PEERS: dict[str, Callable[[Path], Peer]] = {
    "puma": ours,
    "sentence-transformers": sentence_transformers,
    "transformers": transformers_loop,
}


def _opened(item: Item) -> Image.Image:
    with Image.open(item.image) as image:  # type: ignore[arg-type]
        return image.convert("RGB")
