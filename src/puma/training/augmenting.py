"""Augmentation of image tensors: turned, scaled, shifted, mirrored and recoloured a little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from puma.errors import InputError

MIRRORED = 0.25
"""The share of images that are mirrored: too many would teach that left is right."""


class Augmentation:
    """Changes images of one size, ``pixel_values`` [n, 3, height, width]; the same seed gives the same change in every
    process.

    Args:
        processor: the image processor that made them: its mean and standard deviation tell black and white.
        seed: of the run.
    """

    def __init__(self, processor: Any, seed: int = 0) -> None:
        self.seed = seed
        self._mean = _channels(getattr(processor, "image_mean", None), 0.0)
        self._std = _channels(getattr(processor, "image_std", None), 1.0)

    def __call__(self, pixels: torch.Tensor, place: Sequence[int]) -> torch.Tensor:
        """The images changed, in their own type.

        Args:
            place: numbers of at least 0 that tell this batch from every other.

        Raises:
            InputError: these are no images of one size.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(
                f"augment: pixel_values of shape {list(pixels.shape)} are no images of one size; set it to false"
            )
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, *place]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        )
        light = pixels.float() * self._std + self._mean  # 0 is black, 1 white
        changed = (move(light, generator) - self._mean) / self._std
        return changed.to(pixels.dtype).contiguous(memory_format=torch.channels_last)


def move(light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images of values in [0, 1] under small random affine maps and colour gains; white comes in from outside.

    Args:
        light: [n, 3, height, width].
    """
    n = len(light)

    def draw(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    scale, aspect, turn = draw(0.85, 1.15), draw(0.92, 1.08), draw(-0.15, 0.15)
    mirror = torch.where(draw(0, 1) < MIRRORED, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = scale * aspect * mirror * torch.cos(turn)
    theta[:, 0, 1] = -scale * torch.sin(turn)
    theta[:, 1, 0] = scale * torch.sin(turn) * mirror
    theta[:, 1, 1] = scale / aspect * torch.cos(turn)
    theta[:, 0, 2], theta[:, 1, 2] = draw(-0.12, 0.12), draw(-0.12, 0.12)
    grid = functional.affine_grid(theta, list(light.shape), align_corners=False)
    sampled = functional.grid_sample(light - 1, grid, align_corners=False) + 1  # outside is 0 before the + 1: white
    return (sampled * draw(0.85, 1.1, 3, 1, 1)).clamp(0, 1)


def _channels(values: Any, default: float) -> torch.Tensor:
    return torch.tensor([default] * 3 if values is None else list(values)).reshape(1, 3, 1, 1)
