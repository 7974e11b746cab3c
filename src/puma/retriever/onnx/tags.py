"""The tagger of an export: the same classifier as a graph. Loads no torch where a folder is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import ModelError
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.tagging.tagger import Tagger
from puma.storage.folders import write_json

GRAPH = "puma_tagger.onnx"
"""``pixel_values`` float32 [n, 3, height, width] -> ``classes`` int64 [n], ``photo`` float32 [n]: what
:data:`puma.retriever.tagging.tagger.Network` says."""
FILE = "puma_tagger.json"
"""The classes' names, what is done to images, the fingerprint, the weights of the statistics, and the shift."""


def write_tags(tagger: Tagger, folder: Path) -> None:
    """Write what must be known of a tagger's graph into an export's folder."""
    facts = {"names": tagger.names, "images": asdict(tagger.images), "fingerprint": tagger.fingerprint}
    write_json(folder / FILE, {**facts, "statistics": tagger.statistics.tolist(), "shift": tagger.shift.tolist()})


def read_tags(folder: Path, session: Callable[[Path], Any]) -> Tagger:
    """The tagger of an export.

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
        statistics, shift = (np.array(facts[name], np.float32) for name in ("statistics", "shift"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"model {str(folder)!r}: {FILE} cannot be read ({type(error).__name__}: {error}); export the model again"
        ) from None
    graph = session(folder / GRAPH)

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        classes, photo = graph.run(None, {"pixel_values": pixels})
        return classes, photo

    return Tagger(names, images, run, fingerprint, statistics, shift)
