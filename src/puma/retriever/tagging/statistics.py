"""A few numbers of an image's pixels by which photographs differ from drawings: they have many colours, and hardly a
place without any change. Loads no torch.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

COUNT = 7
"""Numbers an image."""


def pixel_statistics(image: Image.Image) -> np.ndarray:
    """Numbers of an image, float32 [COUNT]: the logarithm of the share of different colours (five bits each), the
    shares of places that change little, somewhat and much to the right and below, the logarithms of the median and of
    the mean of the second differences, and the share of places where these are small and not zero.

    Args:
        image: RGB, small; sizes are comparable only among images of one size.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    coarse = pixels >> 3
    colours = len(np.unique(coarse[..., 0] << 10 | coarse[..., 1] << 5 | coarse[..., 2])) / coarse[..., 0].size
    down, right = np.abs(np.diff(pixels, axis=0)).sum(2), np.abs(np.diff(pixels, axis=1)).sum(2)
    change = down[:, :-1] + right[:-1]
    around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    bend = np.abs(4 * pixels[1:-1, 1:-1] - around).sum(2)
    return np.array(
        [
            np.log(colours + 1e-3),
            (change <= 4).mean(),
            ((change > 4) & (change < 60)).mean(),
            (change > 150).mean(),
            np.log1p(np.median(bend)),
            np.log1p(bend.mean()),
            ((bend > 6) & (bend < 60)).mean(),
        ],
        np.float32,
    )
