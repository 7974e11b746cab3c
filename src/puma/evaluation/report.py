"""The report: one HTML file that shows what a run reached, and looks the same without any network.

Here: :func:`write_report` and the records it takes. Not here: the pictures' thumbnails and the sheets
(:mod:`puma.evaluation.sheets`), the figures themselves (:mod:`puma.evaluation.mbeir`).
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma.data.mbeir import TASK_MODALITIES
from puma.errors import InputError
from puma.evaluation.metrics import means
from puma.evaluation.sheets import Sheet, Thumbnails, sheet_html
from puma.folders import write_whole

COLUMNS = (("hit_rate@1", "hit@1"), ("hit_rate@5", "hit@5"), ("hit_rate@10", "hit@10"), ("recall@10", "recall@10"))
NAMES = {
    "trained": "trained",
    "pruned_untrained": "pruned, untrained",
    "ridge_baseline": "ridge baseline, no LLM",
    "chance": "chance",
}
"""How systems are called in the table; others by their own name."""
STYLE = Path(__file__).with_name("report.css")


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


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    curves: Sequence[Curve] = (),
    sheets: Sequence[Sheet] = (),
    notes: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: the .html file.
        results: ``{system: {task id: table}}`` with tables as :func:`puma.evaluation.mbeir.evaluate` gives them; what
            is missing is shown as a dash.
        curves: drawn as SVG, one plot for each ``plot`` name.
        sheets: queries with their results.
        notes: plain sentences, shown under the title.
        seconds: of each step of the run.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    thumbnails = Thumbnails()
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    if results:
        parts.append("<h2>Retrieval, local pools</h2>" + _table(results, None))
        if any("global" in table for tasks in results.values() for table in tasks.values()):
            parts.append("<h2>Retrieval, the global pool</h2>" + _table(results, "global"))
    for plot in dict.fromkeys(curve.plot for curve in curves):
        parts.append(_plot(plot, [curve for curve in curves if curve.plot == plot]))
    if sheets:
        parts.append("<h2>Queries and what they found</h2>")
        parts += [sheet_html(sheet, thumbnails) for sheet in sheets]
    if seconds:
        parts.append("<h2>Time</h2>" + _times(seconds))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    write_whole(path, page.encode("utf-8", errors="replace"))


def _table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], pool: str | None) -> str:
    tables = {name: {task: _pool(table, pool) for task, table in tasks.items()} for name, tasks in results.items()}
    ids = sorted({task for tasks in tables.values() for task in tasks}, key=lambda task: (len(task), task))
    columns = list(COLUMNS) + ([("wrong_modality@1", "wrong modality")] if pool else [])
    head = "".join(f"<th>{label}</th>" for _, label in columns)
    rows = []
    for task in ids:
        group = {name: tasks[task] for name, tasks in tables.items() if tasks.get(task)}
        sizes = next(iter(group.values()), {})
        note = f"<small>{_count(sizes.get('queries'))} queries in {_count(sizes.get('pool'))}</small>"
        rows += _group(f"{task}&ensp;{_task_name(task)}<br>{note}", group, columns)
    keys = [key for key, _ in columns]
    averages = {name: means([table for table in tasks.values() if table], keys) for name, tasks in tables.items()}
    if len(ids) > 1:
        counts = {name: sum(bool(table) for table in tasks.values()) for name, tasks in tables.items()}
        partial = [f"{_name(name)}: over {count} tasks" for name, count in counts.items() if count < len(ids)]
        label = "mean" + (f"<br><small>{html.escape('; '.join(partial))}</small>" if partial else "")
        rows += _group(label, {name: row for name, row in averages.items() if row}, columns, "mean")
    return (
        f'<div class="wide"><table><thead><tr><th>task</th><th>system</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p><small>Percent. Best of each column in bold. Ties count against the system. hit@k: a right candidate among "
        "the first k (M-BEIR calls this recall); recall@10: the share of the right ones among the first "
        "ten.</small></p>"
    )


def _group(
    label: str, group: Mapping[str, Mapping[str, Any]], columns: Sequence[tuple[str, str]], kind: str = ""
) -> list[str]:
    rows = []
    for number, (name, table) in enumerate(group.items()):
        cells = ""
        for key, _ in columns:
            value, others = _number(table.get(key)), [_number(other.get(key)) for other in group.values()]
            known = [other for other in others if other is not None]
            pick = min if key.startswith("wrong") else max
            best = value is not None and len(known) > 1 and value == pick(known)
            shown = "–" if value is None else f"{100 * value:.1f}"
            cells += f'<td class="best">{shown}</td>' if best else f"<td>{shown}</td>"
        first = f'<th rowspan="{len(group)}" scope="rowgroup">{label}</th>' if number == 0 else ""
        quiet = " quiet" if name in ("chance", "ridge_baseline", "pruned_untrained") else ""
        start = " start" if number == 0 else ""
        rows.append(
            f'<tr class="{kind}{quiet}{start}">{first}<td class="name">{html.escape(_name(name))}</td>{cells}</tr>'
        )
    return rows


def _plot(title: str, curves: Sequence[Curve]) -> str:
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
        drawn.append(f'<polyline class="c{number % 6}" points="{path}"/>')
    legend = "".join(f'<span class="key c{n % 6}">{html.escape(c.name)}</span>' for n, c in enumerate(curves))
    box = f"0 0 {left + width + 16} {top + height + 26}"
    return (
        f"<h2>{html.escape(title)}</h2>"
        f'<svg viewBox="{box}" role="img" aria-label="{html.escape(title, quote=True)}">'
        f'{"".join(drawn)}</svg><p class="legend">{legend}</p>'
    )


def _times(seconds: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><td class="name">{html.escape(str(step))}</td><td>{_clock(value)}</td></tr>'
        for step, value in seconds.items()
    )
    total = _clock(sum(seconds.values()))
    return f'<table class="times">{rows}<tr class="mean start"><td class="name">all</td><td>{total}</td></tr></table>'


def _clock(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60:02d} s"


def _pool(table: Mapping[str, Any], pool: str | None) -> Mapping[str, Any]:
    """The table of one pool; empty where there is none."""
    chosen = table if pool is None else table.get(pool, {})
    return chosen if "pool" in chosen or any(key in chosen for key, _ in COLUMNS) else {}


def _task_name(task: str) -> str:
    pair = TASK_MODALITIES.get(int(task)) if task.isdigit() else None
    return html.escape(" → ".join(side.replace(",", " + ") for side in pair)) if pair else ""


def _name(system: str) -> str:
    return NAMES.get(system, system)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _tick(value: float, span: float) -> str:
    return f"{round(value):,}" if span >= 8 else f"{value:.3g}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1.0)
