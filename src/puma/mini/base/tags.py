"""The tagger of a mini-base retriever: the tower as published with its ImageNet classifier, and a line between
photographs and drawings, drawn through the training images' own features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from puma.errors import InputError
from puma.mini.base.classifier import load_classifier
from puma.mini.base.vision import tower_weights
from puma.mini.fetch.packages import Package, fetch
from puma.pruning.processors import load_processor
from puma.retriever.images.pixels import Preprocessing, preprocessing
from puma.retriever.tagging.network import TagNetwork, torch_tagger
from puma.retriever.tagging.tagger import Tagger

PHOTO = "a photo"
"""The style of an OpenPics picture that is a photograph."""
RIDGE = 3.0
"""Of the line's weights, in units of the standardised columns' spread."""
STATISTICS_COUNT = 3.0
"""How much more than a feature one of the pixels' statistics counts in the ridge."""
DRAWINGS_TAGGED = 0.005
"""The share of the training data's drawings that are taken for photographs: where the line lies."""


@dataclass(frozen=True)
class PhotoLine:
    """``features @ weight + pixel_statistics @ statistics + bias`` is above 0 for a photograph.

    Args:
        weight: float32 [channels].
        statistics: float32 [:data:`puma.retriever.tagging.statistics.COUNT`].
        bias: a number.
    """

    weight: np.ndarray
    statistics: np.ndarray
    bias: float


def fit_photo_line(pooled: np.ndarray, statistics: np.ndarray, photos: np.ndarray) -> PhotoLine:
    """A ridge regression to +1 for photographs and -1 for drawings, both kinds weighing the same, moved so that the
    stated share of drawings lies above it.

    Args:
        pooled: float32 [n, channels], mean features of images.
        statistics: float32 [n, m], of their pixels.
        photos: bool [n].

    Raises:
        InputError: there are no photographs, or no drawings.
    """
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
    bias = -float(np.quantile(columns[~photos] @ line, 1 - DRAWINGS_TAGGED))
    features, rest = np.split(line.astype(np.float32), [pooled.shape[1]])
    return PhotoLine(features, rest, bias)


def make_tagger(
    base: Path,
    tower: str,
    line: PhotoLine,
    shift: np.ndarray,
    fetched: Callable[[Package], Path] = fetch,
) -> Tagger:
    """The tagger of a mini base.

    Args:
        base: its folder.
        tower: a key of :data:`puma.mini.base.tower.TOWERS`.
        line: see :class:`PhotoLine`.
        shift: see :class:`~puma.retriever.tagging.tagger.Tagger`.
        fetched: gives a package's folder.
    """
    classifier = load_classifier(tower, fetched)
    network = TagNetwork(AutoModel.from_config(AutoConfig.from_pretrained(base).vision_config), len(classifier.names))
    network.tower.load_state_dict(
        {name: t.float() if t.is_floating_point() else t for name, t in tower_weights(base).items()}
    )
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(classifier.weight))
        network.classifier.bias.copy_(torch.from_numpy(classifier.bias))
        network.photo.weight.copy_(torch.from_numpy(line.weight)[None])
        network.photo.bias.fill_(line.bias)
    return torch_tagger(network, classifier.names, steps_of(base), line.statistics, shift)


def steps_of(base: Path) -> Preprocessing:
    """What a mini base does to images.

    Raises:
        InputError: Pillow cannot do it, so that the base can have no tagger.
    """
    images = preprocessing(load_processor(base).image_processor)
    if images is None:
        raise InputError(f"base {base}: its image processor is not Pillow's; no tagger can be made for it")
    return images
