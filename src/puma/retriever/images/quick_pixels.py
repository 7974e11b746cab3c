"""An image processor's own pixels with less of Python around them.

transformers' PIL processors turn an image into an array, that into an image to resize it, and that into an array again,
and then compute each pixel in floating point. An image that is RGB already needs one resize, and each of its 256 levels
has one outcome, which is looked up.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from typing import Any

import numpy as np
from PIL import Image

_PLAIN = ("__call__", "preprocess", "_preprocess", "process_image", "resize", "rescale", "normalize")
"""Methods that a processor must have from transformers' PIL backend as they are there."""
_ADDED = {"return_tensors": "pt"}
"""What is understood of a call."""


class QuickPixels:
    """Stands in for an image processor: calls that it understands give the very same pixels, others go on to it.

    Args:
        processor: one that :func:`quick_pixels` finds fit.
        table: of each channel, what becomes of each level, float32 [3, 256].
    """

    def __init__(self, processor: Any, table: np.ndarray) -> None:
        self._processor, self._table = processor, table
        size = processor.to_dict()["size"]
        self._size = size["width"], size["height"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        flat = [one for held in images for one in (held if isinstance(held, (list, tuple)) else [held])]
        if not flat or options != _ADDED or any(_mode(one) != "RGB" for one in flat):
            return self._processor(images, **options)
        import torch
        from transformers import BatchFeature

        width, height = self._size
        pixels = np.empty((len(flat), 3, height, width), dtype=np.float32)
        for image, out in zip(flat, pixels, strict=True):
            levels = np.asarray(image.resize(self._size, resample=self._processor.resample))
            for channel in range(3):
                np.take(self._table[channel], levels[..., channel], out=out[channel], mode="clip")
        return BatchFeature(data={"pixel_values": torch.from_numpy(pixels)})


def quick_pixels(processor: Any) -> Any:
    """A :class:`QuickPixels` of an image processor that resizes to one size and scales each level by itself, as CLIP's
    and SigLIP's do where they do not crop; any other processor as it is.

    Whether it gives the same is tried on an image, once for each kind of settings.
    """
    from transformers.image_processing_backends import PilBackend

    kind = type(processor)
    if not isinstance(processor, PilBackend) or any(
        inspect.getattr_static(kind, name) is not inspect.getattr_static(PilBackend, name) for name in _PLAIN
    ):
        return processor
    given = processor.to_dict()
    steps = all(given.get(name) for name in ("do_resize", "do_rescale", "do_normalize"))
    further = any(given.get(name) for name in ("do_center_crop", "do_pad"))
    one_size = isinstance(given.get("size"), dict) and set(given["size"]) == {"height", "width"}
    if not (steps and one_size) or further or not isinstance(processor.resample, int):
        return processor
    table = _TABLES.get(settings := _settings(processor))
    if settings not in _TABLES:
        table = _TABLES[settings] = _tried(processor)
    return processor if table is None else QuickPixels(processor, table)


_TABLES: dict[Hashable, np.ndarray | None] = {}
"""By a processor's settings what becomes of the levels; None where the quick way gives something else."""


def _settings(processor: Any) -> Hashable:
    return type(processor), processor.to_json_string()


def _tried(processor: Any) -> np.ndarray | None:
    generator = np.random.default_rng(0)
    try:
        levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (4, 256, 3))
        ramp = Image.fromarray(np.ascontiguousarray(levels))
        table = np.asarray(processor([ramp], do_resize=False, return_tensors="np")["pixel_values"], dtype=np.float32)
        table = np.ascontiguousarray(table[0, :, 0])
        quick = QuickPixels(processor, table)
        for width, height in ((37, 53), (200, 90)):
            noise = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
            slow = processor([[noise]], return_tensors="pt")["pixel_values"]
            if not np.array_equal(slow, quick([[noise]], return_tensors="pt")["pixel_values"]):
                return None
    except Exception:  # a processor may raise anything when it is called in another way
        return None
    return table


def _mode(image: Any) -> str | None:
    return image.mode if isinstance(image, Image.Image) else None
