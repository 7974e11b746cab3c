"""Retrieval quality of states: as they are (zero-shot), and through a ridge map from query to candidate states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.evaluation.metrics import hit_rate_from_ranks, ranks_of_positives
from puma.index.exact.small import rounded

KS = (1, 5, 10)
METRIC = "hit_rate@10"
"""What depths are compared by."""
HELD_OUT = 0.25
"""Share of the train pairs that the ridge strength is chosen on."""
STRENGTHS = tuple(float(10.0**power) for power in np.arange(-4.0, 2.01, 0.5))
"""Ridge strengths tried, as multiples of the features' mean eigenvalue."""
NOISE = 1e-5
"""Unit vectors nearer than this to their mean are the mean: what is left is rounding, which must rank nothing."""


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [n, d] in float64 divided by their lengths; rows of zeros stay zeros, NaN stays NaN."""
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=rows.copy(), where=lengths > 0)


def cosines(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Scores [q, p] of states [q, d] and [p, d]: cosines rounded so that rounding noise ties. NaN rows score NaN."""
    return rounded(unit(queries) @ unit(pool).T)


class Ridge:
    """Ridge regression of targets [m, t] on features [m, d] for any strength, after one decomposition.

    Both are centred, the bias is not penalised: minimises ``||X B - Y||^2 + s e ||B||^2`` over B, with X and Y the
    centred arrays, s the strength and e the mean of X's non-zero eigenvalues. The smaller of the two Gram matrices is
    decomposed. Features of length about one: a row nearer than :data:`NOISE` to the mean counts as the mean.

    Raises:
        InputError: fewer than two pairs, or not as many features as targets.
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        if len(features) != len(targets) or len(features) < 2:
            raise InputError(f"ridge needs two or more pairs, got {len(features)} features, {len(targets)} targets")
        self.mean, self.target_mean = features.mean(0), targets.mean(0)
        x, y = self._centred(features), targets - self.target_mean
        self._x, self._dual = x, len(x) <= x.shape[1]
        values, self._vectors = np.linalg.eigh(x @ x.T if self._dual else x.T @ x)
        self._values = np.maximum(values, 0.0)
        self._moments = self._vectors.T @ (y if self._dual else x.T @ y)
        self._scale = max(float(self._values.mean()), NOISE**2)

    def __call__(self, features: np.ndarray, strength: float) -> np.ndarray:
        """Predicted targets less their mean, [n, t]."""
        inner = self._moments / (self._values + strength * self._scale)[:, None]
        x = self._centred(features)
        return ((x @ self._x.T) if self._dual else x) @ (self._vectors @ inner)

    def _centred(self, features: np.ndarray) -> np.ndarray:
        x = features - self.mean
        x[np.linalg.norm(x, axis=1) < NOISE] = 0.0
        return x


def ridge_scores(
    train_queries: np.ndarray,
    train_candidates: np.ndarray,
    queries: np.ndarray,
    pool: np.ndarray,
    *,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[np.ndarray, float]:
    """Scores of evaluation states after a ridge map of query states to candidate states, fitted on train pairs.

    States become unit vectors first. The strength is the one with the best mean reciprocal rank on a quarter of the
    train pairs, held out of the fit; the map is then fitted on all of them. Mapped queries are compared with
    candidates by cosine after the train candidates' mean is taken off both: raw states share a large offset.

    Args:
        train_queries, train_candidates: [m, d], pair by row; pairs with NaN are left out.
        queries, pool: [q, d] and [p, d].
        seed: draws the held-out pairs.

    Returns:
        Scores [q, p] and the strength.

    Raises:
        InputError: fewer than four pairs are left.
    """
    x, y = unit(train_queries), unit(train_candidates)
    whole = ~(np.isnan(x).any(1) | np.isnan(y).any(1))
    x, y = x[whole], y[whole]
    if len(x) < 4:
        raise InputError(f"the ridge needs four or more readable train pairs, got {len(x)}")
    order = np.random.default_rng(seed).permutation(len(x))
    out, fit = np.split(order, [max(2, round(HELD_OUT * len(x)))])
    trial = Ridge(x[fit], y[fit])
    truth = _directions(y[out] - trial.target_mean)
    reached = [
        (_mean_reciprocal_rank(rounded(_directions(trial(x[out], strength)) @ truth.T)), strength)
        for strength in strengths
    ]
    strength = max(reached)[1]  # of equals the strongest
    ridge = Ridge(x, y)
    mapped = _directions(ridge(unit(queries), strength))
    return rounded(mapped @ _directions(unit(pool) - ridge.target_mean).T), strength


def _directions(rows: np.ndarray) -> np.ndarray:
    """Unit rows of differences from a mean; what is only rounding becomes zero, and ties."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.where(np.isnan(lengths), np.nan, np.zeros_like(rows)), where=lengths > NOISE)


def _mean_reciprocal_rank(scores: np.ndarray) -> float:
    ranks = ranks_of_positives(scores, [[i] for i in range(len(scores))])
    return float(np.mean([1.0 / row[0] for row in ranks]))


def rates(scores: np.ndarray, positives: Sequence[Sequence[int]]) -> dict[str, float]:
    """Hit rates in [0, 1] by name; ties never count as hits, NaN is never found."""
    ranks = ranks_of_positives(scores, positives)
    return {f"hit_rate@{k}": hit_rate_from_ranks(ranks, k) for k in KS}


def mean_over_tasks(tables: Sequence[dict[str, float]], queries: Sequence[int]) -> dict[str, Any]:
    """The plain mean of each rate over tasks, and the standard error of the mean :data:`METRIC` that comes of asking so
    few queries."""
    mean: dict[str, Any] = {key: float(np.mean([table[key] for table in tables])) for key in tables[0]}
    spread = [table[METRIC] * (1 - table[METRIC]) / count for table, count in zip(tables, queries, strict=True)]
    return {**mean, "standard_error": math.sqrt(sum(spread)) / len(tables)}
