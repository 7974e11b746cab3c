"""What ``puma train --dry-run`` prints: a recipe's costs, in lines to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("weights", "gradients", "optimiser", "teacher", "working")
WORK = ("vision", "forward", "backward", "recompute", "teacher")


def cost_text(report: Mapping[str, Any]) -> str:
    """A dry run's report as lines to read; memory in GiB, work in TFLOP."""
    layers = report["layers"]
    which = " (the first k-1 and the last)" if layers["keep_last"] else ""
    lines = [f"{report['base']}: {layers['kept']} of {layers['of']} decoder layers kept{which}", ""]
    lines.append(f"{'parameters':34}{'with token embeddings':>24}{'without':>12}")
    names = {"base": "base as published", "unpruned": "unpruned, as teacher", "kept": "kept"}
    for key, name in names.items():
        counts = report["parameters"][key]
        lines.append(f"  {name:32}{_count(counts['total']):>24}{_count(counts['without_embeddings']):>12}")
    lines += ["  " + report["rule"], ""]
    for row in report["stages"]:
        lines += [*_stage_lines(row), ""]
    if report.get("rounds"):
        lines += [
            f"Then {report['rounds']} rounds of more training like stage retrieve, and means of weights.",
            "",
        ]
    load = report["workload"]
    images = f"{load['image_tokens'] or 256} tokens of an image where the base reads images at their own size"
    lines.append(
        f"Assumed per item: {load['text_tokens']} tokens of text, {images} (workload in the recipe). "
        "One device, one step; estimates, not measurements."
    )
    return "\n".join(lines)


def _stage_lines(row: Mapping[str, Any]) -> list[str]:
    cost, columns = row["cost"], {"this recipe": row["cost"], "unpruned": row["unpruned"]}
    if "two_models" in row:
        columns["second model as teacher"] = row["two_models"]
    lines = [
        f"stage {cost['stage']}: {cost['items']} items, {cost['tokens']:,} tokens a step and device, "
        f"{_count(cost['trainable'])} parameters trained",
        f"{'':36}" + "".join(f"{name:>26}" for name in columns),
    ]

    def line(name: str, values: list[str]) -> None:
        lines.append(f"  {name:34}" + "".join(f"{value:>26}" for value in values))

    for part in PARTS:
        line(f"{part}, GiB", [_gib(c["memory"][part]) for c in columns.values()])
    for kind in ("plain", "checkpointed"):
        line(f"activations, {kind}, GiB", [_gib(c["memory"][f"activations_{kind}"]) for c in columns.values()])
        line(f"total, {kind}, GiB", [_gib(c["memory"][f"total_{kind}"]) for c in columns.values()])
    for part in WORK:
        if any(c["flops"][part] for c in columns.values()):
            line(f"{part}, TFLOP", [_tera(c["flops"][part]) for c in columns.values()])
    line("total, TFLOP", [_tera(c["flops"]["total"]) for c in columns.values()])
    whole = row["unpruned"]["flops"]["total"]
    line("work against the unpruned model", [f"{c['flops']['total'] / whole:.2f}" for c in columns.values()])
    return lines


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _gib(number: int) -> str:
    return f"{number / 2**30:.2f}"


def _tera(number: int) -> str:
    return f"{number / 1e12:.2f}"
