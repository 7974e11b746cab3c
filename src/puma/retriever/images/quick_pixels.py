"""An image processor's own pixels with less of Python around them.

transformers' PIL processors turn an image into an array, that into an image to resize it, and that into an array again,
and compute each pixel in floating point. An image that is RGB already needs one resize and one look-up
(:mod:`puma.retriever.images.pixels`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from PIL import Image

from puma.retriever.images.pixels import Preprocessing, preprocessing

_UNDERSTOOD = {"return_tensors": "pt"}
"""The options of a call that is answered here."""


class QuickPixels:
    """Stands in for an image processor: calls that it understands give the very same pixels, others go on to it.

    Args:
        processor: one that :func:`quick_pixels` finds fit.
        steps: what it does.
    """

    def __init__(self, processor: Any, steps: Preprocessing) -> None:
        self._processor, self._steps = processor, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        flat = [one for held in images for one in (held if isinstance(held, (list, tuple)) else [held])]
        if not flat or options != _UNDERSTOOD or any(_mode(one) != "RGB" for one in flat):
            return self._processor(images, **options)
        import torch
        from transformers import BatchFeature

        return BatchFeature(data={"pixel_values": torch.from_numpy(self._steps(flat))})


def quick_pixels(processor: Any) -> Any:
    """A :class:`QuickPixels` of an image processor that makes all images one size and each level by itself, as CLIP's
    and SigLIP's do; any other processor as it is.

    Whether it gives the same is tried on a few images, once for each kind of settings.
    """
    settings: Hashable = (type(processor), processor.to_json_string())
    if settings not in _STEPS:
        _STEPS[settings] = _tried(processor)
    steps = _STEPS[settings]
    return processor if steps is None else QuickPixels(processor, steps)


_STEPS: dict[Hashable, Preprocessing | None] = {}
"""By a processor's settings what it does; None where the quick way gives something else."""


def _tried(processor: Any) -> Preprocessing | None:
    generator = np.random.default_rng(0)
    try:
        steps = preprocessing(processor)
        if steps is None:
            return None
        quick = QuickPixels(processor, steps)
        for width, height in ((37, 53), (200, 90), (300, 300)):
            noise = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
            slow = processor([[noise]], **_UNDERSTOOD)["pixel_values"]
            if not np.array_equal(slow, quick([[noise]], **_UNDERSTOOD)["pixel_values"]):
                return None
    except Exception:  # a processor may raise anything when it is called in another way
        return None
    return steps


def _mode(image: Any) -> str | None:
    return image.mode if isinstance(image, Image.Image) else None
