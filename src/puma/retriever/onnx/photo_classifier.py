"""The photo classifier of an export: the same network as a graph. Loads no torch where a folder is read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import ModelError
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.photographs import classifier as photographs
from puma.retriever.photographs.classifier import PhotoClassifier
from puma.storage.folders import write_json

GRAPH = "puma_photo_classifier.onnx"
"""``pixel_values`` float32 [n, 3, height, width] -> ``logits`` float32 [n, classes], ``photo`` float32 [n]: what
:data:`puma.retriever.photographs.classifier.Network` says."""
FILE = "puma_photo_classifier.json"
"""The classes' names, what is done to images, and the fingerprint."""
ARRAYS = "puma_photo_classifier.npz"
"""Those of :data:`puma.retriever.photographs.classifier.ARRAYS`."""


def write_classifier(classifier: PhotoClassifier, folder: Path) -> None:
    """Write what must be known of a photo classifier's graph into an export's folder."""
    facts = {"names": classifier.names, "images": asdict(classifier.images), "fingerprint": classifier.fingerprint}
    write_json(folder / FILE, facts)
    np.savez(folder / ARRAYS, **{name: getattr(classifier, name) for name in photographs.ARRAYS})


def read_classifier(folder: Path, session: Callable[[Path], Any]) -> PhotoClassifier:
    """The photo classifier of an export.

    Args:
        folder: of the export.
        session: loads a graph.

    Raises:
        ModelError: it is missing or damaged.
    """
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        names, images = tuple(facts["names"]), Preprocessing.from_dict(facts["images"])
        fingerprint = str(facts["fingerprint"])
        with np.load(folder / ARRAYS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in photographs.ARRAYS}
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"model {str(folder)!r}: {FILE} or {ARRAYS} cannot be read ({type(error).__name__}: {error}); export the "
            "model again"
        ) from None
    graph = session(folder / GRAPH)

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, photo = graph.run(None, {"pixel_values": pixels})
        return logits, photo

    return PhotoClassifier(names, images, run, fingerprint, **arrays)
