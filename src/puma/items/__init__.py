"""Items (a text, an image, or both), the safe opening of their images, and embedding many of them. Loads no torch."""

from puma.items.encoder import Encoder
from puma.items.item import (
    FORMATS,
    IMAGE,
    IMAGE_TEXT,
    MAX_BYTES,
    MAX_MEMORY,
    MODALITIES,
    TEXT,
    ImageSource,
    Item,
    as_item,
    open_image,
)

__all__ = [
    "FORMATS",
    "IMAGE",
    "IMAGE_TEXT",
    "MAX_BYTES",
    "MAX_MEMORY",
    "MODALITIES",
    "TEXT",
    "Encoder",
    "ImageSource",
    "Item",
    "as_item",
    "open_image",
]
