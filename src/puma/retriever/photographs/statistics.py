"""A few numbers of an image's pixels by which photographs differ from drawings: they have many colours, and hardly a
place without any change. Loads no torch.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

COUNT = 7
"""Numbers an image."""
COLOURS = 1 << 15
"""Different colours of five bits each."""


def pixel_statistics(image: Image.Image) -> np.ndarray:
    """Numbers of an image, float32 [COUNT]: the logarithm of the share of different colours (five bits each), the
    shares of places that change little, somewhat and much to the right and below, the logarithms of the median and of
    the mean of the second differences, and the share of places where these are small and not zero.

    Args:
        image: RGB, at least 3 x 3 pixels; sizes are comparable only among images of one size.
    """
    channels = np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(np.int16)
    red, green, blue = (channels >> 3).astype(np.int32)
    count = np.count_nonzero(np.bincount((red << 10 | green << 5 | blue).ravel(), minlength=COLOURS))
    height, width = red.shape
    # int16 holds all sums: a change is at most 6 * 255, a bend 12 * 255.
    change = np.zeros((height - 1, width - 1), np.int16)
    bend = np.zeros((height - 2, width - 2), np.int16)
    for pixels in channels:
        change += np.abs(pixels[1:, :-1] - pixels[:-1, :-1]) + np.abs(pixels[:-1, 1:] - pixels[:-1, :-1])
        around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
        bend += np.abs(4 * pixels[1:-1, 1:-1] - around)
    return np.array(
        [
            np.log(count / red.size + 1e-3),
            (change <= 4).mean(),
            ((change > 4) & (change < 60)).mean(),
            (change > 150).mean(),
            np.log1p(np.median(bend)),
            np.log1p(bend.mean(dtype=np.float64)),
            ((bend > 6) & (bend < 60)).mean(),
        ],
        np.float32,
    )
