"""Whether a model takes an image, by its processor alone: no weights are read."""

from __future__ import annotations

import os

from puma.errors import ImageError
from puma.items.item import Item
from puma.pruning.hub import model_folder
from puma.pruning.processors import load_processor
from puma.retriever.images.decoding import LARGEST_RATIO, why_refused, within_limits


class ImageTrial:
    """Tries images on a model's image processor, one by one.

    Args:
        model: a retriever's folder, a base model's, or a hub name.

    Raises:
        InputError: it is no model folder.
        ModelError: its processor cannot be loaded.
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self.processor = load_processor(model_folder(model))

    def __call__(self, item: Item) -> str | None:
        """What is done to the item's image before the model sees it, where that distorts it; else None.

        Raises:
            ImageError: the image cannot be opened, or the processor refuses it.
        """
        image = item.open_image()
        if image is None:
            return None
        taken = within_limits(image)
        reason = why_refused(self.processor, taken)
        if reason is not None:
            raise ImageError(f"{item.image_name}: {reason}")
        if taken.size == image.size:
            return None
        return f"sides of more than {LARGEST_RATIO} to 1, or of a few pixels: stretched to what every processor takes"
