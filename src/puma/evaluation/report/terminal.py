"""Tables for a terminal: M-BEIR's sixteen tasks laid out as in the papers, and a plain list of any benchmark's tasks.

Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from puma.data.layout import DATASETS, TASKS_IN_ORDER, PublishedTask, label_of
from puma.data.records import TASK_MODALITIES
from puma.evaluation.confusion import confusion_table
from puma.evaluation.published import Row, rows
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT

SHORT = {"visualnews": "VN", "mscoco": "COCO", "fashion200k": "F200K", "infoseek": "InfoS", "fashioniq": "FIQ"}
"""Column heads that differ from the data set's name, as the papers shorten them."""
_SIGN = {TEXT: "t", IMAGE: "i", IMAGE_TEXT: "it"}
GLOBAL_POOL = 5600
"""Thousands of candidates in the published union of the test split (UniIR, table 1)."""
ENOUGH = 0.95
"""With less than this share of the published records, figures are of another benchmark."""
_WIDTH = 7
ABSENT = "-"

Tables = Mapping[str, Mapping[str, Any]]


def is_mbeir(tables: Tables) -> bool:
    """Whether any of the tables is of one of M-BEIR's sixteen tasks."""
    return any(task.label in tables for task in TASKS_IN_ORDER)


def figures(tables: Tables, pool: str) -> dict[str, float | None]:
    """M-BEIR's sixteen figures in the papers' order, in percent: hit rate at 10 for Fashion200K and FashionIQ, at 5 for
    all others; None where a task was not evaluated or lacks that depth.

    Args:
        tables: by label, ``{"visualnews_task0": table, ...}``.
        pool: ``local`` or ``global``.
    """
    found: dict[str, float | None] = {}
    for task in TASKS_IN_ORDER:
        value = of_pool(tables.get(task.label, {}), pool).get(f"hit_rate@{task.k}")
        found[task.label] = None if value is None else 100 * float(value)
    return found


def of_pool(table: Mapping[str, Any], pool: str) -> Mapping[str, Any]:
    """One pool's part of a task's table; empty where it has none."""
    own = table if pool == "local" else table.get("global", {})
    return own if "queries" in own else {}


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean over tasks, if none is missing: over fewer, it would stand beside others' means as if it were one."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def relabelled(tables: Tables, dataset: str | None) -> Tables:
    """Tables of one of M-BEIR's data sets by label instead of task id; any others as they are."""
    if dataset not in DATASETS:
        return tables
    return {label_of(dataset, int(name)) if name.isdigit() else name: table for name, table in tables.items()}


def incomparable(tables: Tables, pool: str, split: str) -> list[str]:
    """Why our figures cannot be held against the published ones: another split, files cut short. Empty if they can."""
    reasons = [f"the published figures are of the test split, ours of {split}"] if split != "test" else []
    small = []
    for task in TASKS_IN_ORDER:
        own = of_pool(tables.get(task.label, {}), pool)
        if not own:
            continue
        for what, least in (("queries", task.queries), ("pool", task.pool if pool == "local" else GLOBAL_POOL)):
            if own[what] < ENOUGH * 1000 * least:
                small.append(f"{task.label} ({what} {own[what]:,}, published about {least:g} thousand)")
                break
    if small:
        shown = ", ".join(small[:3]) + (f" and {len(small) - 3} more" if len(small) > 3 else "")
        reasons.append(f"fewer records than as published: {shown}")
    return reasons


def paper_table(tables: Tables, pool: str, name: str, chance: Tables | None = None, split: str = "test") -> str:
    """M-BEIR's table as the papers print it: systems down, the sixteen tasks across, the published rows above ours.
    Below stand the sources, and what makes ours another measurement.

    Args:
        tables: ours, by label.
        pool: ``local`` or ``global``.
        name: what our row is called.
        chance: a random ranking's tables, for a row of their own.
        split: what ours were measured on.
    """
    published = rows(pool)
    left = max(map(len, ["published", name, "chance", *(row.system for row in published)])) + 2
    lines = [f"M-BEIR, {pool} pools: hit rate in percent (the papers' recall), at the depth under each task", ""]
    lines += _heads(left)
    sources = list(dict.fromkeys(row.source for row in published))
    for row in published:
        marked = f"{row.system} [{sources.index(row.source) + 1}]"
        lines.append(_line(marked, [*row.figures, row.mean], left + 4))
    ruler = "-" * len(lines[-1])
    lines.append(ruler)
    for title, own in ((name, tables), *((("chance", chance),) if chance else ())):
        values = list(figures(own, pool).values())
        lines.append(_line(title, [*values, mean_of(values)], left + 4))
    lines.append("")
    lines += [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    lines += [f"not comparable: {reason}" for reason in incomparable(tables, pool, split)]
    return "\n".join(line.rstrip() for line in lines)


def _heads(left: int) -> Iterator[str]:
    groups = [(pair, list(own)) for pair, own in groupby(TASKS_IN_ORDER, lambda task: TASK_MODALITIES[task.task])]
    kinds = "".join(f" {f' {_SIGN[a]} to {_SIGN[b]} ':-^{_WIDTH * len(own) - 1}}" for (a, b), own in groups)
    yield " " * (left + 4) + kinds
    yield " " * (left + 4) + "".join(f"{_head(task):>{_WIDTH}}" for task in TASKS_IN_ORDER) + f"{'mean':>{_WIDTH}}"
    yield " " * (left + 4) + "".join(f"{f'R@{task.k}':>{_WIDTH}}" for task in TASKS_IN_ORDER)


def _head(task: PublishedTask) -> str:
    return SHORT.get(task.dataset, task.title)


def _line(name: str, values: Sequence[float | None], left: int) -> str:
    return f"{name:<{left}}" + "".join(f"{ABSENT if v is None else f'{v:.1f}':>{_WIDTH}}" for v in values)


def plain_table(tables: Tables, chance: Tables, pool: str) -> str:
    """Every task on a line: hit rate at 1, 5, 10 and recall at 10 in percent, a random ranking's in brackets."""
    keys = ("hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@10")
    left = max(4, *map(len, tables))
    lines = [f"{pool} pools (percent; chance in brackets)"]
    heads = "".join(f" {key.replace('hit_rate', 'hit'):>15}" for key in keys)
    lines.append(f"{'task':>{left}} {'pool':>9} {'queries':>8}{heads}")
    for name, table in tables.items():
        own, base = of_pool(table, pool), of_pool(chance.get(name, {}), pool)
        if own:
            cells = "".join(f" {_beside(own.get(key), base.get(key)):>15}" for key in keys)
            lines.append(f"{name:>{left}} {own['pool']:>9} {own['queries']:>8}{cells}")
    return "\n".join(lines)


def _beside(value: float | None, base: float | None) -> str:
    return (ABSENT if value is None else f"{100 * value:.1f}") + ("" if base is None else f" ({100 * base:.1f})")


def spread_table(tables: Tables, pool: str) -> str:
    """How each task's main figure moves over its instructions: least, mean and greatest, in percent. Empty where no
    table holds them."""
    left = max(4, *map(len, tables))
    lines = []
    for name, table in tables.items():
        own = of_pool(table, pool)
        key = own.get("headline", "hit_rate@5")
        spread = own.get("instructions", {}).get(key)
        if spread:
            low, mean, high = (100 * spread[which] for which in ("min", "mean", "max"))
            lines.append(f"{name:>{left}} {key:>12} {low:>7.1f} {mean:>7.1f} {high:>7.1f}")
    if not lines:
        return ""
    head = f"{'task':>{left}} {'figure':>12} {'least':>7} {'mean':>7} {'most':>7}"
    return "\n".join([f"over all instructions of a task, {pool} pools (percent)", head, *lines])


def confusion_text(tables: Tables, pool: str) -> str:
    """Which modality each task finds first, in percent of its queries; empty where no table tells."""
    rows = confusion_table(tables, pool)
    if not rows:
        return ""
    left = max(4, *(len(str(row["task"])) for row in rows))
    found = [kind for kind in (TEXT, IMAGE, IMAGE_TEXT) if any(kind in row["shares"] for row in rows)]
    lines = [f"{'task':>{left}} {'wanted':>10} " + " ".join(f"{kind:>10}" for kind in found) + f" {'wrong':>7}"]
    for row in rows:
        shares = " ".join(f"{100 * row['shares'].get(kind, 0.0):>10.1f}" for kind in found)
        lines.append(f"{row['task']:>{left}} {row['wanted']:>10} {shares} {100 * row['wrong']:>7.1f}")
    return "\n".join([f"found first, {pool} pools (percent of queries)", *lines])


def published_rows(pools: Sequence[str]) -> list[dict[str, Any]]:
    """The published rows of these pools as plain dicts, for JSON: ``system``, ``pool``, ``source``, ``mean`` and
    ``figures`` by label, in percent."""
    return [_plain(row) for pool in pools for row in rows(pool)]


def _plain(row: Row) -> dict[str, Any]:
    by_label = {task.label: row.figure(task.label) for task in TASKS_IN_ORDER}
    return {"system": row.system, "pool": row.pool, "source": row.source, "mean": row.mean, "figures": by_label}
