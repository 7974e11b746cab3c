"""A retriever's photo classifier in an adapter: the lines between photographs and drawings, and from where to where the
retriever puts images and texts. Tower and classifier are as published, and the vectors of the classes' names are made
by the retriever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import ModelError
from puma.mini.base.photo_classifier import PhotoLines, make_classifier, name_vectors, steps_of, tower_network
from puma.mini.fetch.packages import Package
from puma.retriever.model import Retriever
from puma.retriever.photographs.classifier import PhotoClassifier

NAME = "puma_photo_classifier"
"""In the place of a tensor's name."""


def classifier_arrays(classifier: PhotoClassifier) -> dict[str, np.ndarray]:
    """What an adapter carries of a photo classifier, by short names."""
    photo = classifier.module.photo
    line = {"weight": photo.weight.detach().numpy()[0].copy(), "bias": photo.bias.detach().numpy().copy()}
    return {**line, **{name: getattr(classifier, name).copy() for name in ("gate", "statistics", "direction")}}


def classifier_of(
    arrays: Mapping[str, np.ndarray],
    retriever: Retriever,
    base_folder: Path,
    settings: Mapping[str, Any],
    fingerprint: str,
    fetched: Callable[[Package], Path],
) -> PhotoClassifier:
    """The photo classifier of which :func:`classifier_arrays` were written.

    Args:
        retriever: the adapter's, complete but for this.
        settings: of the base, as its note has them.
        fingerprint: the classifier's when it was written.
        fetched: gives a package's folder.

    Raises:
        ModelError: the tower or its classifier is another than it was.
    """
    lines = PhotoLines(arrays["gate"], arrays["weight"], arrays["statistics"], float(arrays["bias"][0]))
    network, names = tower_network(str(settings["tower"]), fetched)
    vectors, _ = name_vectors(retriever, names)
    classifier = make_classifier(
        network, names, steps_of(base_folder), lines, vectors=vectors, direction=arrays["direction"]
    )
    if classifier.fingerprint != fingerprint:
        raise ModelError(
            f"base {base_folder}: its tower's package, or what it does to images, is not what the adapter's photo "
            "classifier was made with; delete the folder and run again"
        )
    return classifier
