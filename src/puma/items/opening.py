"""Safe opening of images: limits on bytes, pixels and formats; first frame, upright, RGB on white. Loads no torch."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Union

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from puma.errors import ImageError, StorageError
from puma.items.formats import EXTRA_FORMATS, why_not_read
from puma.items.image_checks import why_costly, why_too_many_scans
from puma.items.limits import PLAIN, check_memory, image_memory, memory_needed, most_file_bytes
from puma.items.objects import ObjectPath, object_bytes
from puma.items.references import no_such_file, what_instead

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *EXTRA_FORMATS)
"""The only decoders tried. SVG is not among them: it is a program, not an image."""
MAX_SLOW_SAMPLES = 8_000_000
"""Largest image, in pixels times bands, for which a decoder written in Python is run (run-length BMP, plain or odd
PPM): it takes a third of a microsecond each."""
VALUES_AT_ONCE = 2**20
_JPEG = b"\xff\xd8"
SCALES = (1, 2, 4, 8)
"""By which a JPEG can be decoded smaller."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation: the turn that puts the image upright."""

ImageSource = Union[Image.Image, str, "os.PathLike[str]", bytes, np.ndarray]
LeastSide = Union[int, Callable[[tuple[int, int]], "int | None"], None]
"""Pixels that both sides of a JPEG must keep when it is decoded small, or what gives them for a size (width, height);
None for the full size."""


def open_image(
    source: ImageSource,
    *,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    least_side: LeastSide = None,
) -> Image.Image:
    """Decode an image to RGB, upright, on white where it was transparent; of an animation, the first frame.

    Nothing but an image or an ImageError comes out of any bytes: no other error, no warning. What decoding would take
    is estimated from the header, and an image beyond :func:`puma.items.limits.image_memory` is refused; a JPEG is
    decoded at a half, a quarter or an eighth of its size instead, if that fits. Memory stays below 24 bytes a pixel of
    the image's claimed size, and a few times the file's size.

    Args:
        source: as :class:`puma.items.Item`'s ``image``. A PIL image is copied, never returned itself.
        max_pixels: images of more pixels are refused before they are decoded; None for no limit but the memory's.
        max_bytes: files of more bytes are refused before they are read; None for
            :func:`puma.items.limits.most_file_bytes`.
        least_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, several times faster, as long
            as both its sides keep this many pixels. None for the full size. Or what gives one of these for the file's
            (width, height).

    Raises:
        ImageError: the file is missing, too large, truncated, of no format in :data:`FORMATS`, or made to be slow
            (:mod:`puma.items.image_checks`).
        StorageError: the image is in an object store that cannot be reached.
    """
    name = image_name(source)
    try:
        with _QUIET:
            image = _opened(source, name, max_pixels, most_file_bytes() if max_bytes is None else max_bytes)
            if image is not source:
                _fit_memory(image, name, least_side)
            upright = _upright(image)
            if image is not source:  # a GIF's frame may be larger than its header said
                check_memory(name, upright.size, memory_needed(upright, *upright.size))
            return _flattened(upright, image is source)
    except (ImageError, StorageError):  # the second: no object of the store can be read now
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{2 * (image_memory() // PLAIN):,}"
        raise ImageError(
            f"{name}: more than {most} pixels, the most that {image_memory() // 2**20:,} MiB allow; scale the image "
            "down, or raise the limit (--image-memory)"
        ) from None
    except FileNotFoundError:
        raise ImageError(f"{name}: {no_such_file(name)}") from None
    except PermissionError:
        raise ImageError(f"{name}: may not be read; look at the file's permissions") from None
    except MemoryError:
        raise ImageError(f"{name}: too large to decode in memory") from None
    except Exception as error:  # decoders raise almost anything on damaged bytes
        reason = str(error) or type(error).__name__
        raise ImageError(f"{name}: cannot be decoded, the file is damaged or incomplete ({reason})") from None


class _Quiet:
    """While any thread opens an image, Pillow's warnings about odd ones go nowhere, and its own limit on pixels is that
    of the memory: Pillow's is below what phones make.

    Counted, because ``warnings.catch_warnings`` alone is not made for threads: the first to leave would give the others
    their warnings back, and the last could leave the filter behind for good.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._caught: warnings.catch_warnings[None] | None = None
        self._pixels: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                # Pillow raises at twice this. It checks again while a GIF is decoded, whose frame may be larger.
                self._pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, image_memory() // PLAIN
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._caught is not None:
                self._caught.__exit__(None, None, None)
                Image.MAX_IMAGE_PIXELS = self._pixels


_QUIET = _Quiet()


class FileBytes(bytes):
    """The bytes of an image's file, for whoever has read it already; messages call the image by ``path``."""

    path: str

    def __new__(cls, data: bytes, path: str) -> FileBytes:
        made = super().__new__(cls, data)
        made.path = path
        return made

    def __reduce__(self) -> tuple[type[FileBytes], tuple[bytes, str]]:
        return FileBytes, (bytes(self), self.path)  # bytes' own way would call __new__ without the path


def image_name(source: ImageSource) -> str:
    """What messages call an image: its path, or its type in angle brackets."""
    if isinstance(source, FileBytes):
        return source.path
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"<{type(source).__name__}>"


def _opened(source: ImageSource, name: str, max_pixels: int | None, max_bytes: int) -> Image.Image:
    """The image with its header read, its size and cost checked, nothing decoded."""
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, np.ndarray):
        if (
            source.dtype != np.uint8
            or source.ndim not in (2, 3)
            or (source.ndim == 3 and source.shape[2] not in (3, 4))
        ):
            raise ImageError(
                f"an image array must be uint8 [height, width] or [height, width, 3 or 4], "
                f"got {source.dtype} {list(source.shape)}"
            )
        _check_size(source.shape[1], source.shape[0], name, max_pixels)
        return Image.fromarray(source)
    else:
        data = _read(source, name, max_bytes)
        if reason := why_costly(data, max_pixels or image_memory() // PLAIN):
            raise ImageError(f"{name}: {reason}; no ordinary image has that, save it anew")
        if reason := why_not_read(data):
            raise ImageError(f"{name}: {reason}")
        # From memory: PIL keeps a file of its own open when a decoder fails half way.
        try:
            image = _jpeg(data) if data.startswith(_JPEG) else Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            instead = what_instead(data)
            found = f"{instead}, " if instead else ""
            raise ImageError(f"{name}: {found}not an image of a known format ({', '.join(FORMATS)})") from None
        reason = why_too_many_scans(data, image.width * image.height) if data.startswith(_JPEG) else None
        if reason:
            raise ImageError(f"{name}: {reason}; save it anew")
    _check_size(*image.size, name, max_pixels)
    tiles = getattr(image, "tile", ())
    samples = image.width * image.height * len(image.getbands())
    if samples > MAX_SLOW_SAMPLES and any(tile[0] in Image.DECODERS for tile in tiles):
        raise ImageError(
            f"{name}: {samples:,} samples of a kind of {image.format} that is slow to decode, over the limit of "
            f"{MAX_SLOW_SAMPLES:,}; save it as PNG"
        )
    return image


def _jpeg(data: bytes) -> Image.Image:
    """Without Pillow's limit on pixels: a JPEG may be decoded at an eighth."""
    try:
        return JpegImagePlugin.jpeg_factory(io.BytesIO(data), "")
    except (SyntaxError, IndexError, TypeError, struct.error):
        raise UnidentifiedImageError from None


def _read(source: str | os.PathLike[str] | bytes, name: str, max_bytes: int) -> bytes:
    if isinstance(source, ObjectPath):
        source = object_bytes(source, max_bytes)
    if isinstance(source, bytes):
        size = len(source)
    else:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: is a folder, not an image")
        size = path.stat().st_size
    if size > max_bytes:
        raise ImageError(f"{name}: {size:,} bytes are over the limit of {max_bytes:,}")
    if size == 0:
        raise ImageError(f"{name}: the file is empty")
    return source if isinstance(source, bytes) else path.read_bytes()


def _fit_memory(image: Image.Image, name: str, least_side: LeastSide) -> None:
    """Have a JPEG decoded small: as small as the caller allows, or as the memory demands.

    Raises:
        ImageError: the image would take more memory than one image may.
    """
    width, height = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    side = least_side(image.size) if callable(least_side) and is_jpeg else least_side
    allowed = min(width // max(1, side), height // max(1, side)) if isinstance(side, int) else 1
    scale = max(scale for scale in SCALES if scale <= max(1, allowed)) if is_jpeg else 1
    needed = memory_needed(image, width // scale, height // scale)
    while needed > image_memory() and is_jpeg and scale < SCALES[-1]:
        scale *= 2
        needed = memory_needed(image, width // scale, height // scale)
    check_memory(name, (width, height), needed)
    if scale > 1:
        # Once only: Pillow ignores a second call.
        image.draft("RGB", (max(1, width // scale), max(1, height // scale)))


def _check_size(width: int, height: int, name: str, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(f"{name}: {width} x {height} pixels are over the limit of {max_pixels:,}; scale it down")
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels")


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged notes on a sound image
        return image
    return image if turn is None else image.transpose(turn)


def _flattened(image: Image.Image, borrowed: bool) -> Image.Image:
    if image.mode == "RGB":
        return image.copy() if borrowed else image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = Image.new("RGB", image.size, (255, 255, 255))
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey of more than eight bits, uint8 [height, width]: from 0 to 1 (fractions), 255 or 65535, whichever holds the
    largest value. What is no number is black. In pieces: a copy in floating point would be larger than the image."""
    flat = values.reshape(-1)
    pieces = [slice(start, start + VALUES_AT_ONCE) for start in range(0, len(flat), VALUES_AT_ONCE)]
    largest = max(float(np.max(flat[piece], initial=0, where=np.isfinite(flat[piece]))) for piece in pieces)
    top = 65535.0 if largest > 255 else 255.0
    if values.dtype.kind == "f" and largest <= 1:
        top = 1.0
    grey = np.empty(len(flat), np.uint8)
    for piece in pieces:
        with np.errstate(invalid="ignore"):  # a signalling NaN complains when it is widened
            numbers = np.nan_to_num(flat[piece].astype(np.float64), posinf=top, neginf=0.0)
        grey[piece] = np.clip(numbers / top, 0, 1) * 255
    return grey.reshape(values.shape)
