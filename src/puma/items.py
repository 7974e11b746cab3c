"""Items, the one currency from a file to a vector, and the safe opening of their pictures.

Here: what an item may hold, its modality, and decoding with limits (bytes, pixels, formats, animation, EXIF rotation,
transparency). Not here: anything of models or prompts. Nothing in this module loads torch.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from puma.errors import ImageError, InputError

TEXT, IMAGE, IMAGE_TEXT = "text", "image", "image,text"
MODALITIES = (TEXT, IMAGE, IMAGE_TEXT)
"""The three modalities as M-BEIR spells them; the position in this tuple is the modality's integer code."""

MAX_PIXELS = 80_000_000
"""Largest picture that is decoded, in pixels, whatever its file size (below the size at which PIL starts to warn)."""
MAX_BYTES = 100 * 2**20
"""Largest picture file that is read, in bytes."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The only decoders tried. SVG is not among them: it is a program, not a picture."""

ImageSource = Union[Image.Image, str, "os.PathLike[str]", bytes, np.ndarray]


@dataclass(frozen=True)
class Item:
    """A text, a picture, or both.

    Args:
        text: the text, or None. White space alone counts as no text.
        image: a PIL image, a path, encoded bytes, or a uint8 array [height, width] or [height, width, 3 or 4]; or None.
            It is opened only when the item is embedded.

    Raises:
        InputError: if neither is given, or one is of another type.
    """

    text: str | None = None
    image: ImageSource | None = None

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise InputError(f"Item.text must be a string or None, got {type(self.text).__name__}: {self.text!r:.80}")
        if self.text is not None and not self.text.strip():
            object.__setattr__(self, "text", None)
        if isinstance(self.image, str) and not self.image:
            object.__setattr__(self, "image", None)
        if self.image is not None and not isinstance(self.image, (Image.Image, str, os.PathLike, bytes, np.ndarray)):
            raise InputError(
                f"Item.image must be a PIL image, a path, bytes or an array, got {type(self.image).__name__}"
            )
        if self.text is None and self.image is None:
            raise InputError("an Item needs text or an image, and has neither (text was empty or None, image None)")

    @property
    def modality(self) -> str:
        """One of ``text``, ``image``, ``image,text``."""
        if self.image is None:
            return TEXT
        return IMAGE if self.text is None else IMAGE_TEXT

    def open_image(self) -> Image.Image | None:
        """The picture, decoded by :func:`open_image`, or None."""
        return None if self.image is None else open_image(self.image)


def as_item(value: Any) -> Item:
    """Turn what people write into an Item: an Item, a string (always text), a PIL image, a Path, or a dict with
    ``text`` and/or ``image``. A string is never taken for a path, nor the other way round.

    Examples:
        >>> as_item("a red fox").modality
        'text'
        >>> as_item({"text": "at night", "image": Image.new("RGB", (8, 8))}).modality
        'image,text'
    """
    if isinstance(value, Item):
        return value
    if isinstance(value, str):
        return Item(text=value)
    if isinstance(value, (Image.Image, os.PathLike, bytes, np.ndarray)):
        return Item(image=value)
    if isinstance(value, dict):
        unknown = sorted(set(value) - {"text", "image"})
        if unknown:
            raise InputError(f"an item's dict takes the keys 'text' and 'image', got also {unknown}")
        return Item(text=value.get("text"), image=value.get("image"))
    raise InputError(f"cannot make an item of {type(value).__name__}: give a string, a picture, a Path or a dict")


class Encoder(Protocol):
    """What turns items into vectors: a Retriever, a baseline, a remote service. Evaluation, search and serving see
    only this."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """A short name that changes whenever the vectors would: an index refuses another one."""

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        """Embed items: float32 [n, dim], rows of unit length, in the order given. The instruction goes before every
        item; candidates take none."""


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """Decode a picture to RGB, upright, on white where it was transparent; of an animation, the first frame.

    Args:
        source: as :class:`Item`'s ``image``.
        max_pixels: pictures of more pixels are refused before they are decoded.
        max_bytes: files of more bytes are refused before they are read.

    Raises:
        ImageError: the file is missing, too large, truncated, or of no format in :data:`FORMATS`.
    """
    name = _name(source)
    try:
        picture = _opened(source, name, max_bytes)
        width, height = picture.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width} x {height} pixels are over the limit of {max_pixels:,}; scale the picture down"
            )
        if width == 0 or height == 0:
            raise ImageError(f"{name}: the picture has no pixels")
        return _flattened(ImageOps.exif_transpose(picture))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: more pixels than the limit of {max_pixels:,}; scale the picture down") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture of a known format ({', '.join(FORMATS)})") from None
    except MemoryError:
        raise ImageError(f"{name}: too large to decode in memory") from None
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise ImageError(f"{name}: cannot be decoded ({type(error).__name__}: {error})") from None


def _name(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"<{type(source).__name__}>"


def _opened(source: ImageSource, name: str, max_bytes: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        if (
            source.dtype != np.uint8
            or source.ndim not in (2, 3)
            or (source.ndim == 3 and source.shape[2] not in (3, 4))
        ):
            raise ImageError(
                f"an image array must be uint8 [height, width] or [height, width, 3 or 4], "
                f"got {source.dtype} {list(source.shape)}"
            )
        return Image.fromarray(source)
    if isinstance(source, bytes):
        size = len(source)
    else:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: is a folder, not a picture")
        size = path.stat().st_size
    if size > max_bytes:
        raise ImageError(f"{name}: {size:,} bytes are over the limit of {max_bytes:,}")
    if size == 0:
        raise ImageError(f"{name}: the file is empty")
    # From memory: PIL keeps a file of its own open when a decoder fails half way.
    stream = io.BytesIO(source if isinstance(source, bytes) else path.read_bytes())
    return Image.open(stream, formats=FORMATS)


def _flattened(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode in ("I", "I;16", "I;16B", "F"):
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = Image.new("RGB", picture.size, (255, 255, 255))
        paper.paste(picture, mask=picture.getchannel("A"))
        return paper
    return picture.convert("RGB")
