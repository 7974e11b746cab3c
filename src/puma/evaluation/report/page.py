"""The report: one HTML file with what an evaluation or a whole run reached, readable without a network."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.evaluation.report.charts import Bars, Curve, bars_html, plot_html
from puma.evaluation.report.samples import run_sheets
from puma.evaluation.report.sheets import Sheet, Thumbnails, sheet_html
from puma.evaluation.report.tables import (
    Results,
    confusion_html,
    in_order,
    instructions_html,
    label_of_metric,
    of_pool,
    results_table,
    task_name,
)
from puma.storage.folders import write_whole

__all__ = ["Curve", "write_evaluation_report", "write_report"]

STYLE = Path(__file__).with_name("report.css")
POOLS = {"local": "local pools", "global": "the global pool"}
MAIN = "hit_rate@10"


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Results,
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
        parts.append("<h2>Retrieval, local pools</h2>" + results_table(results, "local"))
        if any("global" in table for tasks in results.values() for table in tasks.values()):
            parts.append("<h2>Retrieval, the global pool</h2>" + results_table(results, "global"))
    for plot in dict.fromkeys(curve.plot for curve in curves):
        parts.append(plot_html(plot, [curve for curve in curves if curve.plot == plot]))
    if sheets:
        parts.append("<h2>Queries and what they found</h2>")
        parts += [sheet_html(sheet, thumbnails) for sheet in sheets]
    if seconds:
        parts.append("<h2>Time</h2>" + _times(seconds))
    _write_page(path, title, parts)


def write_evaluation_report(
    path: str | os.PathLike[str],
    results: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    root: str | os.PathLike[str],
    runs: str | os.PathLike[str] | None = None,
) -> None:
    """Write the page of an evaluation, whole or not at all: figures, bars, modality confusion, the queries it answered
    and failed in images, and the document itself, to be saved from the page.

    Args:
        path: the .html file.
        results: a results document (:mod:`puma.evaluation.results`), or several of the same benchmark, whose figures
            stand side by side; if one holds ``chance`` (tables of a random ranking), bars and tables show it.
        root: the benchmark's folder, for the images.
        runs: the first document's run files (a folder, or one file), for the sheets; None for a page without them.

    Raises:
        InputError: no document, or ones of different benchmarks.
        DataError: the benchmark's files, or a run's, are at fault.
        StorageError: the disk is full or the folder cannot be written.
    """
    documents = [results] if isinstance(results, Mapping) else list(results)
    if not documents:
        raise InputError("results: no document; give what puma.evaluation.results.read_results reads")
    about = documents[0]["benchmark"]
    for other in documents[1:]:
        if any(other["benchmark"].get(key) != about.get(key) for key in ("dataset", "split")):
            raise InputError(
                f"results: of different benchmarks, {about} and {other['benchmark']}; give ones of the same"
            )
    systems = _systems(documents)
    chance = next((document["chance"] for document in documents if "chance" in document), None)
    title = " and ".join(systems) + f" on {about['root']}"
    parts = [f"<h1>{html.escape(title)}</h1>", _facts(documents), _tiles(next(iter(systems.values())))]
    shown = systems | ({"chance": chance} if chance else {})
    pools = [pool for pool in POOLS if any(of_pool(table, pool) for own in systems.values() for table in own.values())]
    parts.append(_bars(systems, chance, pools))
    for pool in pools:
        parts.append(f"<h2>Figures, {POOLS[pool]}</h2>" + results_table(shown, pool))
    for pool in reversed(pools):  # the global pool is the one that mixes modalities
        if pool == "global" or "global" not in pools:
            table = confusion_html(systems, pool)
            parts.append(f"<h2>What is found first, {POOLS[pool]}</h2>{table}" if table else "")
    for pool in pools:
        table = instructions_html(systems, pool)
        parts.append(f"<h2>Over all instructions, {POOLS[pool]}</h2>{table}" if table else "")
    sheets = [] if runs is None else run_sheets(root, runs, split=about["split"], dataset=about.get("dataset"))
    if sheets:
        thumbnails = Thumbnails()
        name = next(iter(systems)) if len(systems) > 1 else ""
        parts.append(f"<h2>Queries and what they found{html.escape(f', {name}' if name else '')}</h2>")
        parts += [sheet_html(sheet, thumbnails) for sheet in sheets]
    parts.append("<h2>The document</h2>" + "".join(_saved(document) for document in documents))
    _write_page(path, title, parts)


def _systems(documents: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Tables by the model's name; of equal names, the later ones numbered."""
    systems: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        name = str(document["model"])
        same = sum(str(other["model"]) == name for other in documents[: len(systems)])
        systems[f"{name} ({same + 1})" if same else name] = document["tables"]
    return systems


def _facts(documents: Sequence[Mapping[str, Any]]) -> str:
    about = documents[0]["benchmark"]
    wordings = {"first": "each task's first instruction", "none": "no instruction", "all": "all instructions in turn"}
    facts = [
        ("data set", about.get("dataset") or "all"),
        ("split", about["split"]),
        (
            "asked with",
            ", ".join(dict.fromkeys(wordings.get(str(d["benchmark"].get("instruction")), "–") for d in documents)),
        ),
        ("fingerprint", ", ".join(str(document.get("fingerprint") or "–") for document in documents)),
    ]
    for key, value in (("machine", documents[0].get("machine")), ("versions", documents[0].get("versions"))):
        shown = ", ".join(f"{name} {number}" for name, number in value.items()) if isinstance(value, Mapping) else value
        facts += [(key, shown)] if shown else []
    rows = "".join(f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(str(value))}</dd></div>" for key, value in facts)
    return f'<dl class="facts">{rows}</dl>'


def _tiles(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The means over tasks, large."""
    tiles = []
    for pool, key, label in (
        ("local", MAIN, "hit@10, local pools"),
        ("local", "mrr@10", "MRR@10, local pools"),
        ("global", MAIN, "hit@10, the global pool"),
        ("global", "wrong_modality@1", "first hit of a wrong modality, the global pool"),
    ):
        values = [of_pool(table, pool)[key] for table in tables.values() if key in of_pool(table, pool)]
        if values:
            shown = f"{100 * float(np.mean(values)):.1f}"
            tiles.append(f'<div class="tile"><b>{shown}</b><span>{label}</span></div>')
    count = sum(
        int((of_pool(table, "local") or of_pool(table, "global")).get("queries", 0)) for table in tables.values()
    )
    tiles.append(f'<div class="tile"><b>{count:,}</b><span>queries of {len(tables)} tasks</span></div>')
    return f'<div class="tiles">{"".join(tiles)}</div><p><small>Percent, means over tasks.</small></p>'


def _bars(systems: Results, chance: Mapping[str, Any] | None, pools: Sequence[str]) -> str:
    tasks = in_order(task for own in systems.values() for task in own)
    # Of M-BEIR's own tasks the figure that its tables print: hit@10 for two data sets, hit@5 for the others.
    printed = all("_task" in task for task in tasks)
    groups = []
    for task in tasks:
        table = next(own[task] for own in systems.values() if task in own)
        key = str(table.get("headline", MAIN)) if printed else MAIN
        values = {}
        for name, own in systems.items():
            for pool in pools:
                value = of_pool(own.get(task, {}), pool).get(key)
                if value is not None:
                    values[POOLS[pool] if len(systems) == 1 else f"{name}, {POOLS[pool]}"] = float(value)
        random = of_pool((chance or {}).get(task, {}), "local").get(key)
        label = task_name(task) + (f", {label_of_metric(key)}" if printed else "")
        groups.append(Bars(label, values, random))
    title = "The figures M-BEIR's tables print, by task" if printed else f"{label_of_metric(MAIN)} by task"
    return bars_html(f"{title}, percent", groups)


def _saved(document: Mapping[str, Any]) -> str:
    data = base64.b64encode(json.dumps(document, ensure_ascii=False).encode("utf-8", errors="replace")).decode()
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in str(document["model"])) or "results"
    return (
        f'<p><a download="{name}.json" href="data:application/json;base64,{data}">{name}.json</a> '
        "<small>every figure, and each query's best rank: what <code>puma compare</code> reads</small></p>"
    )


def _write_page(path: str | os.PathLike[str], title: str, parts: Sequence[str]) -> None:
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    write_whole(path, page.encode("utf-8", errors="replace"))


def _times(seconds: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><td class="name">{html.escape(str(step))}</td><td>{_clock(value)}</td></tr>'
        for step, value in seconds.items()
    )
    total = _clock(sum(seconds.values()))
    return f'<table class="times">{rows}<tr class="mean start"><td class="name">all</td><td>{total}</td></tr></table>'


def _clock(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60:02d} s"
