"""The number of layers that a probe suggests: the fewest layers for a quality, or the best for a speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from puma.errors import InputError

QUALITY = 0.95
"""The target where none is given."""


@dataclass(frozen=True)
class Point:
    """One way to prune, as measured.

    Args:
        layers: decoder layers kept, k.
        keep_last: the first k - 1 and the last, instead of the first k.
        score: quality in [0, 1].
        speed: how many times faster than full depth.
        error: one standard error of ``score``.
    """

    layers: int
    keep_last: bool
    score: float
    speed: float
    error: float = 0.0


@dataclass(frozen=True)
class Suggestion:
    """The point chosen, None where nothing was retrieved at any depth, and why in one sentence."""

    point: Point | None
    sentence: str


def check_target(quality: float | None, speed: float | None, fastest: float | None = None) -> None:
    """Refuse targets that cannot be meant.

    Raises:
        InputError: both are given, or one is out of range; ``speed`` above what a single layer reaches.
    """
    if quality is not None and speed is not None:
        raise InputError(f"quality={quality} and speed={speed}: give one target, not both")
    if quality is not None and not 0 < quality <= 1:
        raise InputError(f"quality={quality}: give a share of the best depth's quality, above 0 and at most 1")
    if speed is not None and not speed >= 1:
        raise InputError(f"speed={speed}: give how many times faster than full depth, at least 1")
    if speed is not None and fastest is not None and speed > fastest:
        raise InputError(f"speed={speed}: even a single layer is only {fastest:.1f} times faster than full depth here")


def suggest(
    points: Sequence[Point],
    *,
    quality: float | None = None,
    speed: float | None = None,
    measure: str = "hit@10",
) -> Suggestion:
    """Choose the depth.

    Args:
        points: all that was measured, both variants together.
        quality: the fewest layers whose score is at least this share of the best one's; 0.95 if no target is given.
        speed: the best score among those at least this many times faster than full depth; of equals the fewest layers.
        measure: what ``score`` is, for the sentence.

    Raises:
        InputError: see :func:`check_target`.

    Examples:
        >>> points = [Point(1, False, 0.2, 3.0), Point(2, False, 0.4, 1.5), Point(3, False, 0.41, 1.0)]
        >>> suggest(points, quality=0.95).point.layers
        2
        >>> suggest(points, speed=3).point.layers
        1
    """
    check_target(quality, speed, max(point.speed for point in points))
    total = max(point.layers for point in points)
    best = _best(points)
    if best.score <= 0:
        return Suggestion(None, f"No depth retrieves anything ({measure} is 0 everywhere), so none can be suggested.")
    if speed is not None:
        chosen = _best([point for point in points if point.speed >= speed])
        why = f"the best {measure} of the depths at least {speed:g} times faster than all {total}"
    else:
        share = QUALITY if quality is None else quality
        enough = [point for point in points if point.score >= share * best.score - 1e-12]
        fewest = min(point.layers for point in enough)
        chosen = _best([point for point in enough if point.layers == fewest])
        why = f"the fewest that reach {100 * share:g} % of the best {measure}"
    if chosen == best:
        against = f"{100 * chosen.score:.1f} %, the best of any depth"
    else:
        against = f"{100 * chosen.score:.1f} % against {100 * best.score:.1f} % at k = {best.layers}"
    return Suggestion(
        chosen,
        f"Keep {_layers(chosen, total)}: {why} ({against}), for {chosen.speed:.1f} times the speed of full depth by "
        "FLOPs.",
    )


def within_one_error(points: Sequence[Point]) -> Point:
    """The point with the fewest layers whose score is within one standard error of the best one's: what lies above it
    may be luck (the one-standard-error rule: Breiman et al., Classification and Regression Trees, 1984)."""
    best = _best(points)
    near = [point for point in points if point.score >= best.score - best.error]
    fewest = min(point.layers for point in near)
    return _best([point for point in near if point.layers == fewest])


def _best(points: Sequence[Point]) -> Point:
    return max(points, key=lambda point: (point.score, -point.layers, not point.keep_last))


def _layers(point: Point, total: int) -> str:
    if not point.keep_last or point.layers == total:
        return f"the first {point.layers} of {total} decoder layers" if point.layers < total else f"all {total} layers"
    if point.layers == 1:
        return f"the last alone of {total} decoder layers (keep_last)"
    return f"{point.layers} of {total} decoder layers, the first {point.layers - 1} and the last (keep_last)"
