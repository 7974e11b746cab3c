"""Paired differences and the plot of ``distillation_pays.py``'s cells."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#777777", "#1f6f8b", "#b3541e", "#4c7a34", "#7a3b8f")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 56, 200, 26, 48


def summary(rows: Sequence[Mapping[str, Any]], split: str) -> str:
    """A line for each variant and number of labels: the mean over its seeds, and the paired difference from ``none``
    with its standard error."""
    lines = []
    cells = {
        (r["variant"], r["labels"], r["loss"], r["seed"]): r["mean_hit_rate@10"] for r in rows if r["split"] == split
    }
    for name, labels, loss in sorted({key[:3] for key in cells}, key=lambda key: (key[1], key[2], key[0])):
        seeds = sorted(key[3] for key in cells if key[:3] == (name, labels, loss))
        values = [100 * cells[name, labels, loss, seed] for seed in seeds]
        line = f"{labels:6d} {loss:9s} {name:16s} {statistics.fmean(values):5.1f}  ({len(seeds)} seeds)"
        gains = [
            100 * (cells[name, labels, loss, seed] - cells["none", labels, loss, seed])
            for seed in seeds
            if ("none", labels, loss, seed) in cells
        ]
        if gains and name != "none":
            line += f"  {statistics.fmean(gains):+.1f}"
            if len(gains) > 1:
                line += f" ± {statistics.stdev(gains) / math.sqrt(len(gains)):.1f} (standard error)"
        lines.append(line)
    return "\n".join(lines)


def write_plot(path: Path, rows: Sequence[Mapping[str, Any]], variants: Sequence[str], split: str) -> None:
    """Quality over labelled pairs as SVG: a dot a seed, a line through the means.

    Raises:
        SystemExit: none of the variants has a cell.
    """
    points = {
        name: sorted(
            (r["labels"], 100 * r["mean_hit_rate@10"], r["says"])
            for r in rows
            if r["variant"] == name and r["split"] == split
        )
        for name in variants
    }
    every = [point for found in points.values() for point in found]
    if not every:
        raise SystemExit(f"no cells of {list(variants)} on {split}")
    low = math.floor(min(value for _, value, _ in every) / 5) * 5
    high = math.ceil(max(value for _, value, _ in every) / 5) * 5 or 5
    counts = sorted({labels for labels, _, _ in every})
    first, last = math.log(counts[0]), math.log(counts[-1])

    def x(labels: float) -> float:
        along = (math.log(labels) - first) / (last - first) if last > first else 0.5
        return LEFT + (WIDTH - LEFT - RIGHT) * along

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - low) / max(1, high - low)

    parts = [_text(LEFT - 40, 15, f"hit@10, {split}, mean of eight tasks (%)")]
    for value in range(low, high + 1, 5):
        parts.append(
            f'<line x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}" stroke="#dddddd"/>'
        )
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value}", "end"))
    for labels in counts:
        parts.append(_text(x(labels), HEIGHT - BOTTOM + 18, f"{labels:,}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "labelled pairs", "middle"))
    for (name, found), colour in zip(points.items(), COLOURS, strict=False):
        if not found:
            continue
        means = {n: statistics.fmean(v for m, v, _ in found if m == n) for n, _, _ in found}
        line = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in sorted(means.items()))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(n):.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>' for n, v, _ in found]
        end = max(means)
        parts.append(_text(x(end) + 10, y(means[end]) + 4, name, colour=colour))
    body = "\n".join(parts)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


def _text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(words)}</text>'
