"""Small copies of images, for showing: made when an item is indexed, kept in the index, served by id. Loads no torch.

An image's own file may be gone, large, or of a kind no browser shows; its thumbnail is none of these. It carries no
metadata of the original: no place, no camera, no name.
"""

from __future__ import annotations

import io

from PIL import Image

from puma.errors import InputError
from puma.items.item import ImageSource, open_image

MEDIA_TYPE = "image/jpeg"
"""Of every thumbnail."""
SIDE = 384
"""Pixels of the longer side."""
QUALITY = 85
"""JPEG's; at 384 pixels about 11 kB an image and a quarter of a millisecond, a fifth of what WebP takes."""


def make_thumbnail(image_source: ImageSource, side: int = SIDE) -> bytes:
    """An image scaled down to fit a square, upright, on white, as a JPEG file's bytes. Smaller ones keep their size.

    Args:
        image_source: what :func:`puma.items.open_image` takes, within its limits.
        side: pixels of the square, 1 to 65,535.

    Raises:
        ImageError: the image cannot be opened.
        InputError: ``side`` is out of its range.

    Examples:
        >>> small = make_thumbnail(Image.new("RGB", (1000, 500), (200, 30, 30)))
        >>> open_image(small).size
        (384, 192)
    """
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= 65_535:
        raise InputError(f"side must be a whole number of pixels, 1 to 65,535, got {side!r}")
    image = open_image(image_source, least_side=side)
    if max(image.size) > side:
        scale = side / max(image.size)
        width, height = (max(1, round(pixels * scale)) for pixels in image.size)
        # reducing_gap: whole blocks of pixels are averaged first, which is several times faster on large images
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    # A fresh image of the same pixels: what the original's file said beside them is not written.
    Image.frombytes("RGB", image.size, image.tobytes()).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
