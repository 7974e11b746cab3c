"""The probe's plot: quality and speed against the number of decoder layers kept, as PNG and SVG.

matplotlib is imported inside the functions.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puma.errors import require
from puma.evaluation.probing.depths import FIRST, KEEP_LAST
from puma.evaluation.probing.scoring import METRIC
from puma.storage.folders import write_whole

# Okabe and Ito's blue and vermillion differ for every kind of colour vision; marker and line differ without colour.
STYLES = {FIRST: ("#0072B2", "o", "first k"), KEEP_LAST: ("#D55E00", "s", "first k - 1 and last")}
PROBES = {"ridge": ("-", True, "ridge"), "zero_shot": ((0, (4, 2)), False, "zero-shot")}
FORMATS = ("png", "svg")


def check_matplotlib() -> None:
    """Raise DependencyError unless matplotlib is installed: before minutes of embedding, not after."""
    require("the plot", "plot")


def write_plot(result: Mapping[str, Any], stem: str | os.PathLike[str]) -> list[Path]:
    """Draw a probe's result (see :func:`puma.evaluation.probing.probe`) to ``stem.png`` and ``stem.svg``.

    The upper panel has the mean hit@10 over tasks in percent with a band of one standard error, the lower one how many
    times faster than full depth an embedding is, by FLOPs, on a logarithmic axis. The same result gives the same bytes.

    Returns:
        The paths.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    check_matplotlib()
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "puma", "svg.fonttype": "none", "font.size": 10}):
        figure = _figure(result)
        paths = []
        for kind in FORMATS:
            stream = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(stream, format=kind, dpi=160, metadata=metadata)
            paths.append(Path(f"{os.fspath(stem)}.{kind}"))
            write_whole(paths[-1], stream.getvalue())
    return paths


def _figure(result: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(7.6, 6.0), layout="constrained")
    quality, speed = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.25])
    rows: Sequence[Mapping[str, Any]] = result["depths"]
    chance = 100 * result["chance"][METRIC]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        colour, marker, name = STYLES[variant]
        for probe, (line, filled, wording) in PROBES.items():
            if probe not in own[0]:
                continue
            depth = [row["layers"] for row in own]
            score = [100 * row[probe]["mean"][METRIC] for row in own]
            if probe == result["suggestion"]["judged_by"]:  # one band a variant: four would hide each other
                error = [100 * row[probe]["mean"]["standard_error"] for row in own]
                low = [max(0.0, s - e) for s, e in zip(score, error, strict=True)]
                high = [s + e for s, e in zip(score, error, strict=True)]
                quality.fill_between(depth, low, high, color=colour, alpha=0.13, linewidth=0)
            face = colour if filled else "white"
            quality.plot(depth, score, color=colour, linestyle=line, marker=marker, markersize=4.5,
                         markerfacecolor=face, linewidth=1.5, label=f"{name}, {wording}")  # fmt: skip
        if variant == FIRST:  # here, so that each variant fills a column of the legend
            quality.axhline(chance, color="0.35", linestyle=":", linewidth=1.3, label=f"chance ({chance:.1f} %)")
    quality.set_ylabel("hit@10, mean over tasks (%)\nband: one standard error")
    quality.set_ylim(bottom=0)
    depth = [entry["layers"] for entry in result["cost"]["depths"]]
    speed.plot(depth, [entry["speed"] for entry in result["cost"]["depths"]], color="0.2", marker=".", linewidth=1.5)
    speed.set_yscale("log")
    speed.set_ylabel("embedding speed\n(times full depth,\nby FLOPs)")
    speed.set_xlabel("decoder layers kept, k")
    top = max(entry["speed"] for entry in result["cost"]["depths"])
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if tick <= top * 1.1]
    speed.set_yticks(ticks)
    speed.yaxis.set_minor_locator(NullLocator())
    speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    speed.set_xlim(0.5, depth[-1] + 0.5)
    speed.set_xticks(_ticks(depth[-1]))
    chosen = result["suggestion"]
    for axes in (quality, speed):
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if chosen["layers"]:
            axes.axvline(chosen["layers"], color="black", linewidth=1.0, linestyle="-.", zorder=1)
    if chosen["layers"]:
        quality.plot([], [], color="black", linewidth=1.0, linestyle="-.",
                     label=f"suggested: k = {chosen['layers']}, {STYLES[chosen['variant']][2]}")  # fmt: skip
    tasks = ", ".join(str(task["task"]) for task in result["tasks"])
    base = result["base"] if len(result["base"]) <= 40 else result["base"][:38] + "..."
    quality.set_title(f"{base} on {result['dataset']} {result['split']}, tasks {tasks}", fontsize=10.5)
    handles, labels = quality.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _ticks(depth: int) -> list[int]:
    """1, and every 1st, 2nd, 5th or 10th depth up to ``depth``."""
    step = next(step for step in (1, 2, 5, 10, 20, 50) if depth / step <= 16 or step == 50)
    return sorted({1, *range(step, depth + 1, step)})
