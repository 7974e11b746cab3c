"""Images of a batch made ready for an exported model: the inputs of its vision graph, what stands for each image among
the tokens, and the positions of those. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from puma.errors import ModelError
from puma.retriever.images.patches import Patches
from puma.retriever.images.tiles import Tiles
from puma.retriever.onnx.layout import Export

PASS_PIXELS = 2**19
"""Of tiles, or of images in patches, that go through the vision graph together; one image may have more. A few of them
keep the cores busy; more would only take memory."""


@dataclass(frozen=True)
class Pass:
    """One pass through the vision graph.

    Args:
        units: which of the batch's images (of tiles: which tiles, counted through all images) it has; each gives as
            many rows.
        inputs: of the graph.
    """

    units: list[int]
    inputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """The images of a batch.

    Args:
        sizes: width and height of each.
        passes: in which each unit occurs once.
    """

    sizes: list[tuple[int, int]]
    passes: list[Pass]


def seen(export: Export, images: Sequence[Image.Image]) -> Seen:
    """Decoded RGB images, made ready."""
    sizes, steps = [image.size for image in images], export.images
    if steps is None:
        raise ModelError(f"base {export.base}: exported without its vision side")
    if isinstance(steps, Patches):
        return Seen(sizes, _by_grid(steps, images))
    pixels = steps(images)
    most = max(1, PASS_PIXELS // steps.tile**2) if isinstance(steps, Tiles) else len(pixels)
    units = [list(range(start, min(start + most, len(pixels)))) for start in range(0, len(pixels), most)]
    return Seen(sizes, [Pass(some, {"pixel_values": pixels[some[0] : some[-1] + 1]}) for some in units])


def _by_grid(steps: Patches, images: Sequence[Image.Image]) -> list[Pass]:
    """Passes of images that become one grid, which share all inputs but their pixels."""
    grids: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        grids.setdefault(steps.grid(*image.size), []).append(place)
    passes = []
    for (rows, columns), places in grids.items():
        most = max(1, PASS_PIXELS // (rows * columns * (steps.merge * steps.patch) ** 2))
        for start in range(0, len(places), most):
            some = places[start : start + most]
            passes.append(Pass(some, steps.inputs([images[place] for place in some])))
    return passes


def stand_in(export: Export, size: tuple[int, int]) -> str:
    """What stands in the prompt for an image of this width and height in the place of its one token."""
    steps = export.images
    if isinstance(steps, Patches):
        rows, columns = steps.grid(*size)
        return export.image_token * (rows * columns)
    placeholders = export.image_token * export.image_rows
    return steps.written(*size, placeholders) if isinstance(steps, Tiles) else placeholders


def unit_count(export: Export, size: tuple[int, int]) -> int:
    """How many units of a :class:`Pass` an image of this width and height has: one, or its tiles."""
    if not isinstance(export.images, Tiles):
        return 1
    rows, columns = export.images.grid(*size)
    return rows * columns + 1


def row_count(export: Export, size: tuple[int, int]) -> int:
    """How many rows of features stand for an image of this width and height, each for one placeholder."""
    if isinstance(export.images, Patches):
        rows, columns = export.images.grid(*size)
        return rows * columns
    return export.image_rows * unit_count(export, size)


def plane_positions(ids: Sequence[int], image_id: int, grid: tuple[int, int] | None) -> np.ndarray:
    """Qwen-VL's positions of a sequence's tokens, int64 [3, length]: by time, row and column. Those of words are all
    three alike; an image's tokens are at one time, in its rows and columns, and what follows it goes on behind the
    longer of its sides.

    Args:
        ids: the tokens.
        image_id: the placeholder's number.
        grid: rows and columns of the image's tokens; None without an image.
    """
    positions = np.tile(np.arange(len(ids), dtype=np.int64), (3, 1))
    if grid is None:
        return positions
    start, count = list(ids).index(image_id), grid[0] * grid[1]
    row, column = np.indices(grid, np.int64).reshape(2, count)
    positions[:, start : start + count] = start + np.stack([np.zeros_like(row), row, column])
    positions[:, start + count :] += max(grid) - count
    return positions
