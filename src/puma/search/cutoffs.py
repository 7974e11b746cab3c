"""Scores below which a hit is weak: more likely the best of the wrong items than a right one. Loads no torch.

They are measured (``benchmarks/score_cutoffs.py``) for each model, query modality, modality searched for and modality
of the hit, since their scores do not compare. A model's folder may hold a table of its own; the package's holds those
of shipped models whose scores separate right hits from the best wrong ones. A weak hit is labelled, and left out only
on request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from puma.errors import ModelError
from puma.index import Hit
from puma.items.encoder import Encoder
from puma.search.queries import Modalities

CUTOFFS_FILE = "puma_cutoffs.json"
"""In a model's folder, as ``benchmarks/score_cutoffs.py`` writes it; the package's own table has the same name."""

Key = tuple[str, str | None, str]
"""The query's modality, the one searched for (None: any, or several) and the hit's."""


@dataclass(frozen=True)
class Cutoffs:
    """Cut-offs of one model.

    Args:
        scores: the least score of a hit that is not weak.
    """

    scores: Mapping[Key, float]

    def least(self, query: str, wanted: Modalities, hit: str) -> float | None:
        """The cut-off; None where it was not measured."""
        kinds = {wanted} if isinstance(wanted, str) else set(wanted or ())
        return self.scores.get((query, kinds.pop() if len(kinds) == 1 else None, hit))

    def is_weak(self, query: str, wanted: Modalities, hit: str, score: float) -> bool | None:
        """Whether a hit is weak; None where that is not known.

        Args:
            query: the query's modality.
            wanted: what was searched for.
            hit: the hit's modality.
            score: the hit's cosine.
        """
        least = self.least(query, wanted, hit)
        return None if least is None else score < least

    def is_weak_hit(self, query: str, wanted: Sequence[Modalities], hit: Hit) -> bool | None:
        """As :meth:`is_weak`, of a hit of one or several searches.

        Args:
            query: the query's modality.
            wanted: what each search looked for, as :func:`puma.search.finding.searches` gives it. Of several, the hit
                came from that for its modality.
        """
        own = wanted[0] if len(wanted) == 1 else hit.modality
        return self.is_weak(query, own, hit.modality, hit.score)


def cutoffs_of(encoder: Encoder, folder: str | os.PathLike[str] | None = None) -> Cutoffs | None:
    """The cut-offs of a model, from its folder or the package's table; None where it was never measured.

    Args:
        encoder: known by its fingerprint: a table of other weights is not used.
        folder: the model's.

    Raises:
        ModelError: the folder's table cannot be read.
    """
    tables = [(resources.files("puma.search") / CUTOFFS_FILE).read_text(encoding="utf-8")]
    if folder is not None and (path := Path(folder) / CUTOFFS_FILE).is_file():
        tables.insert(0, path.read_text(encoding="utf-8"))
    for text in tables:
        try:
            found = parsed(json.loads(text), encoder.fingerprint)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: {CUTOFFS_FILE} cannot be read ({type(error).__name__}: {error})") from None
        if found is not None:
            return found
    return None


def parsed(table: Mapping[str, Any], fingerprint: str) -> Cutoffs | None:
    """The cut-offs of one model in a table: ``{"models": {fingerprint: {"cutoffs": [{"query": "text", "wanted":
    "image", "hit": "image", "score": 0.71}]}}}``."""
    model = table["models"].get(fingerprint)
    if model is None:
        return None
    return Cutoffs({(row["query"], row["wanted"], row["hit"]): float(row["score"]) for row in model["cutoffs"]})
