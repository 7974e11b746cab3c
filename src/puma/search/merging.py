"""Hits of several modalities, each found by a query of its own, in one order. Loads no torch.

Cosines of different modalities do not compare: a text that has nothing to do with the query often has a greater one
than the picture of what it names. ``calibrated`` therefore looks at how far a hit stands out of what the same query
scores on a random sample of its modality, so that a modality in which nothing fits comes last. ``rank`` takes turns:
the first of each modality, then the second. (Reciprocal rank fusion gives the same order for any of its constants,
since no item is in two of the lists.) ``score`` sorts by cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from puma.errors import InputError
from puma.index import Hit

CALIBRATED, RANK, SCORE, SINGLE = "calibrated", "rank", "score", "single"
MERGES = (CALIBRATED, RANK, SCORE, SINGLE)
"""How the hits of several modalities are put in order; ``single``: one query and one search for all of them."""
ENOUGH_ROWS = 50
"""Rows from which a modality's own level is taken; with fewer, that of the whole index has its share in it: one row
cannot stand out of itself."""
LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class Level:
    """What a query scores on items that mostly have nothing to do with it.

    Args:
        mean: of the scores.
        spread: root mean square of how far the scores above the mean are above it. Only those: what lies far below the
            mean says nothing of how high a score gets by chance.
    """

    mean: float
    spread: float

    def key(self, score: float) -> float:
        """How far a score stands out, ``(score - mean) / sqrt(spread)``: half way between the difference from the mean
        and the z-score. In ``benchmarks/any_modality.py`` the best nDCG@10 in the mean over both models, not with each:
        with one trained on split MAC-Loss, ``rank`` has a greater one and a smaller precision."""
        return (score - self.mean) / float(np.sqrt(self.spread))


def level_of(scores: np.ndarray) -> Level:
    """The level of a sample of scores, float [n], n at least 1.

    Examples:
        >>> level_of(np.array([0.0, 0.5, 1.0]))
        Level(mean=0.5, spread=0.5)
    """
    mean = float(np.mean(scores, dtype=np.float64))
    above = np.asarray(scores, dtype=np.float64)[np.asarray(scores) > mean] - mean
    spread = float(np.sqrt(np.mean(above**2))) if len(above) else 0.0
    # Rounded far below float32's precision: the same scores summed in another order are the same level.
    return Level(round(mean, 12), max(round(spread, 12), LEAST_SPREAD))


def levels(vectors: Mapping[str, np.ndarray], samples: Mapping[str, np.ndarray]) -> dict[str, Level]:
    """The level of each modality for one query.

    Args:
        vectors: by modality, the vector that the query has for it: float32 [dim].
        samples: by modality, random rows of the index: float32 [at least 1, dim].
    """
    if not vectors:
        return {}
    scores = {name: samples[name] @ vector for name, vector in vectors.items()}
    everything = level_of(np.concatenate(list(scores.values())))
    found = {}
    for name, row in scores.items():
        own, share = level_of(row), min(1.0, len(row) / ENOUGH_ROWS)
        mean = share * own.mean + (1 - share) * everything.mean
        found[name] = Level(mean, share * own.spread + (1 - share) * everything.spread)
    return found


def merged(lists: Mapping[str, Sequence[Hit]], merge: str, known: Mapping[str, Level] | None = None) -> list[Hit]:
    """All hits in one order. The first n of it depend on nothing but the first n of each list.

    Args:
        lists: by modality, its hits, best first; no id twice.
        merge: ``calibrated``, ``rank`` or ``score``.
        known: by modality, its level; for ``calibrated`` only.

    Returns:
        The hits as they are; what is equal, by cosine and then by id.

    Examples:
        >>> texts, images = [Hit("t", 0.8, "text")], [Hit("i", 0.5, "image"), Hit("j", 0.2, "image")]
        >>> found = {"text": texts, "image": images}
        >>> [hit.id for hit in merged(found, "score")]
        ['t', 'i', 'j']
        >>> [hit.id for hit in merged(found, "calibrated", {"text": Level(0.7, 0.01), "image": Level(0.1, 0.01)})]
        ['i', 't', 'j']
    """
    keys: list[tuple[float, float, str, Hit]] = []
    for name, hits in lists.items():
        for place, hit in enumerate(hits):
            if merge == CALIBRATED and known is not None:
                key = known[name].key(hit.score)
            else:
                key = -float(place) if merge == RANK else hit.score
            keys.append((-key, -hit.score, hit.id, hit))
    return [hit for *_, hit in sorted(keys, key=lambda row: row[:3])]


def checked_merge(merge: str) -> str:
    """Raise InputError unless it is one of :data:`MERGES`."""
    if merge not in MERGES:
        raise InputError(f"merge must be one of {', '.join(map(repr, MERGES))}, got {merge!r:.80}")
    return merge
