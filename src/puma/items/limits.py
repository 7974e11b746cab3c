"""How much memory an image may take: estimated from its header before anything is decoded. Loads no torch."""

from __future__ import annotations

from typing import Any

from puma.errors import ImageError, InputError

MAX_MEMORY = 2 * 2**30
"""Bytes that decoding one image may take, unless :func:`set_image_memory` says otherwise: an RGB image of 268 million
pixels."""
MAX_BYTES = 512 * 2**20
"""Largest image file that is read, in bytes."""
LEAST_MEMORY = 2**20
PLAIN, OTHER = 8, 16
"""Bytes a pixel: Pillow's own four (one for grey) and a second copy, turned upright; in other modes RGBA between."""
WHOLE_BUFFER = 8
"""Bytes a pixel more for decoders that hold a whole image of their own."""
COEFFICIENTS = 6
"""Bytes a pixel of a progressive JPEG, whatever size it is decoded to: two for each component."""
_PLAIN_MODES = ("1", "L", "RGB")
_WHOLE = ("WEBP", "AVIF", "HEIF")
_memory = MAX_MEMORY


def set_image_memory(size: int) -> None:
    """Set what decoding one image may take, for this process.

    Args:
        size: in bytes, at least one MiB.

    Raises:
        InputError: it is no such number.
    """
    global _memory
    if isinstance(size, bool) or not isinstance(size, int) or size < LEAST_MEMORY:
        raise InputError(f"size must be a whole number of bytes of at least {LEAST_MEMORY:,}, got {size!r}")
    _memory = size


def image_memory() -> int:
    """Bytes that decoding one image may take."""
    return _memory


def most_file_bytes() -> int:
    """Bytes of the largest file that is read; half of a memory that was raised."""
    return max(MAX_BYTES, _memory // 2) if _memory > MAX_MEMORY else MAX_BYTES


def check_memory(name: str, size: tuple[int, int], needed: int) -> None:
    """Refuse an image that would take more memory than one image may.

    Args:
        name: what messages call it.
        size: its width and height in pixels.
        needed: about how many bytes decoding it takes.

    Raises:
        ImageError: it does not fit; the message says by how much.
    """
    if needed > _memory:
        raise ImageError(
            f"{name}: {size[0]} x {size[1]} pixels take about {needed // 2**20:,} MiB to decode, over the limit of "
            f"{_memory // 2**20:,}; scale the image down, or raise the limit (--image-memory)"
        )


def memory_needed(image: Any, width: int, height: int) -> int:
    """About how many bytes it takes to decode an opened PIL image at this size and to make it upright and RGB."""
    each = PLAIN if image.mode in _PLAIN_MODES else OTHER
    each += WHOLE_BUFFER if image.format in _WHOLE else 0
    held = COEFFICIENTS * image.width * image.height if image.info.get("progressive") else 0
    return each * width * height + held
