"""Kinds of image files: their suffixes, and which need a decoder that may not be installed. Loads no torch."""

from __future__ import annotations

import importlib

from PIL import features

from puma.errors import install_command

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
AVIF_SUFFIXES = (".avif",)
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    *AVIF_SUFFIXES, *HEIF_SUFFIXES,
)  # fmt: skip
"""Suffixes of images, in lower case."""
NEEDS_HEIF = f"HEIC images need pillow-heif: {install_command('heic')}"
NEEDS_AVIF = "AVIF images need a Pillow with AVIF: pip install --upgrade pillow"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _found_formats() -> tuple[str, ...]:
    found = ("AVIF",) if features.check("avif") else ()
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return found
    return (*found, "HEIF")


EXTRA_FORMATS = _found_formats()
"""The decoders, by Pillow's names, of those that not every installation has."""


def why_no_decoder(suffix: str) -> str | None:
    """Why images with this suffix cannot be read here, and what mends it; None if they can."""
    if suffix in HEIF_SUFFIXES and "HEIF" not in EXTRA_FORMATS:
        return NEEDS_HEIF
    return NEEDS_AVIF if suffix in AVIF_SUFFIXES and "AVIF" not in EXTRA_FORMATS else None


def why_not_read(data: bytes) -> str | None:
    """As :func:`why_no_decoder`, by an image's first bytes: phones send HEIC under any name."""
    if data[4:8] != b"ftyp":
        return None
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, min(len(data), 64), 4))}
    if b"avif" in brands or b"avis" in brands:
        return why_no_decoder(AVIF_SUFFIXES[0])
    return why_no_decoder(HEIF_SUFFIXES[0]) if brands & set(_HEIF_BRANDS) else None
