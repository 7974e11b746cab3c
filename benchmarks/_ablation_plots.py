"""The benchmarks' plots, as SVG text: hit@10 over depth, every variant with a dot for each seed, shares over steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from _svg import DOT, GREY, INK, bounds, dot, polyline, rule, svg, text, ticks

CURVES = ("#1f6f8b", "#c0561f", "#6b8e23", "#7a4fa3", "#888888", "#b8860b")
"""Colours of curves, in order."""


@dataclass(frozen=True)
class Line:
    """A label, a place on the axis of depth (if it is used) and one value a seed, in percent."""

    label: str
    place: float
    values: tuple[float, ...]


def depth_plot(points: Sequence[Line], levels: Mapping[str, float]) -> str:
    """Mean over seeds by decoder layers kept, seeds as dots; ``levels`` are drawn across."""
    width, height, left, bottom = 640, 360, 50, 44
    values = [value for point in points for value in point.values] + list(levels.values())
    low, high = bounds(values)
    last = max([point.place for point in points], default=1.0)

    def x(place: float) -> float:
        return left + (width - left - 150) * place / last

    def y(value: float) -> float:
        return height - bottom - (height - bottom - 20) * (value - low) / (high - low)

    parts = [text(left, 14, "hit@10, test, mean of eight tasks (%)", "start")]
    for value in ticks(low, high):
        parts.append(rule(left, y(value), x(last), y(value), GREY))
        parts.append(text(left - 6, y(value) + 4, f"{value:g}", "end"))
    for name, value in levels.items():
        parts.append(rule(left, y(value), x(last), y(value), INK, "4 3"))
        parts.append(text(x(last) + 6, y(value) + 4, name, "start"))
    ordered = sorted(points, key=lambda point: point.place)
    parts.append(polyline([(x(point.place), y(statistics.fmean(point.values))) for point in ordered], DOT))
    for point in ordered:
        parts += [dot(x(point.place), y(value)) for value in point.values]
        parts.append(text(x(point.place), height - bottom + 18, point.label, "middle"))
    parts.append(text((left + x(last)) / 2, height - 6, "decoder layers kept, MAC-Loss, equal steps", "middle"))
    return svg(width, height, parts)


def lines_plot(curves: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """A curve a name through its points (x, percent), named at its right end; x from 0, percent from 0 to 100."""
    width, height, left, right, bottom, top = 760, 360, 50, 300, 34, 26
    last = max(x for points in curves.values() for x, _ in points)

    def x_of(value: float) -> float:
        return left + (width - left - right) * value / last

    def y_of(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / 100

    parts = [text(left, 14, title, "start")]
    for value in range(0, 101, 20):
        parts.append(rule(left, y_of(value), x_of(last), y_of(value), GREY))
        parts.append(text(left - 6, y_of(value) + 4, f"{value}", "end"))
    for share in range(5):
        parts.append(text(x_of(last * share / 4), height - bottom + 18, f"{last * share / 4:g}", "middle"))
    below = float("inf")
    ends = sorted(curves.items(), key=lambda item: item[1][-1][1])
    for name, points in ends:  # from below, so that no two names lie on each other
        colour = CURVES[list(curves).index(name) % len(CURVES)]
        parts.append(polyline([(x_of(x), y_of(y)) for x, y in points], colour))
        below = min(y_of(points[-1][1]), below - 15)
        parts.append(text(x_of(last) + 8, below + 4, f"{name} ({points[-1][1]:.1f})", "start", colour))
    return svg(width, height, parts)


def seeds_plot(lines: Sequence[Line], caption: str = "hit@10, test, mean of eight tasks (%)") -> str:
    """One row a variant: a dot a seed, a stroke at the mean."""
    row, left, width = 22, 340, 760
    height = 50 + row * len(lines)
    low, high = bounds([value for line in lines for value in line.values])

    def x(value: float) -> float:
        return left + (width - left - 60) * (value - low) / (high - low)

    parts = []
    for value in ticks(low, high):
        parts.append(rule(x(value), 24, x(value), height - 20, GREY))
        parts.append(text(x(value), 16, f"{value:g}", "middle"))
    for number, line in enumerate(lines):
        y = 40 + row * number
        mean = statistics.fmean(line.values)
        parts.append(text(left - 10, y + 4, line.label, "end"))
        parts += [dot(x(value), y) for value in line.values]
        parts.append(rule(x(mean), y - 8, x(mean), y + 8, INK))
        parts.append(text(width - 6, y + 4, f"{mean:.1f}", "end"))
    parts.append(text(left, height - 4, caption, "start"))
    return svg(width, height, parts)
