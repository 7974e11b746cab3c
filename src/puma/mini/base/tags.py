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
from puma.retriever.images.pixels import preprocessing
from puma.retriever.tagging.network import TagNetwork, torch_tagger
from puma.retriever.tagging.tagger import Tagger

PHOTO = "a photo"
"""The style of an OpenPics picture that is a photograph."""
RIDGE = 10.0
"""Of the line's weights, in units of the standardised features' spread."""
DRAWINGS_TAGGED = 0.01
"""The share of the training data's drawings that are taken for photographs: where the line lies."""


@dataclass(frozen=True)
class PhotoLine:
    """``features @ weight + bias`` is above 0 for a photograph.

    Args:
        weight: float32 [channels].
        bias: a number.
    """

    weight: np.ndarray
    bias: float


def fit_photo_line(pooled: np.ndarray, photos: np.ndarray) -> PhotoLine:
    """A ridge regression to +1 for photographs and -1 for drawings, both kinds weighing the same, moved so that the
    stated share of drawings lies above it.

    Args:
        pooled: float32 [n, channels], mean features of images.
        photos: bool [n].

    Raises:
        InputError: there are no photographs, or no drawings.
    """
    if not photos.any() or photos.all():
        raise InputError("a line between photographs and drawings needs images of both kinds")
    mean, spread = pooled.mean(0), pooled.std(0) + 1e-6
    rows = (pooled - mean) / spread
    weight = np.where(photos, 0.5 / photos.sum(), 0.5 / (~photos).sum())[:, None]
    centre = (weight * rows).sum(0)
    centred, target = rows - centre, np.where(photos, 1.0, -1.0)
    gram = (centred * weight).T @ centred + RIDGE * np.eye(rows.shape[1])
    line = np.linalg.solve(gram, (centred * weight).T @ target) / spread
    bias = -float(np.quantile(pooled[~photos] @ line, 1 - DRAWINGS_TAGGED))
    return PhotoLine(line.astype(np.float32), bias)


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
    images = preprocessing(load_processor(base).image_processor)
    if images is None:
        raise InputError(f"base {base}: its image processor is not Pillow's; no tagger can be made for it")
    return torch_tagger(network, classifier.names, images, shift)
