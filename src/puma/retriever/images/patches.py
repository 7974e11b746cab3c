"""Images cut into patches in the shape they have, as Qwen-VL's processors do it, by Pillow and numpy alone. Loads no
torch.

An image is resized to a whole number of cells, each of ``merge`` times ``merge`` patches; a cell becomes one token.
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


@dataclass(frozen=True)
class Patches:
    """What an image processor of Qwen-VL's kind does to every image, and what its vision tower asks for beside pixels.

    Args:
        patch: side of a patch in pixels.
        merge: patches along a side of a cell.
        fewest, most: pixels of a resized image.
        resample: Pillow's number of the filter.
        backend: whose bytes a resized image has (:mod:`puma.retriever.images.resampling`).
        scale: what a byte is multiplied by.
        mean, std: a colour's value becomes ``(value - mean) / std``.
        window: cells along a side of the windows that attention is kept within (Qwen2.5-VL); 0 for none.
        table: rows, and columns, of the tower's table of learned positions (Qwen3-VL); 0 for none.
    """

    patch: int
    merge: int
    fewest: int
    most: int
    resample: int
    backend: str
    scale: float
    mean: Triple
    std: Triple
    window: int = 0
    table: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Patches:
        """The inverse of ``asdict``, through JSON."""
        return cls(**{**values, **{name: tuple(values[name]) for name in ("mean", "std")}})

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of cells that an image of this size becomes: its shape as nearly as possible, within the
        limits of pixels."""
        cell = self.patch * self.merge
        rows, columns = round(height / cell), round(width / cell)
        pixels = rows * columns * cell**2
        if pixels > self.most:
            shrink = math.sqrt(height * width / self.most)
            rows, columns = (max(1, math.floor(side / shrink / cell)) for side in (height, width))
        elif pixels < self.fewest:
            grow = math.sqrt(self.fewest / (height * width))
            rows, columns = (math.ceil(side * grow / cell) for side in (height, width))
        return rows, columns

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pixel values float32 [n, cells, merge * merge, 3 * patch * patch] of RGB images of one :meth:`grid`, cells
        row by row."""
        rows, columns = self.grid(*images[0].size)
        size = columns * self.merge * self.patch, rows * self.merge * self.patch
        table = level_table(self.scale, self.mean, self.std)
        out = np.empty((len(images), rows, columns, self.merge, self.merge, 3, self.patch, self.patch), np.float32)
        for place, image in enumerate(images):
            pixels = np.asarray(resized(image.convert("RGB"), size, self.resample, self.backend))
            # [rows, merge, patch, columns, merge, patch, 3] -> [rows, columns, merge, merge, patch, patch, 3]
            cut = pixels.reshape(rows, self.merge, self.patch, columns, self.merge, self.patch, 3)
            cut = cut.transpose(0, 3, 1, 4, 2, 5, 6)
            for colour in range(3):
                out[place, :, :, :, :, colour] = table[colour][cut[..., colour]]
        return out.reshape(len(images), rows * columns, self.merge**2, -1)

    def positions(self, rows: int, columns: int) -> np.ndarray:
        """Row and column of each patch of an image of ``rows`` by ``columns`` cells, int64 [cells, merge * merge, 2],
        in the order of the pixel values."""
        places = np.indices((rows * self.merge, columns * self.merge), np.int64)
        # [2, rows, merge, columns, merge] -> [rows, columns, merge, merge, 2]
        places = places.reshape(2, rows, self.merge, columns, self.merge).transpose(1, 3, 2, 4, 0)
        return np.ascontiguousarray(places.reshape(rows * columns, self.merge**2, 2))

    def windows(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """The cells of each window, int64 [windows, most], filled up with -1, and where each cell stands among these,
        int64 [cells]."""
        row, column = np.indices((rows, columns)) // self.window
        number = (row * columns + column).ravel()
        _, number, counts = np.unique(number, return_inverse=True, return_counts=True)
        order = np.argsort(number, kind="stable")  # cells window by window, in each as they come
        within = np.arange(len(order)) - (np.cumsum(counts) - counts)[number[order]]
        cells = np.full((len(counts), counts.max()), -1, np.int64)
        cells[number[order], within] = order
        back = np.empty(len(order), np.int64)
        back[order] = number[order] * counts.max() + within
        return cells, back

    def corners(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in the table of learned positions each patch lies: the four entries around it, int64 [cells,
        merge * merge, 4], and their weights float32 of the same shape (bilinear, the table's corners on the
        image's)."""
        last, places = self.table - 1, self.positions(rows, columns)
        sides = np.array([rows, columns]) * self.merge
        exact = places.astype(np.float32) * np.float32(last) / np.maximum(sides - 1, 1).astype(np.float32)
        low = np.floor(exact)
        part = exact - low
        taps = np.minimum(np.stack([low, low + 1], -1), last).astype(np.int64)  # [cells, merge * merge, 2, 2]
        weights = np.stack([1 - part, part], -1)
        entries = taps[..., 0, :, None] * self.table + taps[..., 1, None, :]
        shares = weights[..., 0, :, None] * weights[..., 1, None, :]
        return entries.reshape(*places.shape[:2], 4), shares.reshape(*places.shape[:2], 4).astype(np.float32)

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """All that the vision graph is given of images of one :meth:`grid`."""
        grid = self.grid(*images[0].size)
        made = {"pixel_values": self(images), "positions": self.positions(*grid)}
        if self.window:
            made["windows"], made["window_places"] = self.windows(*grid)
        if self.table:
            made["table_entries"], made["table_weights"] = self.corners(*grid)
        return made


def patches(processor: Any, vision: Any) -> Patches | None:
    """What an image processor of either backend does, and what a vision tower of this configuration needs; None where
    the processor does something else, or has a filter that is not known."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    kinds = (Qwen2VLImageProcessorPil, Qwen2VLImageProcessor)
    if not same_methods(processor, kinds, ("_preprocess", "resize", "patchify")) or not own_steps(processor):
        return None
    fewest, most = (getattr(processor.size, edge, None) for edge in ("shortest_edge", "longest_edge"))
    resampling = resampling_of(processor)
    if resampling is None or not fewest or not most or processor.patch_size != vision.patch_size:
        return None
    window, table = getattr(vision, "window_size", 0), getattr(vision, "num_position_embeddings", 0)
    return Patches(
        patch=int(processor.patch_size),
        merge=int(processor.merge_size),
        fewest=int(fewest),
        most=int(most),
        resample=resampling[1],
        backend=resampling[0],
        scale=float(processor.rescale_factor),
        mean=triple(processor.image_mean),
        std=triple(processor.image_std),
        window=int(window) // int(processor.merge_size) // int(processor.patch_size),
        table=math.isqrt(int(table)),
    )
