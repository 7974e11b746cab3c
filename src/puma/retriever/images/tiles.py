"""Images cut into square tiles beside a small whole, as Idefics3's and SmolVLM's processors do it, by Pillow and numpy
alone. Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from puma.retriever.images.pixels import Triple, level_table, own_steps, same_methods, triple
from puma.retriever.images.resampling import resampling_of, resized

MOST_SIDE = 4096
"""In pixels: the processors of the library make no image larger, whatever they are set to; such settings are refused
here."""


@dataclass(frozen=True)
class Tiles:
    """What an image processor of Idefics3's kind does to every image, and how its tiles are written out.

    Args:
        longest: what the longer side of an image is resized to, in pixels.
        tile: side of a tile, and of the whole image beside the tiles, in pixels.
        split: whether images are cut at all; else each becomes one square.
        resample: Pillow's number of the filter.
        backend: whose bytes a resized image has (:mod:`puma.retriever.images.resampling`).
        scale: what a byte is multiplied by.
        mean, std: a colour's value becomes ``(value - mean) / std``.
        around: the token before every tile, and at the end.
        whole: the token of the whole image.
    """

    longest: int
    tile: int
    split: bool
    resample: int
    backend: str
    scale: float
    mean: Triple
    std: Triple
    around: str
    whole: str

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tiles:
        """The inverse of ``asdict``, through JSON."""
        return cls(**{**values, **{name: tuple(values[name]) for name in ("mean", "std")}})

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles that an image of this size is cut into beside the whole; both 0 where it is not
        cut."""
        if not self.split:
            return 0, 0
        wide, high = self._tiled(*self._resized(width, height))
        return (0, 0) if wide == high == self.tile else (high // self.tile, wide // self.tile)

    def written(self, width: int, height: int, placeholders: str) -> str:
        """What stands in the prompt for an image of this size; ``placeholders`` are those of one tile."""
        rows, columns = self.grid(width, height)
        lines = (
            "".join(f"{self.around}<row_{row + 1}_col_{column + 1}>{placeholders}" for column in range(columns)) + "\n"
            for row in range(rows)
        )
        return "".join(lines) + ("\n" if rows else "") + self.around + self.whole + placeholders + self.around

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pixel values float32 [tiles, 3, tile, tile] of RGB images: the tiles of one row by row, its whole, and so
        on."""
        table = level_table(self.scale, self.mean, self.std)
        pixels = np.stack([one for image in images for one in self._cut(image.convert("RGB"))])
        out = np.empty((len(pixels), 3, self.tile, self.tile), np.float32)
        for colour in range(3):
            np.take(table[colour], pixels[..., colour], out=out[:, colour], mode="clip")
        return out

    def _cut(self, image: Image.Image) -> list[np.ndarray]:
        """Bytes [tile, tile, 3] of each tile."""
        square = self.tile, self.tile
        # Resized twice, as the processors do it: a single time would give other pixels.
        image = self._to(image, self._resized(*image.size))
        if not self.split:
            return [np.asarray(self._to(image, square))]
        image = self._to(image, self._tiled(*image.size))
        if image.size == square:
            return [np.asarray(image)]
        pixels, side = np.asarray(image), self.tile
        tiles = [
            pixels[top : top + side, left : left + side]
            for top in range(0, image.height, side)
            for left in range(0, image.width, side)
        ]
        return [*tiles, np.asarray(self._to(image, square))]

    def _to(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return resized(image, size, self.resample, self.backend)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height with the longer side as it shall be, the other even."""
        ratio = width / height
        if width >= height:
            other = int(self.longest / ratio)
            return self.longest, max(1, other + other % 2)
        other = int(self.longest * ratio)
        return max(1, other + other % 2), self.longest

    def _tiled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the next larger image of whole tiles."""
        ratio = width / height

        def up(side: int) -> int:
            return math.ceil(side / self.tile) * self.tile

        if width >= height:
            return up(width), up(int(up(width) / ratio))
        return up(int(up(height) * ratio)), up(height)


def tiles(processor: Any, vision: Any) -> Tiles | None:
    """What a multimodal processor does to images, by either backend; None where its image processor does something
    else, has a filter that is not known, or makes tiles of another size than a vision tower of this configuration was
    made for."""
    from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor

    images = processor.image_processor
    kinds = (Idefics3ImageProcessorPil, Idefics3ImageProcessor, SmolVLMImageProcessorPil, SmolVLMImageProcessor)
    names = ("_preprocess", "resize", "split_images", "resize_for_vision_encoder")
    if not same_methods(images, kinds, names) or not own_steps(images):
        return None
    longest, tile = getattr(images.size, "longest_edge", None), images.max_image_size["longest_edge"]
    resampling = resampling_of(images)
    if resampling is None or not longest or longest > MOST_SIDE or tile != vision.image_size:
        return None
    return Tiles(
        longest=int(longest),
        tile=int(tile),
        split=bool(images.do_image_splitting),
        resample=resampling[1],
        backend=resampling[0],
        scale=float(images.rescale_factor),
        mean=triple(images.image_mean),
        std=triple(images.image_std),
        around=str(processor.fake_image_token),
        whole=str(getattr(processor, "global_image_tag", None) or processor.global_image_token),
    )
