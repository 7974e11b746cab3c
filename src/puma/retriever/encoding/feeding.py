"""From planned batches to a model's input tensors, prepared ahead of it on threads, past images that cannot be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from puma.errors import ImageError
from puma.items.item import Item
from puma.retriever.encoding.batches import prefetched, preparing_threads
from puma.retriever.encoding.planning import Batch
from puma.retriever.encoding.seen_images import SeenImages
from puma.retriever.encoding.states import Features
from puma.retriever.inputs import Inputs, why_unusable
from puma.retriever.stored_vision import VisionFeatures


@dataclass(frozen=True)
class Made:
    """One batch, ready for the model.

    Args:
        rows: positions of the items that could be read; there may be none.
        features: their input tensors, on the CPU.
        faults: why others could not, by position.
    """

    rows: list[int]
    features: Features
    faults: dict[int, str]


@dataclass(frozen=True)
class Known:
    """A batch of images that the model has seen, which needs nothing but their outcome.

    Args:
        features: its input tensors, on the CPU but for what the tower has made of the images.
    """

    features: Features


class Feeder:
    """Makes the input tensors of batches.

    Args:
        inputs: of the model, safe for several threads.
        items: n items.
        instructions: one an item.
        device: of the model.
        vision: stored outputs of the vision tower.
        past_faults: whether images that cannot be read are left out; else the first raises.
        seen: the images of these items that come again.
    """

    def __init__(
        self,
        inputs: Inputs,
        items: Sequence[Item],
        instructions: Sequence[str | None],
        device: torch.device,
        *,
        vision: VisionFeatures | None = None,
        past_faults: bool = False,
        seen: SeenImages | None = None,
    ) -> None:
        self.inputs, self.items, self.instructions = inputs, items, instructions
        self.device, self.vision, self.past_faults, self.seen = device, vision, past_faults, seen

    def ahead(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Made | Known | None]]:
        """The batches in their order, prepared on threads while the model works on those before; None in the place of a
        batch of images that are still to be seen before: what of it is needed is known when its turn has come."""
        first = list(itertools.islice(batches, 2))
        if len(first) < 2:  # nothing to be ahead of: a thread would only be waited for
            return ((batch, self._prepared(batch)) for batch in first)
        with_images = any(item.image is not None for item in self.items)
        left: Iterable[Batch] = itertools.chain(first, batches)
        return prefetched(left, self._prepared, preparing_threads(self.device) if with_images else 1)

    def _prepared(self, batch: Batch) -> Made | Known | None:
        if not batch.again:
            return self.make(batch)
        features = None if self.seen is None else self.seen.features(batch.rows, batch.ids, self.device)
        return None if features is None else Known(features)

    def make(self, batch: Batch) -> Made:
        """One batch's tensors.

        Raises:
            ImageError: an image cannot be used, where faults are not passed over.
        """
        try:
            return Made(batch.rows, self._features(batch.rows, None if batch.with_images else batch.ids), {})
        except ImageError:
            reasons = ((row, why_unusable(self.inputs, self.items[row])) for row in batch.rows)
            faults = {row: reason for row, reason in reasons if reason is not None}
            if not self.past_faults or not faults:
                raise
            readable = [row for row in batch.rows if row not in faults]
            return Made(readable, self._features(readable) if readable else {}, faults)

    def _features(self, rows: Sequence[int], ids: Sequence[Sequence[int]] | None = None) -> Features:
        if ids is not None:
            features = self.inputs.padded(ids)
        else:
            items, instructions = [self.items[row] for row in rows], [self.instructions[row] for row in rows]
            features = self.inputs.features(items, instructions, self.vision)
        if self.device.type != "cuda":
            return features
        # Out of pinned memory a copy to the device does not hold up what feeds it.
        return {key: value.pin_memory() for key, value in features.items()}
