"""Images that come in over HTTP as data URIs, base64 or uploads, checked before they are decoded. Loads no torch.

They are checked in this order, each step before the next costs anything: kind of address, length of the text, base64
(:mod:`puma.items.references`), first bytes, width and height from the header. No address is ever fetched.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from puma.errors import ImageError
from puma.items.item import FORMATS
from puma.items.references import SVG, SVG_DRAWING, encoded_bytes, what_instead
from puma.serve.settings import ServeSettings

_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I": 32, "F": 32}


@dataclass(frozen=True)
class CheckedImage:
    """Encoded bytes that may be decoded, and what their header says."""

    data: bytes
    width: int
    height: int
    format: str
    bit_depth: int


def image_from_text(value: str, limits: ServeSettings, name: str = "image") -> CheckedImage:
    """The image in a data URI or in bare base64.

    Args:
        value: what the client sent.
        limits: ``max_image_bytes`` and ``max_image_pixels`` of them are used.
        name: of the field, for messages.

    Raises:
        ImageError: an address, an SVG, no base64, no image, or one beyond the limits.
    """
    data = encoded_bytes(value, name, limits.max_image_bytes)
    return image_from_bytes(data, limits, name)


def image_from_bytes(data: bytes, limits: ServeSettings, name: str = "image") -> CheckedImage:
    """The image in encoded bytes; its header is read, nothing is decoded.

    Raises:
        ImageError: an SVG, no image of a known format, or one beyond the limits.
    """
    if len(data) > limits.max_image_bytes:
        raise ImageError(_large(name, len(data), limits))
    if not data:
        raise ImageError(f"{name}: the picture is empty")
    width, height, kind, mode = _webp_canvas(data) or _header(data, limits, name)
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the picture has no pixels")
    if width * height > limits.max_image_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are over the limit of {limits.max_image_pixels:,}; scale it down"
        )
    return CheckedImage(data, width, height, kind.lower(), _BITS.get(mode, 8))


def _header(data: bytes, limits: ServeSettings, name: str) -> tuple[int, int, str, str]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width, image.height, image.format or "", image.mode
    except UnidentifiedImageError:
        instead = what_instead(data)
        if instead == SVG_DRAWING:
            raise ImageError(f"{name}: {SVG}") from None
        found = f"{instead}, " if instead else ""
        raise ImageError(f"{name}: {found}not a picture of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = min(limits.max_image_pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.max_image_pixels))
        raise ImageError(f"{name}: more pixels than the limit of {most:,}; scale it down") from None
    except Exception as error:  # decoders raise almost anything on damaged bytes
        reason = str(error) or type(error).__name__
        raise ImageError(f"{name}: the picture cannot be read, its file is damaged or incomplete ({reason})") from None


def _webp_canvas(data: bytes) -> tuple[int, int, str, str] | None:
    """A WebP's size. Read here because opening one allots its whole canvas."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind, body = data[12:16], data[20:]
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"), "webp", "RGB"
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), "webp", "RGB"
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return (
            int.from_bytes(body[6:8], "little") & 0x3FFF,
            int.from_bytes(body[8:10], "little") & 0x3FFF,
            "webp",
            "RGB",
        )
    return None


def _large(name: str, size: int, limits: ServeSettings) -> str:
    return f"{name}: about {size:,} bytes are over the limit of {limits.max_image_bytes:,}"
