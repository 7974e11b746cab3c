"""From items to hidden states and unit vectors: :func:`encode_batches`, the one loop of forward passes over items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.nn import functional

from puma.errors import InputError
from puma.items.item import Item
from puma.retriever.encoding.bounded import BoundedMemory
from puma.retriever.encoding.feeding import Feeder, Known, Made
from puma.retriever.encoding.folding import fast_tower
from puma.retriever.encoding.image_cache import Blob, ByteCache, ImageCache, MemoryFirst
from puma.retriever.encoding.planning import Head, item_heads, kinds_by_head, planned_batches
from puma.retriever.encoding.quick_linear import quick_linears
from puma.retriever.encoding.repeats import Key, are_few, content_keys, first_of_each
from puma.retriever.encoding.ret_states import RetStates
from puma.retriever.encoding.seen_images import SeenImages, takes_seen_images
from puma.retriever.encoding.states import Features
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.inputs import Inputs, for_threads
from puma.retriever.stored_vision import VisionFeatures, stored_vision
from puma.retriever.writing import one_an_item

Output = TypeVar("Output")
SHOWN = BoundedMemory[Blob](2**20)
"""What the photographs of small calls show, for later calls of any model: the keys name the classifier."""


class Recogniser(Protocol):
    """What recognises photographs: a :class:`puma.retriever.photographs.classifier.PhotoClassifier`."""

    def recognised(
        self, items: Sequence[Item], own: Preprocessing | None, cache: ByteCache | None, keys: Sequence[Key | None]
    ) -> tuple[list[Item], Sequence[Any]]:
        """The items, and what each shows."""

    def added(self, vectors: np.ndarray, shown: Sequence[Any]) -> np.ndarray:
        """The vectors of those items, moved towards what they show."""


def encode_batches(
    model: Any,
    inputs: Inputs,
    items: Sequence[Item],
    instructions: Sequence[str | None] | str | None = None,
    *,
    batch_size: int,
    forward: Callable[[Any, Features], Output],
    vision: VisionFeatures | None = None,
    autocast: torch.dtype | None = None,
    on_unreadable: Callable[[int, str], None] | None = None,
    kinds: Sequence[Head | None] | None = None,
    seen: SeenImages | None = None,
) -> Iterator[tuple[list[int], Features, Output]]:
    """Run a model over items in batches of like length, prepared ahead on other threads.

    Args:
        model: in eval mode; no gradient is recorded.
        inputs: its input maker.
        items: n items.
        instructions: one for all, or one an item.
        batch_size: items a forward pass.
        forward: what is computed of a batch, from the model and its input tensors, on the model's device:
            those of :mod:`puma.retriever.encoding.states`.
        vision: stored outputs of the vision tower.
        autocast: the type to compute in; None for the weights' own.
        on_unreadable: called with (row, reason) for an item whose image cannot be used, which is left out; None: the
            first such image ends it.
        kinds: one an item, see :func:`puma.retriever.encoding.planning.planned_batches`; None for one kind.
        seen: the images of these items that come again; None: each image goes through the tower for each item.

    Yields:
        (rows, the input tensors on the CPU, what ``forward`` returned) of each batch; every row that can be read comes
        once; of images and then of texts the longest first.

    Raises:
        InputError: the batch size, or the number of instructions, is wrong.
        ImageError: an image cannot be used, where ``on_unreadable`` is None.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give a whole number of at least 1")
    instructions = one_an_item(instructions, items)
    device = next(model.parameters()).device
    inputs = for_threads(inputs)
    again = seen.again if seen is not None else None
    batches = planned_batches(
        inputs, items, instructions, batch_size=batch_size, device=device, kinds=kinds, again=again
    )
    feeder = Feeder(
        inputs, items, instructions, device, vision=vision, past_faults=on_unreadable is not None, seen=seen
    )
    for batch, made in feeder.ahead(batches):
        known: Features | None = None
        if isinstance(made, Known):
            known = made.features
        elif made is None and seen is not None:
            known = seen.features(batch.rows, batch.ids, device)
        if known is not None:
            rows, features = batch.rows, known
        else:
            made = made if isinstance(made, Made) else feeder.make(batch)
            rows, features = made.rows, made.features
            for row, reason in made.faults.items():
                if on_unreadable is not None:
                    on_unreadable(row, reason)
            if not rows:
                continue
        moved = {
            key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in features.items()
        }
        # Not around the loop: what is entered here would be in force where the caller works on a batch.
        with (
            torch.inference_mode(),
            nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast),
            _tower_for(model, moved, vision),
            quick_linears(model, autocast),
        ):
            output = forward(model, seen.look(model, moved, rows) if seen is not None else moved)
        yield rows, features, output


def _tower_for(model: Any, features: Features, vision: VisionFeatures | None) -> AbstractContextManager[None]:
    """How a batch goes through the vision tower. A batch of texts does not, and needs no preparation of it."""
    if vision is not None:
        return stored_vision(model)
    return fast_tower(model) if "pixel_values" in features else nullcontext()


def encode_items(
    model: Any,
    inputs: Inputs,
    items: Sequence[Item],
    *,
    instruction: str | Sequence[str | None] | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
    vision: VisionFeatures | None = None,
    autocast: torch.dtype | None = None,
    tokens: np.ndarray | None = None,
    image_cache: ImageCache | None = None,
    photo_classifier: Recogniser | None = None,
    steps: Preprocessing | None = None,
) -> np.ndarray:
    """Embed items: float32 [n, dim], unit rows, in the order given. The loop under ``Retriever.encode``. Into
    ``tokens`` (integers [n]) goes how many the model read of each. What the model sees in images is looked up in
    ``image_cache``, and kept there. ``photo_classifier`` recognises photographs, not where stored features take the
    images' place; ``steps`` are what the processor does to images, where Pillow can do it.

    What is given twice is embedded once, and the states come the short way where the model allows it
    (:mod:`puma.retriever.encoding.ret_states`).
    """
    from tqdm import tqdm

    instructions, inputs = one_an_item(instruction, items), for_threads(inputs)
    firsts, which, keys = first_of_each(items, instructions)
    unique, own = [items[i] for i in firsts], [instructions[i] for i in firsts]
    photo_classifier = photo_classifier if vision is None else None
    shown: Sequence[Any] = ()
    if photo_classifier is not None:
        images = [item.image for item in unique]
        lasting = image_cache is not None or are_few(images)
        keys = content_keys(images, keys) if lasting else keys  # by what was given: small images come back
        known = MemoryFirst(SHOWN, image_cache) if lasting else None
        unique, shown = photo_classifier.recognised(unique, steps, known, keys)
    heads = item_heads(inputs, unique, own)
    with_images = vision is None and any(item.image is not None for item in unique)
    out = np.empty((len(unique), model.get_input_embeddings().weight.shape[1]), dtype=np.float32)
    read = np.zeros(len(unique), dtype=np.int64)
    seen = None
    if with_images and takes_seen_images(model):
        seen = SeenImages(model, inputs, unique, own, keys, autocast, image_cache)
    batches = encode_batches(
        model,
        inputs,
        unique,
        own,
        batch_size=batch_size,
        forward=RetStates(model, Counter(heads)),
        vision=vision,
        autocast=autocast,
        kinds=kinds_by_head(heads, next(model.parameters()).device),
        seen=seen,
    )
    with tqdm(total=len(items), unit="item", desc="embedding", disable=not show_progress) as bar:
        bar.update(len(items) - len(unique))
        for rows, features, states in batches:
            read[rows] = features["attention_mask"].sum(1).cpu().numpy()
            out[rows] = functional.normalize(states, dim=-1).cpu().numpy()
            bar.update(len(rows))
    if tokens is not None:
        tokens[:] = read[which]
    if photo_classifier is not None:
        out = photo_classifier.added(out, shown)
    return out[which] if len(unique) < len(items) else out
