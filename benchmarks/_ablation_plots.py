"""The benchmarks' plots, as SVG text: hit@10 over depth, every variant with a dot for each seed, shares over steps."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INK, GREY, DOT = "#222", "#ccc", "#1f6f8b"
CURVES = ("#1f6f8b", "#c0561f", "#6b8e23", "#7a4fa3", "#888888", "#b8860b")
"""Colours of curves, in order."""
FONT = 'font-family="sans-serif" font-size="12"'


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
    low, high = _bounds(values)
    last = max([point.place for point in points], default=1.0)

    def x(place: float) -> float:
        return left + (width - left - 150) * place / last

    def y(value: float) -> float:
        return height - bottom - (height - bottom - 20) * (value - low) / (high - low)

    parts = [_text(left, 14, "hit@10, test, mean of eight tasks (%)", "start")]
    for value in _ticks(low, high):
        parts.append(_rule(left, y(value), x(last), y(value), GREY))
        parts.append(_text(left - 6, y(value) + 4, f"{value:g}", "end"))
    for name, value in levels.items():
        parts.append(_rule(left, y(value), x(last), y(value), INK, "4 3"))
        parts.append(_text(x(last) + 6, y(value) + 4, name, "start"))
    ordered = sorted(points, key=lambda point: point.place)
    path = " ".join(f"{x(point.place):.1f},{y(statistics.fmean(point.values)):.1f}" for point in ordered)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{DOT}" stroke-width="2"/>')
    for point in ordered:
        parts += [_dot(x(point.place), y(value)) for value in point.values]
        parts.append(_text(x(point.place), height - bottom + 18, point.label, "middle"))
    parts.append(_text((left + x(last)) / 2, height - 6, "decoder layers kept, MAC-Loss, equal steps", "middle"))
    return _svg(width, height, parts)


def lines_plot(curves: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """A curve a name through its points (x, percent), named at its right end; x from 0, percent from 0 to 100."""
    width, height, left, right, bottom, top = 760, 360, 50, 300, 34, 26
    last = max(x for points in curves.values() for x, _ in points)

    def x_of(value: float) -> float:
        return left + (width - left - right) * value / last

    def y_of(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / 100

    parts = [_text(left, 14, title, "start")]
    for value in range(0, 101, 20):
        parts.append(_rule(left, y_of(value), x_of(last), y_of(value), GREY))
        parts.append(_text(left - 6, y_of(value) + 4, f"{value}", "end"))
    for share in range(5):
        parts.append(_text(x_of(last * share / 4), height - bottom + 18, f"{last * share / 4:g}", "middle"))
    below = float("inf")
    ends = sorted(curves.items(), key=lambda item: item[1][-1][1])
    for name, points in ends:  # from below, so that no two names lie on each other
        colour = CURVES[list(curves).index(name) % len(CURVES)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        below = min(y_of(points[-1][1]), below - 15)
        parts.append(_text(x_of(last) + 8, below + 4, f"{name} ({points[-1][1]:.1f})", "start").replace(INK, colour))
    return _svg(width, height, parts)


def seeds_plot(lines: Sequence[Line], caption: str = "hit@10, test, mean of eight tasks (%)") -> str:
    """One row a variant: a dot a seed, a stroke at the mean."""
    row, left, width = 22, 340, 760
    height = 50 + row * len(lines)
    low, high = _bounds([value for line in lines for value in line.values])

    def x(value: float) -> float:
        return left + (width - left - 60) * (value - low) / (high - low)

    parts = []
    for value in _ticks(low, high):
        parts.append(_rule(x(value), 24, x(value), height - 20, GREY))
        parts.append(_text(x(value), 16, f"{value:g}", "middle"))
    for number, line in enumerate(lines):
        y = 40 + row * number
        mean = statistics.fmean(line.values)
        parts.append(_text(left - 10, y + 4, line.label, "end"))
        parts += [_dot(x(value), y) for value in line.values]
        parts.append(_rule(x(mean), y - 8, x(mean), y + 8, INK))
        parts.append(_text(width - 6, y + 4, f"{mean:.1f}", "end"))
    parts.append(_text(left, height - 4, caption, "start"))
    return _svg(width, height, parts)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = 5 * math.floor(min(values) / 5), 5 * math.ceil(max(values) / 5)
    return float(low), float(high if high > low else low + 5)


def _ticks(low: float, high: float) -> list[float]:
    step = 5 if high - low <= 40 else 10
    return [float(value) for value in range(math.ceil(low), math.floor(high) + 1) if value % step == 0]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{html.escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{DOT}" fill-opacity="0.7"/>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'{FONT}><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
