"""From images to pixel values by Pillow and numpy alone: the same numbers as transformers' image processors with the
PIL backend. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Triple = tuple[float, float, float]
"""A number for red, green and blue."""


@dataclass(frozen=True)
class Preprocessing:
    """What an image processor does to every image: resize, crop, rescale, normalise.

    Args:
        height, width: the size that an image is resized to; 0 for both where ``shortest_edge`` is given.
        shortest_edge: the side that the shorter one becomes, the shape kept; 0 for a fixed size.
        resample: Pillow's number of the filter.
        crop: height and width that are cut out of the middle; None for all.
        scale: what a byte is multiplied by.
        mean, std: a colour's value becomes ``(value - mean) / std``.
    """

    height: int
    width: int
    shortest_edge: int
    resample: int
    crop: tuple[int, int] | None
    scale: float
    mean: Triple
    std: Triple

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of ``asdict``, through JSON."""
        lists = {name: tuple(values[name]) for name in ("mean", "std")}
        return cls(**{**values, **lists, "crop": None if values["crop"] is None else tuple(values["crop"])})

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pixel values float32 [n, 3, height, width] of RGB images."""
        table = level_table(self.scale, self.mean, self.std)
        bytes_of = [self._cropped(image) for image in images]
        out = np.empty((len(bytes_of), 3, *bytes_of[0].shape[:2]), np.float32)
        for place, pixels in enumerate(bytes_of):
            for colour in range(3):
                np.take(table[colour], pixels[..., colour], out=out[place, colour], mode="clip")
        return out

    def resized(self, image: Image.Image) -> Image.Image:
        """The image in RGB and in the size it is resized to: made again of the result, it is the same."""
        size = self._size(*image.size)
        image = image.convert("RGB")
        return image if image.size == size else image.resize(size, Image.Resampling(self.resample))

    def _cropped(self, image: Image.Image) -> np.ndarray:
        """Bytes [height, width, 3]."""
        pixels = np.asarray(self.resized(image))
        if self.crop is None:
            return pixels
        top, left = (pixels.shape[0] - self.crop[0]) // 2, (pixels.shape[1] - self.crop[1]) // 2
        return pixels[top : top + self.crop[0], left : left + self.crop[1]]

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image is resized to."""
        if not self.shortest_edge:
            return self.width, self.height
        short, long = sorted((width, height))
        longer = int(self.shortest_edge * long / short)
        return (self.shortest_edge, longer) if width <= height else (longer, self.shortest_edge)


def level_table(scale: float, mean: Triple, std: Triple) -> np.ndarray:
    """What each of a byte's values becomes, float32 [3, 256], computed as the processors do it for every pixel."""
    values = (np.arange(256, dtype=np.float64) * scale).astype(np.float32)
    means, stds = np.array(mean, np.float32), np.array(std, np.float32)
    return np.asarray((values[None] - means[:, None]) / stds[:, None])


def own_steps(processor: Any, *methods: str) -> bool:
    """Whether an image processor resizes, rescales and normalises every image as transformers' own backend, Pillow's or
    torchvision's, does; ``methods`` name further ones that must be that backend's."""
    from transformers.image_processing_backends import PilBackend, TorchvisionBackend

    backend = PilBackend if isinstance(processor, PilBackend) else TorchvisionBackend
    steps = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
    plain = all(
        getattr(type(processor), name, None) is getattr(backend, name)
        for name in ("process_image", "rescale", "normalize", *methods)
    )
    return plain and all(getattr(processor, step, False) for step in steps)


def same_methods(processor: Any, kinds: Sequence[type], names: Sequence[str]) -> bool:
    """Whether an image processor has all these methods of one of these classes."""
    return any(all(getattr(type(processor), name, None) is getattr(kind, name) for name in names) for kind in kinds)


def preprocessing(processor: Any) -> Preprocessing | None:
    """What an image processor does, as Pillow and numpy can do it; None where it does something else, or goes through
    torchvision, whose pixels are others."""
    from transformers.image_processing_backends import PilBackend

    plain = isinstance(processor, PilBackend) and own_steps(processor, "_preprocess", "resize", "center_crop")
    if not plain or getattr(processor, "do_pad", None):
        return None
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    height, width, edge = (int(getattr(size, side, None) or 0) for side in ("height", "width", "shortest_edge"))
    usable = (
        not getattr(size, "longest_edge", None)
        and bool(edge) != bool(height and width)
        # All images must come out in one size, and none be padded to it.
        and (not edge if crop is None else crop.height <= (edge or height) and crop.width <= (edge or width))
    )
    if not usable:
        return None
    return Preprocessing(
        height=height,
        width=width,
        shortest_edge=edge,
        resample=int(processor.resample),
        crop=None if crop is None else (crop.height, crop.width),
        scale=float(processor.rescale_factor),
        mean=triple(processor.image_mean),
        std=triple(processor.image_std),
    )


def triple(values: Any) -> Triple:
    """A processor's number for each colour, or its one for all."""
    first, second, third = values if isinstance(values, Sequence) else (values,) * 3
    return float(first), float(second), float(third)
