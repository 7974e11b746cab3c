"""What an image processor does with an image: whether it takes it, and how small a JPEG may be decoded for it. Loads no
torch.

A JPEG decoder gives an image at a half, a quarter or an eighth of its size for a fraction of the time (PIL's draft
mode). That changes pixels a little, so it is done only where the smaller image still has :data:`OVERSAMPLING` times the
sides that the processor resizes it to, the very same shape, and becomes as many patches as before.

Measured on images made with the spectrum of photographs: after the processor pixels differ by less than one of 255
levels in the mean (cosine 0.9997 and more). Tiny models with random weights of eight families give vectors of cosine
0.9988 to 1 to those of the full image; one level more of brightness moves the same vectors further, to 0.995. So it is
for training; vectors that are kept come of full images.
"""

from __future__ import annotations

import math
from typing import Any

from puma.errors import first_line

OVERSAMPLING = 2
"""Sides of the decoded image, in sides of what the processor makes of it."""
SCALES = (8, 4, 2)
LARGEST_RATIO = 200
"""Of an image's sides: Qwen-VL's processors refuse more."""
SHORTEST_SIDE = 4
"""In pixels: below it image processors take a side for the number of channels."""


def decode_side(processor: Any, size: tuple[int, int]) -> int | None:
    """What to give :func:`puma.items.open_image` as ``least_side`` for an image of this size.

    Known are processors with a largest number of pixels (Qwen-VL), with one size (SigLIP's, Gemma3), with a shortest
    edge and a crop (CLIP's, LLaVA, FastVLM), and those that could cut an image into tiles but are set not to (Idefics3,
    SmolVLM).

    Args:
        processor: a multimodal processor, or an image processor.
        size: width and height in the file.

    Returns:
        The least side that suffices, or None for the full size: where nothing is gained, or the processor is another.
    """
    images = getattr(processor, "image_processor", processor)
    width, height = size
    wanted = _resized(images, width, height)
    if wanted is None or min(size) < 1:
        return None
    for scale in SCALES:
        if width % scale or height % scale:
            continue  # the decoder rounds the sides up: the image would shift by a part of a pixel
        small = width // scale, height // scale
        if small[0] < OVERSAMPLING * wanted[0] or small[1] < OVERSAMPLING * wanted[1]:
            continue
        if _patches(images, *small) == _patches(images, *size):
            return min(size) // scale
    return None


def why_refused(processor: Any, image: Any) -> str | None:
    """Why a processor refuses a PIL image by itself, with its size; None where it takes it."""
    try:
        getattr(processor, "image_processor", processor)(images=[image], return_tensors="pt")
    except Exception as error:  # a processor raises almost anything on an image that it does not expect
        return f"the model's image processor refuses it ({image.width} x {image.height} pixels: {first_line(error)})"
    return None


def within_limits(image: Any) -> Any:
    """An image that every processor takes: one of extreme shape has its short side stretched to a 200th of the long
    one, and to four pixels at least. Others are returned as they are."""
    width, height = image.size
    least = max(SHORTEST_SIDE, -(-max(width, height) // LARGEST_RATIO))
    if min(width, height) >= least:
        return image
    return image.resize((max(width, least), max(height, least)))


def _resized(images: Any, width: int, height: int) -> tuple[float, float] | None:
    """The sides that the processor resizes an image to, or None where that is not known or is no smaller."""
    sides = getattr(images, "size", None)
    if not getattr(images, "do_resize", False) or sides is None or getattr(images, "do_pan_and_scan", None):
        return None
    if getattr(images, "image_grid_pinpoints", None):
        return None
    shortest, longest = _side(sides, "shortest_edge"), _side(sides, "longest_edge")
    if isinstance(getattr(images, "patch_size", None), int) and isinstance(getattr(images, "merge_size", None), int):
        if longest is None:
            return None
        factor = math.sqrt(longest / (width * height))  # here the longest edge is a number of pixels
    elif hasattr(images, "do_image_splitting"):
        if images.do_image_splitting:
            return None  # every tile is of the image's own pixels, or larger: nothing is made small
        tile = _side(images.max_image_size, "longest_edge")
        return None if tile is None else (tile, tile)
    elif (fixed := (_side(sides, "width"), _side(sides, "height"))) != (None, None):
        return None if None in fixed else fixed  # type: ignore[return-value]
    elif shortest is not None:
        factor = shortest / min(width, height)
    else:
        return None
    return None if factor >= 1 else (width * factor, height * factor)


def _side(sides: Any, name: str) -> int | None:
    value = sides.get(name) if hasattr(sides, "get") else getattr(sides, name, None)
    return value if isinstance(value, int) else None


def _patches(images: Any, width: int, height: int) -> Any:
    """Something that is the same for two sizes that become the same patches, as far as the processor can tell."""
    count = getattr(images, "get_number_of_image_patches", None)
    if count is None:
        return None  # one size, whatever comes
    try:
        return count(height, width, {})
    except ValueError:  # the processor refuses such a shape
        return (width, height)
