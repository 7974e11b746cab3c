"""The probe's table, for a terminal and for a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma.evaluation.probing.depths import FIRST, KEEP_LAST
from puma.evaluation.probing.scoring import METRIC

NAMES = {FIRST: "first k", KEEP_LAST: "k-1 + last"}
PROBES = {"zero_shot": "zero-shot", "ridge": "ridge"}


def table(result: Mapping[str, Any]) -> str:
    """A Markdown table that reads well unrendered: a row a depth; hit@10 in percent, mean over tasks."""
    variants = list(dict.fromkeys(row["variant"] for row in result["depths"]))
    probes = [probe for probe in PROBES if probe in result["depths"][0]]
    heads = ["k", *(f"{NAMES[variant]}, {PROBES[probe]}" for variant in variants for probe in probes), "cost", "speed"]
    by_depth: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in result["depths"]:
        by_depth.setdefault(row["layers"], {})[row["variant"]] = row
    best = max(row[probe]["mean"][METRIC] for row in result["depths"] for probe in probes)
    lines = [heads]
    for layers, rows in by_depth.items():
        figures = [rows[variant][probe]["mean"][METRIC] for variant in variants for probe in probes]
        cells = [f"**{100 * value:.1f}**" if value == best > 0 else f"{100 * value:.1f}" for value in figures]
        cost = result["cost"]["depths"][layers - 1]
        lines.append([str(layers), *cells, f"{100 * cost['relative']:.0f} %", f"{cost['speed']:.2f}x"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [heads, rule, *lines[1:]]
    )


GUESSED = 0.5
"""A chance of hit@10 from which a probe says that its figures mean little."""


def notes(result: Mapping[str, Any]) -> list[str]:
    """What one must know to read the table, a sentence each."""
    task_list = ", ".join(
        f"{task['task']} ({task['queries']} queries in {task['pool']}{_pairs(task)})" for task in result["tasks"]
    )
    errors = [row[probe]["mean"]["standard_error"] for row in result["depths"] for probe in PROBES if probe in row]
    lines = [
        "hit@10 in percent, mean over tasks; ties never count as hits; "
        f"chance is {100 * result['chance'][METRIC]:.1f}; one standard error is at most {100 * max(errors):.1f}.",
        f"Tasks: {task_list}.",
        result["cost"]["how"],
    ]
    if result["chance"][METRIC] >= GUESSED:
        lines.append(
            f"A random ranking would reach {100 * result['chance'][METRIC]:.0f} %: the pools are too small for hit@10 "
            "to tell depths apart, and the suggestion means little. Take data with more candidates."
        )
    if any("ridge" in row for row in result["depths"]):
        lines.append(
            "The ridge map from query to candidate states is fitted on train pairs, its strength chosen on a quarter "
            f"of them; nothing of {result['split']} is fitted on."
        )
    near = result["suggestion"]["within_one_standard_error"]
    if near["score"] > 0:
        variant = NAMES[KEEP_LAST if near["keep_last"] else FIRST]
        lines.append(
            f"The fewest layers within one standard error of the best: k = {near['layers']} ({variant}, "
            f"{100 * near['score']:.1f}); ask more queries to tell closer depths apart."
        )
    if result["unreadable"]:
        lines.append(f"{result['unreadable']} items could not be read, as {result['unreadable_items'][0]}.")
    return lines


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    listed = "\n".join(f"- {note}" for note in notes(result))
    title = f"# Depth probe of {result['base']} on {result['dataset']}, {result['split']}"
    image = "![hit@10 and speed by decoder layers kept](probe.svg)"
    return "\n\n".join([title, result["suggestion"]["sentence"], image, table(result), listed]) + "\n"


def _pairs(task: Mapping[str, Any]) -> str:
    return f", {task['pairs']} train pairs" if task["pairs"] else ""
