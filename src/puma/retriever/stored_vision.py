"""Stored outputs of a frozen vision tower, passed through it in place of images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from puma.items.item import Item


class VisionFeatures(Protocol):
    """A source of a frozen vision tower's outputs, by image."""

    def lookup(self, item: Item) -> np.ndarray | None:
        """The tower's output for the item's image, [channels, height, width], or None where it has none."""


@contextlib.contextmanager
def stored_vision(model: Any) -> Iterator[None]:
    """Within the block, the vision tower passes stored outputs through: ``pixel_values`` [n, channels, height, width]
    with other than 3 channels are taken for its own last hidden state. Images still go through it as ever.

    Only for towers whose output is such a map (FastVLM). The tower's class is exchanged, not wrapped, so that the names
    of its weights stay what they are in checkpoints.
    """
    tower = model.get_encoder("image")
    original = type(tower)
    if issubclass(original, _StoredVision):
        yield
        return
    tower.__class__ = type(f"Stored{original.__name__}", (_StoredVision, original), {})
    try:
        yield
    finally:
        tower.__class__ = original


class _StoredVision:
    def forward(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if pixel_values.ndim == 4 and pixel_values.shape[1] != 3:
            from transformers.modeling_outputs import BaseModelOutputWithPooling

            return BaseModelOutputWithPooling(last_hidden_state=pixel_values)
        return super().forward(pixel_values, *args, **kwargs)  # type: ignore[misc]
