"""Paired differences and the plot of ``distillation_pays.py``'s cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _svg import GREY, bounds, dot, polyline, rule, svg, text

COLOURS = ("#777777", "#1f6f8b", "#b3541e", "#4c7a34", "#7a3b8f")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 56, 200, 26, 48


def _name(row: Mapping[str, Any]) -> str:
    return row["variant"] + (f" as {row['as']}" if row["as"] else "")


def summary(rows: Sequence[Mapping[str, Any]], split: str, figure: str = "mean_hit_rate@10") -> str:
    """A line for each variant and number of labels: the mean over its seeds of one figure, and the paired difference
    from ``none`` with its standard error."""
    lines = []
    cells = {(_name(r), r["labels"], r["loss"], r["seed"]): r[figure] for r in rows if r["split"] == split}
    for name, labels, loss in sorted({key[:3] for key in cells}, key=lambda key: (key[1], key[2], key[0])):
        seeds = sorted(key[3] for key in cells if key[:3] == (name, labels, loss))
        values = [100 * cells[name, labels, loss, seed] for seed in seeds]
        line = f"{labels:6d} {loss:9s} {name:30s} {statistics.fmean(values):5.1f}  ({len(seeds)} seeds)"
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
            if _name(r) == name and r["split"] == split
        )
        for name in variants
    }
    every = [point for found in points.values() for point in found]
    if not every:
        raise SystemExit(f"no cells of {list(variants)} on {split}")
    low, high = bounds([value for _, value, _ in every])
    counts = sorted({labels for labels, _, _ in every})
    first, last = math.log(counts[0]), math.log(counts[-1])

    def x(labels: float) -> float:
        along = (math.log(labels) - first) / (last - first) if last > first else 0.5
        return LEFT + (WIDTH - LEFT - RIGHT) * along

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - low) / (high - low)

    parts = [text(LEFT - 40, 15, f"hit@10, {split}, mean of eight tasks (%)", "start")]
    for value in range(int(low), int(high) + 1, 5):
        parts.append(rule(LEFT, y(value), WIDTH - RIGHT, y(value), GREY))
        parts.append(text(LEFT - 8, y(value) + 4, f"{value}", "end"))
    for labels in counts:
        parts.append(text(x(labels), HEIGHT - BOTTOM + 18, f"{labels:,}", "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "labelled pairs", "middle"))
    for (name, found), colour in zip(points.items(), COLOURS, strict=False):
        if not found:
            continue
        means = {n: statistics.fmean(v for m, v, _ in found if m == n) for n, _, _ in found}
        parts.append(polyline([(x(n), y(value)) for n, value in sorted(means.items())], colour))
        parts += [dot(x(n), y(v), colour) for n, v, _ in found]
        end = max(means)
        parts.append(text(x(end) + 10, y(means[end]) + 4, name, "start", colour))
    path.write_text(svg(WIDTH, HEIGHT, parts), encoding="utf-8")
