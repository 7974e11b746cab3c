"""Stored vision features of a benchmark's images, found by path: what a retriever with a frozen tower reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from puma.items.item import Item
from puma.items.opening import image_name
from puma.mini.base.vision import ImageFeatures, VisionTower, image_features, tower_precision


class KnownImages:
    """Stored vision features by an image's path: the retriever's ``vision``."""

    def __init__(self, paths: Sequence[Path | str], features: ImageFeatures) -> None:
        self.rows = features.rows
        """Stored features, float16 [m, channels, height, width]; may hold other images' too."""
        self._row: dict[str, int] = {}
        for path, row in zip(paths, features.index, strict=True):
            if row >= 0:
                self._row[os.fspath(path)] = int(row)

    def lookup(self, item: Item) -> np.ndarray | None:
        """The tower's output [channels, height, width], or None for an image that is not among them. A file that was
        read already is found by its path too: an index reads every file once, for its digest."""
        row = None if item.image is None else self.row(image_name(item.image))
        return None if row is None else np.asarray(self.rows[row])

    def row(self, path: str | os.PathLike[str]) -> int | None:
        """Which of ``rows`` an image's features are; None for an image that is not among them."""
        return self._row.get(os.fspath(path))


def known_images(base: Path, root: Path, home: Path | None, *, show_progress: bool = True) -> KnownImages:
    """The vision features of every image of a benchmark, from the cache where it has them."""
    paths = sorted(path for path in (root / "mbeir_images").rglob("*") if path.is_file())
    return features_of(base, paths, home, show_progress=show_progress)


def stored_tower(base: Path) -> VisionTower:
    """A base's vision tower in the precision that features are kept in on this machine."""
    return VisionTower(base, precision=tower_precision())


def features_of(
    base: VisionTower | Path, paths: Sequence[Path], home: Path | None, *, show_progress: bool = True, variant: int = 0
) -> KnownImages:
    """The vision features of image files, from the cache where it has them.

    Args:
        base: its tower (:func:`stored_tower`), or the folder to load it from.
        variant: see :func:`puma.mini.base.vision.image_features`; such features are looked up by :func:`variant_name`.
    """
    tower = base if isinstance(base, VisionTower) else stored_tower(base)
    features = image_features(tower, paths, home, show_progress=show_progress, variant=variant)
    return KnownImages([variant_name(path, variant) for path in paths], features)


def variant_name(path: str | os.PathLike[str], variant: int) -> str:
    """How an item names an image's variant; variant 0 is the image itself."""
    return f"variant:{variant}:{os.fspath(path)}" if variant else os.fspath(path)


def has_known_tower(folder: Path) -> bool:
    """Whether a model folder's tower is one whose outputs can be stored: FastVLM's with an EfficientNet."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return bool(config["model_type"] == "fast_vlm" and config["vision_config"]["model_type"] == "efficientnet")
    except (OSError, ValueError, KeyError, TypeError):  # a hub name, or a fault that loading the model will tell
        return False
