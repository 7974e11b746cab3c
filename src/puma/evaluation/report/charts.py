"""Drawings of the report: curves over steps, and bars by task, as SVG inside the page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from puma.errors import InputError

COLOURS = 6
"""Colours of the style sheet, c0 to c5."""


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Args:
        name: what it shows; curves of the same ``plot`` share axes.
        steps: x values, rising.
        values: y values; NaN leaves a gap.
        plot: the plot's title.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    plot: str = "Training loss"

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise InputError(f"curve {self.name!r}: {len(self.steps)} steps for {len(self.values)} values")


def plot_html(title: str, curves: Sequence[Curve]) -> str:
    """Curves on common axes, under their title; empty where there is no finite point."""
    points = [
        [(float(x), float(y)) for x, y in zip(c.steps, c.values, strict=True) if math.isfinite(x) and math.isfinite(y)]
        for c in curves
    ]
    every = [point for line in points for point in line]
    if not every:
        return ""
    left, top, width, height = 58, 10, 620, 200
    (x0, x1), (y0, y1) = _span([x for x, _ in every]), _span([0.0] + [y for _, y in every])
    drawn = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + height * (1 - share)
        drawn.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{y0 + share * (y1 - y0):.3g}</text>')
        x = left + width * share
        label = _tick(x0 + share * (x1 - x0), x1 - x0)
        drawn.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{label}</text>')
    for number, line in enumerate(points):
        places = [(left + width * (x - x0) / (x1 - x0), top + height * (1 - (y - y0) / (y1 - y0))) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline class="c{number % COLOURS}" points="{path}"/>')
    legend = "".join(f'<span class="key c{n % COLOURS}">{html.escape(c.name)}</span>' for n, c in enumerate(curves))
    box = f"0 0 {left + width + 16} {top + height + 26}"
    return (
        f"<h2>{html.escape(title)}</h2>"
        f'<svg viewBox="{box}" role="img" aria-label="{html.escape(title, quote=True)}">'
        f'{"".join(drawn)}</svg><p class="legend">{legend}</p>'
    )


@dataclass(frozen=True)
class Bars:
    """The bars of one task.

    Args:
        label: stands before them.
        values: by series, rates in [0, 1]; a series may be missing.
        chance: marked by a line, if known.
    """

    label: str
    values: Mapping[str, float]
    chance: float | None = None


def bars_html(title: str, groups: Sequence[Bars]) -> str:
    """Horizontal bars from 0 to 100 percent, grouped by task, under their title. Empty where there is no value."""
    series = list(dict.fromkeys(name for group in groups for name in group.values))
    if not series:
        return ""
    drawn = []
    for group in groups:
        lines = []
        for number, name in enumerate(series):
            value = group.values.get(name)
            if value is None or not math.isfinite(value):
                continue
            share = 100 * min(max(value, 0.0), 1.0)
            mark = "" if group.chance is None else _mark(group.chance)
            says = html.escape(f"{group.label}, {name}: {share:.1f}", quote=True)
            lines.append(
                f'<div class="bar"><svg role="img" aria-label="{says}"><rect class="track" width="100%" height="100%"/>'
                f'<rect class="c{number % COLOURS}" width="{share:.2f}%" height="100%"/>{mark}</svg>'
                f"<span>{share:.1f}</span></div>"
            )
        drawn.append(f'<div class="label">{html.escape(group.label)}</div><div class="lines">{"".join(lines)}</div>')
    legend = "".join(f'<span class="key c{n % COLOURS}">{html.escape(name)}</span>' for n, name in enumerate(series))
    if any(group.chance is not None for group in groups):
        legend += '<span class="key mark">chance</span>'
    return f'<h2>{html.escape(title)}</h2><p class="legend">{legend}</p><div class="bars">{"".join(drawn)}</div>'


def _mark(chance: float) -> str:
    place = 100 * min(max(chance, 0.0), 1.0)
    return f'<line class="mark" x1="{place:.2f}%" x2="{place:.2f}%" y1="0" y2="100%"/>'


def _tick(value: float, span: float) -> str:
    return f"{round(value):,}" if span >= 8 else f"{value:.3g}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1.0)
