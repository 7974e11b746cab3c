"""What the tower knows of photographs, as training pairs without a photograph: mixtures of drawings' features, named by
the tower's own classifier.

A mixture is one or two training images' feature maps, weighted, made stronger or weaker, and often moved along a class:
inputs on which the classifier is sure of many different things, as it is on photographs. Its name is drawn from the
classifier's probabilities for it, so that over many mixtures the model learns those probabilities and not only the
likeliest class. No image file is behind a mixture: its path is a name of the form ``mixture:17``, which only a
:class:`Mixtures` can look up. Measured in docs/results.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from puma.items.item import Item
from puma.mini.base.classifier import Classifier
from puma.retriever.stored_vision import VisionFeatures

PREFIX = "mixture:"
COUNT = 60_000
"""Mixtures made; those whose class is a held-out name are left out."""
CEILING = 6.0
"""Of the tower's last activation, relu6."""
ALONE, UNCHANGED = 0.3, 0.3
"""The shares of mixtures of a single image, and of those whose strength stays."""
SPREAD, WEIGHTS = 0.42, 0.28
"""The shares moved along a class's direction in the features' spread (covariance times weights), and along its
weights."""
GAINS = (0.7, 1.6)
"""What the others' strength is multiplied by, at least and at most."""
SPREAD_REACH, WEIGHTS_REACH = 3.0, 1.2
"""How far a mixture is moved at most, each way, in units of the features' typical distance from their mean."""
UNLIKELY = 0.02
"""A drawn class of less probability is not used."""


@dataclass(frozen=True)
class Mixtures:
    """Feature maps by mixture.

    Args:
        rows: float16 [m, channels, h, w]: stored features.
        chosen: int64 [n]: the rows that may be mixed.
        classifier: of the tower.
        along: float32 [2, classes, channels]: how far one unit of reach moves, see :func:`directions`.
        seed: another one makes other mixtures.
    """

    rows: np.ndarray
    chosen: np.ndarray
    classifier: Classifier
    along: np.ndarray
    seed: int = 0

    def lookup(self, item: Item) -> np.ndarray | None:
        """The feature map [channels, h, w], float16, of an item whose image is a mixture's name; else None."""
        name = item.image
        if not isinstance(name, str) or not name.startswith(PREFIX):
            return None
        return self.features(int(name.removeprefix(PREFIX)))

    def features(self, number: int) -> np.ndarray:
        """Mixture ``number``: float16 [channels, h, w]; the same every time."""
        rng = np.random.default_rng([self.seed, number])
        first, second = (self.rows[self.chosen[k]].astype(np.float32) for k in rng.integers(len(self.chosen), size=2))
        share = 1.0 if rng.random() < ALONE else rng.random()
        mixed = (first * share + second * (1 - share)) * (rng.uniform(*GAINS) if rng.random() < 1 - UNCHANGED else 1.0)
        way, reach, towards = rng.random(), rng.random(), rng.integers(len(self.classifier.names))
        if way < SPREAD:
            mixed = mixed + (SPREAD_REACH * reach * self.along[0, towards])[:, None, None]
        elif way < SPREAD + WEIGHTS:
            mixed = mixed + (WEIGHTS_REACH * reach * self.along[1, towards])[:, None, None]
        return np.clip(mixed, 0.0, CEILING).astype(np.float16)

    def named(self, count: int, allowed: np.ndarray, block: int = 2048) -> Iterator[tuple[str, str]]:
        """Mixtures' paths, each with a class's name drawn from the classifier's probabilities.

        Args:
            count: mixtures tried.
            allowed: bool [classes]; a mixture that is more likely of other classes is left out.
        """
        rng = np.random.default_rng([self.seed, 1])
        for start in range(0, count, block):
            numbers = range(start, min(start + block, count))
            pooled = np.stack([self.features(n).astype(np.float32).mean((1, 2)) for n in numbers])
            probabilities = self.classifier(pooled)
            for number, row, draw in zip(numbers, probabilities, rng.random(len(numbers)), strict=True):
                right = np.where(allowed, row, 0.0)
                total = right.sum()
                if total < 0.5:
                    continue
                drawn = min(int(np.searchsorted(np.cumsum(right), draw * total)), len(right) - 1)
                if allowed[drawn] and row[drawn] >= UNLIKELY:
                    yield f"{PREFIX}{number}", self.classifier.names[drawn]


def mixtures_of(rows: np.ndarray, chosen: np.ndarray, classifier: Classifier, seed: int = 0) -> Mixtures:
    """Mixtures of some stored feature maps.

    Args:
        rows: float16 [m, channels, h, w].
        chosen: int64 [n]: those of them that may be mixed.
    """
    pooled = np.concatenate(
        [rows[chosen[k : k + 1024]].astype(np.float32).mean((2, 3)) for k in range(0, len(chosen), 1024)]
    )
    return Mixtures(rows, chosen, classifier, directions(pooled, classifier.weight), seed)


def directions(pooled: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Two directions a class, as long on average as features are from their mean: float32 [2, classes, channels].

    The first is the covariance of the features times the class's weights: where the class's mean lies, if all
    classes spread alike (linear discriminant analysis). The second is the weights themselves.

    Args:
        pooled: [n, channels].
        weight: [classes, channels].
    """
    own = weight - weight.mean(0)
    typical = np.sqrt(pooled.var(0).sum())
    both = np.stack([own @ np.cov(pooled.T), own])
    lengths = np.sqrt((both**2).sum(-1).mean(-1))
    return (both * (typical / lengths)[:, None, None]).astype(np.float32)


class Joined:
    """Several sources of stored features, asked in turn."""

    def __init__(self, *sources: VisionFeatures) -> None:
        self._sources = sources

    def lookup(self, item: Item) -> np.ndarray | None:
        """The first source's features of the item, or None where no source has any."""
        for source in self._sources:
            if (found := source.lookup(item)) is not None:
                return found
        return None
