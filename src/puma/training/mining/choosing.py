"""Which candidates become a query's hard negatives: a pure function of scores, ids and contents.

The guards are those of the losses (:mod:`puma.losses.negatives`), one query at a time: what is known to be right, what
has the same content as something right, and what scores clearly above it is no negative. Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from puma.errors import InputError

UNKNOWN = -1
"""The content code of a candidate whose content is not known: equal to no other."""
SLACK = 1e-9
"""What a sum of two decimals may be off: 0.7 + 0.1 is not to be less than 0.8."""


@dataclass(frozen=True)
class Rules:
    """What is taken.

    Args:
        negatives: the most a query gets.
        skip_top: so many of the best candidates that are left after the guards by id and content are passed over: with
            few labels, the very best are often right answers nobody marked.
        margin: a candidate that scores above the query's best positive by more than this is taken for a right answer
            without a label, and left out. Additive, in units of the score: 0 leaves out whatever beats the positive,
            -0.05 asks for a distance below it, None leaves nothing out.
        other_modality: the most a query gets besides, of other modalities than the one it asks for
            (:func:`choose_above`). 0: none.

    Raises:
        InputError: a number out of its range.
    """

    negatives: int = 8
    skip_top: int = 0
    margin: float | None = 0.0
    other_modality: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise InputError(f"negatives={self.negatives!r}: give at least 1")
        if self.skip_top < 0:
            raise InputError(f"skip_top={self.skip_top!r}: give 0 or more")
        if self.other_modality < 0:
            raise InputError(f"other_modality={self.other_modality!r}: give 0 or more")
        if self.margin is not None and not math.isfinite(self.margin):
            raise InputError(f"margin={self.margin!r}: give a finite number, or None for no margin")


@dataclass(frozen=True)
class Chosen:
    """One query's negatives.

    Args:
        columns: of the candidates, best first.
        alike: candidates left out for their content alone.
        beyond: candidates left out because they score above the positive and its margin.
        judged: whether a positive has a score; without one, a margin cannot be kept and nothing is chosen.
    """

    columns: list[int]
    alike: int = 0
    beyond: int = 0
    judged: bool = True


def choose(
    scores: np.ndarray,
    order: np.ndarray,
    positives: Sequence[int],
    contents: np.ndarray,
    rules: Rules,
    *,
    alike: Collection[int] = (),
) -> Chosen:
    """The best-scored candidates that pass the guards; of several with one content, the best.

    Args:
        scores: [c]; NaN for a candidate without a score, which is never chosen.
        order: int [c]: who goes first of two with equal scores, the lower number.
        positives: columns of all candidates known to be right.
        contents: int [c]: equal numbers for equal contents, :data:`UNKNOWN` where not known.
        rules: how many, and the margin.
        alike: further contents that are no negatives, as the query's own.
    """
    known = np.asarray(list(positives), dtype=np.int64)
    scored = ~np.isnan(scores)
    other = scored.copy()
    other[known] = False
    refused = {int(code) for code in contents[known]} | set(alike)
    same = np.isin(contents, [code for code in refused if code != UNKNOWN]) & other
    free = np.flatnonzero(other & ~same)
    count = int(same.sum())
    limit = math.inf
    if rules.margin is not None:
        own = scores[known]
        own = own[~np.isnan(own)]
        if not own.size:
            return Chosen([], count, judged=False)
        limit = float(own.max()) + rules.margin + SLACK
    beyond = int((scores[free] > limit).sum())
    # Only as many as are surely needed are sorted: a pool may hold millions.
    wanted = max(rules.skip_top, beyond) + rules.negatives
    while True:
        best = _best(scores, order, free, wanted)
        distinct = _distinct(best, contents)
        # What lies beyond the margin stands first, so that one cut serves both rules.
        first = max(rules.skip_top, int((scores[distinct] > limit).sum()))
        if len(distinct) >= first + rules.negatives or len(best) == len(free):
            return Chosen(distinct[first : first + rules.negatives], count, beyond)
        wanted *= 2


def choose_above(scores: np.ndarray, order: np.ndarray, floor: float, contents: np.ndarray, most: int) -> list[int]:
    """The best-scored candidates that score as high as the query's best positive or higher; of several with one
    content, the best.

    For candidates of another modality than the one asked for: there is no margin above the positive, since a high score
    does not make them right.

    Args:
        scores: [c], of candidates of other modalities alone; NaN for one without a score.
        order: int [c]: who goes first of two with equal scores, the lower number.
        floor: the best positive's score; NaN where it has none, and then nothing is chosen.
        contents: int [c]: equal numbers for equal contents, :data:`UNKNOWN` where not known.
        most: how many.

    Returns:
        Columns of ``scores``, best first.
    """
    above = np.flatnonzero(scores >= floor - SLACK)
    ranked = above[np.lexsort((order[above], -scores[above]))]
    return _distinct(ranked, contents)[:most]


def _best(scores: np.ndarray, order: np.ndarray, columns: np.ndarray, count: int) -> np.ndarray:
    """At least ``count`` columns, if there are as many, by falling score; all that tie with the last are among them."""
    if count < len(columns):
        row = scores[columns]
        floor = np.partition(row, len(row) - count)[len(row) - count]
        columns = columns[row >= floor]
    return columns[np.lexsort((order[columns], -scores[columns]))]


def _distinct(columns: np.ndarray, contents: np.ndarray) -> list[int]:
    seen: set[int] = set()
    kept = []
    for column in columns.tolist():
        code = int(contents[column])
        if code == UNKNOWN or code not in seen:
            seen.add(code)
            kept.append(column)
    return kept
