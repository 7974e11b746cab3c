"""A retriever's tagger in an adapter: the line between photographs and drawings and the shift alone. Tower and
classifier are the base's own, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import ModelError
from puma.mini.base.tags import PhotoLine, make_tagger
from puma.mini.fetch.packages import Package
from puma.retriever.tagging.tagger import Tagger

NAME = "puma_tagger"
"""In the place of a tensor's name."""


def tagger_arrays(tagger: Tagger) -> dict[str, np.ndarray]:
    """What an adapter carries of a tagger, by short names."""
    photo = tagger.module.photo
    line = {"weight": photo.weight.detach().numpy()[0].copy(), "bias": photo.bias.detach().numpy().copy()}
    return {**line, "statistics": tagger.statistics.copy(), "shift": tagger.shift.copy()}


def tagger_of(
    arrays: Mapping[str, np.ndarray],
    base_folder: Path,
    settings: Mapping[str, Any],
    fingerprint: str,
    fetched: Callable[[Package], Path],
) -> Tagger:
    """The tagger of which :func:`tagger_arrays` were written.

    Args:
        settings: of the base, as its note has them.
        fingerprint: the tagger's when it was written.
        fetched: gives a package's folder.

    Raises:
        ModelError: the base's tower or classifier is another than it was.
    """
    line = PhotoLine(arrays["weight"], arrays["statistics"], float(arrays["bias"][0]))
    tagger = make_tagger(base_folder, str(settings["tower"]), line, arrays["shift"], fetched)
    if tagger.fingerprint != fingerprint:
        raise ModelError(
            f"base {base_folder}: its tower or classifier is not the one that the adapter's tags were made with; "
            "delete the folder and run again"
        )
    return tagger
