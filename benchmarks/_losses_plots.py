"""The plots and the table of benchmarks/losses.py: wrong modality over steps, both pools by loss."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _ablation_plots import Line, lines_plot, seeds_plot
from puma.errors import InputError

STEPS_PLOT, POOLS_PLOT = "losses_wrong_modality.svg", "losses_pools.svg"


def write_plots(rows: Sequence[Mapping[str, Any]], losses: Mapping[str, Any], main: Sequence[str], docs: Path) -> str:
    """Write both plots; the table as Markdown.

    Args:
        rows: finished cells, all of the same number of steps.
        losses: by name, in the table's order; each with ``says``.
        main: names of those in the plot over steps.

    Raises:
        InputError: there is no cell.
    """
    by_loss = {name: [row for row in rows if row["loss"] == name] for name in losses}
    by_loss = {name: own for name, own in by_loss.items() if own}
    if not by_loss:
        raise InputError("no finished cell of these steps; run benchmarks/losses.py first")
    curves = {losses[name].says: _over_steps(by_loss[name]) for name in main if name in by_loss}
    curves = {name: points for name, points in curves.items() if points}
    if curves:
        title = "first hit of a wrong modality, mixed pool of a part of val (%), over steps"
        (docs / STEPS_PLOT).write_text(lines_plot(curves, title), encoding="utf-8")
    split = "test" if all("test" in row["splits"] for own in by_loss.values() for row in own) else "val"
    lines = []
    for name, own in by_loss.items():
        for pool in ("local", "global"):
            values = [100 * row["splits"][split][pool]["mean"] for row in own if split in row["splits"]]
            if values:
                lines.append(Line(f"{losses[name].says}, {pool}", 0, tuple(values)))
    if lines:
        caption = f"hit@10, {split}, mean of eight tasks (%), local pools and the global one"
        (docs / POOLS_PLOT).write_text(seeds_plot(lines, caption), encoding="utf-8")
    return "\n\n".join(table(by_loss, losses, one) for one in ("val", "test"))


def table(by_loss: Mapping[str, Sequence[Mapping[str, Any]]], losses: Mapping[str, Any], split: str) -> str:
    """A row a loss: both pools and the wrong modality, mean and standard deviation over seeds, and by task."""
    rows = {name: [row for row in own if split in row["splits"]] for name, own in by_loss.items()}
    rows = {name: own for name, own in rows.items() if own}
    if not rows:
        return f"{split}: not scored."
    tasks = list(next(iter(rows.values()))[0]["splits"][split]["local"]["tasks"])
    head = ["loss", "seeds", "local", "global", "global / local", "wrong first", *(f"wrong t{task}" for task in tasks)]
    out = [f"{split}, hit@10 and shares in percent:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, own in rows.items():
        found = [row["splits"][split] for row in own]
        local, mixed = ([100 * one[pool]["mean"] for one in found] for pool in ("local", "global"))
        wrong = [100 * one["global"]["wrong_mean"] for one in found]
        ratio = statistics.fmean(mixed) / statistics.fmean(local) if statistics.fmean(local) else float("nan")
        by_task = [f"{statistics.fmean(100 * one['global']['wrong'][task] for one in found):.1f}" for task in tasks]
        cells = [losses[name].says, str(len(own)), _spread(local), _spread(mixed), f"{ratio:.3f}", _spread(wrong)]
        out.append(f"| {' | '.join([*cells, *by_task])} |")
    return "\n".join(out)


def _over_steps(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(step, share in percent), the mean over seeds; only steps that all seeds have."""
    found: dict[int, list[float]] = {}
    for row in rows:
        for entry in row["watched"]:
            found.setdefault(int(entry["step"]), []).append(100 * entry["eval_wrong_mean"])
    return [(step, statistics.fmean(values)) for step, values in sorted(found.items()) if len(values) == len(rows)]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
