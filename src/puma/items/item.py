"""What is embedded: an item holds a text, an image, or both, and knows its modality. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from puma.errors import InputError
from puma.items.limits import MAX_BYTES, MAX_MEMORY
from puma.items.opening import FORMATS, FileBytes, ImageSource, LeastSide, image_name, open_image
from puma.items.references import image_reference

__all__ = [
    "FORMATS",
    "IMAGE",
    "IMAGE_TEXT",
    "MAX_BYTES",
    "MAX_MEMORY",
    "MODALITIES",
    "TEXT",
    "FileBytes",
    "ImageSource",
    "Item",
    "as_item",
    "as_items",
    "open_image",
]

TEXT, IMAGE, IMAGE_TEXT = "text", "image", "image,text"
MODALITIES = (TEXT, IMAGE, IMAGE_TEXT)
"""The three modalities as M-BEIR spells them; the position in this tuple is the modality's integer code."""


@dataclass(frozen=True)
class Item:
    """A text, an image, or both.

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

    @property
    def image_name(self) -> str:
        """What messages call the image: its path, or its type in angle brackets; empty without one."""
        return "" if self.image is None else image_name(self.image)

    def open_image(self, *, least_side: LeastSide = None) -> Image.Image | None:
        """The image, decoded by :func:`open_image`, or None."""
        return None if self.image is None else open_image(self.image, least_side=least_side)


def as_items(values: Sequence[Any] | Any) -> list[Item]:
    """Items of a list, a tuple or an iterator of what :func:`as_item` takes, or of one such value."""
    if isinstance(values, (str, dict, Item)) or not isinstance(values, (list, tuple)):
        values = list(values) if isinstance(values, Iterator) else [values]
    return [as_item(value) for value in values]


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
        if image_reference(value) in ("data URI", "base64"):
            raise InputError(
                f"{value[:40]!r}...: an image as base64, not words; give its decoded bytes (a string is text)"
            )
        return Item(text=value)
    if isinstance(value, (Image.Image, os.PathLike, bytes, np.ndarray)):
        return Item(image=value)
    if isinstance(value, dict):
        unknown = sorted(set(value) - {"text", "image"})
        if unknown:
            raise InputError(f"an item's dict takes the keys 'text' and 'image', got also {unknown}")
        return Item(text=value.get("text"), image=value.get("image"))
    raise InputError(f"cannot make an item of {type(value).__name__}: give a string, an image, a Path or a dict")
