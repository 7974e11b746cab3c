"""Images resized as an image processor's backend does it, Pillow or torchvision, without torch.

Pillow and torch have the same filters. Both make rows of the new width and then columns of the new height, and round to
bytes each time; torch rounds the weights to 16 bits besides, with as many of them behind the point as the largest
allows. That is what is different about its images, and all of it: numpy gives the very same bytes. (Measured on the
tiny test models: Pillow's bytes, a level away in 1 % of the places, turn vectors by a cosine of 0.997 to 0.99999; they
are too far for what promises the model's own vectors.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

LINES, WIDTH = 2048, 64
"""How many rows, and columns of the result, are computed together: each needs few columns of the image."""


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' filter with a = -0.5, of distances."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    """The sinc window of three zeros, of distances."""
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


_FILTERS: dict[int, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    Image.Resampling.BICUBIC: (_bicubic, 2),
    Image.Resampling.LANCZOS: (_lanczos, 3),
}
"""By Pillow's number: a filter of distances, and beyond which distance it is 0."""


PILLOW, TORCHVISION = "pillow", "torchvision"
"""Whose bytes they are."""


def resampling_of(processor: Any) -> tuple[str, int] | None:
    """Whose bytes an image processor makes, and Pillow's number of the filter; None where neither is known here.

    torchvision's are tried: there are versions without Lanczos, for which transformers takes the bicubic filter, and
    machines whose bytes may be rounded in another way.
    """
    from transformers.image_processing_backends import PilBackend, TorchvisionBackend
    from transformers.image_utils import SizeDict

    if isinstance(processor, PilBackend):
        return PILLOW, int(processor.resample)
    import torch

    drawn = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    tensor, size = torch.from_numpy(drawn).permute(2, 0, 1), SizeDict(height=37, width=80)
    wanted = TorchvisionBackend.resize(processor, tensor, size, resample=processor.resample).permute(1, 2, 0)
    for resample in (int(processor.resample), int(Image.Resampling.BICUBIC)):
        if resample in _FILTERS and np.array_equal(torchvision_bytes(drawn, 80, 37, resample), wanted):
            return TORCHVISION, resample
    return None


def resized(image: Image.Image, size: tuple[int, int], resample: int, backend: str) -> Image.Image:
    """An RGB image of another width and height.

    Args:
        image: an RGB image.
        size: width and height.
        resample: Pillow's number of the filter.
        backend: whose bytes it shall have.
    """
    if backend == PILLOW or image.size == size:
        return image.resize(size, Image.Resampling(resample))
    return Image.fromarray(torchvision_bytes(np.asarray(image), *size, resample))


def torchvision_bytes(pixels: np.ndarray, width: int, height: int, resample: int) -> np.ndarray:
    """Bytes [height, width, 3] of those of an image.

    Args:
        pixels: uint8 [rows, columns, 3].
        width, height: of the result.
        resample: Pillow's number of the filter, bicubic or Lanczos.
    """
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    planes = _along_rows(planes, width, resample)
    planes = _along_rows(np.ascontiguousarray(planes.transpose(0, 2, 1)), height, resample)
    return np.ascontiguousarray(planes.transpose(2, 1, 0))


def _along_rows(planes: np.ndarray, size: int, resample: int) -> np.ndarray:
    """Bytes [colours, lines, size] of bytes [colours, lines, n]."""
    colours, lines, n = planes.shape
    if n == size:
        return planes
    first, weights, bits = _weights(n, size, int(resample))
    flat, out = planes.reshape(-1, n), np.empty((colours * lines, size), np.uint8)
    for start in range(0, len(flat), LINES):
        part = flat[start : start + LINES].astype(np.float64)  # whose sums of whole numbers are exact
        for left in range(0, size, WIDTH):
            places = np.arange(left, min(left + WIDTH, size))
            low = int(first[places].min())
            high = min(n, int(first[places].max()) + weights.shape[1])
            matrix = np.zeros((high - low, len(places)))
            taps = first[places][:, None] + np.arange(weights.shape[1]) - low
            inside = taps < high - low  # taps beyond have no weight
            matrix[taps[inside], np.nonzero(inside)[0]] = weights[places][inside]
            sums = np.floor((part[:, low:high] @ matrix + 2 ** (bits - 1)) * 0.5**bits)
            out[start : start + LINES, places] = sums.clip(0, 255)
    return out.reshape(colours, lines, size)


@functools.lru_cache(maxsize=256)
def _weights(n: int, size: int, resample: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Of each of ``size`` places the first of the n bytes that it is made of, int [size], and the weights of those and
    the following, whole numbers [size, taps], with the number of bits behind their point."""
    shape, reach = _FILTERS[resample]
    scale = n / size
    stretch = max(scale, 1.0)
    support = reach * stretch
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    ends = np.minimum((centre + support + 0.5).astype(np.int64), n)
    taps = np.arange(int(np.ceil(support)) * 2 + 1)
    distances = np.abs((taps + first[:, None] - centre[:, None] + 0.5) * (1 / stretch))
    shares = np.where(taps < (ends - first)[:, None], shape(distances), 0.0)
    shares /= shares.sum(1, keepdims=True)
    bits = 0
    while bits < 22 and int(0.5 + shares.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    whole = np.trunc(shares * 2**bits + np.copysign(0.5, shares))
    return first, whole, bits
