"""Tables of the report: figures by task and system, modality confusion, the spread over instructions; as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from puma.data.mbeir import TASK_MODALITIES
from puma.evaluation.confusion import confusion_table
from puma.evaluation.metrics import means
from puma.items.item import MODALITIES

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
COLUMNS = (("hit_rate@1", "hit@1"), ("hit_rate@5", "hit@5"), ("hit_rate@10", "hit@10"), ("recall@10", "recall@10"))
MORE = (("ndcg@10", "nDCG@10"), ("mrr@10", "MRR@10"))
"""Columns that are shown where some table has them."""
NAMES = {
    "trained": "trained",
    "pruned_untrained": "pruned, untrained",
    "ridge_baseline": "ridge baseline, no LLM",
    "chance": "chance",
}
"""How systems are called in the table; others by their own name."""


def results_table(results: Results, pool: str) -> str:
    """Figures of every task and system, and their mean, of one pool.

    Args:
        results: ``{system: {task id or label: table}}``; what is missing is shown as a dash.
        pool: ``local`` or ``global``.
    """
    tables = {name: {task: of_pool(table, pool) for task, table in tasks.items()} for name, tasks in results.items()}
    ids = in_order(task for tasks in tables.values() for task, table in tasks.items() if table)
    every = [table for tasks in tables.values() for table in tasks.values()]
    columns = list(COLUMNS) + [pair for pair in MORE if any(pair[0] in table for table in every)]
    columns += [("wrong_modality@1", "wrong modality")] if pool == "global" else []
    head = "".join(f"<th>{label}</th>" for _, label in columns)
    rows = []
    for task in ids:
        group = {name: tasks[task] for name, tasks in tables.items() if tasks.get(task)}
        sizes = next(iter(group.values()), {})
        note = f"<small>{_count(sizes.get('queries'))} queries in {_count(sizes.get('pool'))}</small>"
        rows += _group(f"{html.escape(task_name(task))}<br>{note}", group, columns)
    keys = [key for key, _ in columns]
    averages = {name: means([table for table in tasks.values() if table], keys) for name, tasks in tables.items()}
    if len(ids) > 1:
        counts = {name: sum(bool(table) for table in tasks.values()) for name, tasks in tables.items()}
        partial = [f"{_name(name)}: over {count} tasks" for name, count in counts.items() if count < len(ids)]
        label = "mean" + (f"<br><small>{html.escape('; '.join(partial))}</small>" if partial else "")
        rows += _group(label, {name: row for name, row in averages.items() if row}, columns, "mean")
    more = ""
    if len(columns) > len(COLUMNS) + (pool == "global"):
        more = (
            " nDCG@10: gains of the right ones discounted by rank, over the best possible; MRR@10: 1 over the rank of "
        )
        more += "the first right one, 0 beyond ten."
    return (
        f'<div class="wide"><table><thead><tr><th>task</th><th>system</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p><small>Percent. Best of each column in bold. Ties count against the system. hit@k: a right candidate among "
        "the first k (M-BEIR calls this recall); recall@10: the share of the right ones among the first "
        f"ten.{more}</small></p>"
    )


def _group(
    label: str, group: Mapping[str, Mapping[str, Any]], columns: Sequence[tuple[str, str]], kind: str = ""
) -> list[str]:
    rows = []
    for number, (name, table) in enumerate(group.items()):
        cells = ""
        for key, _ in columns:
            value = _number(table.get(key))
            others = [_number(other.get(key)) for system, other in group.items() if system != "chance"]
            known = [other for other in others if other is not None]
            pick = min if key.startswith("wrong") else max
            best = name != "chance" and value is not None and len(known) > 1 and value == pick(known)
            shown = "–" if value is None else f"{100 * value:.1f}"
            cells += f'<td class="best">{shown}</td>' if best else f"<td>{shown}</td>"
        first = f'<th rowspan="{len(group)}" scope="rowgroup">{label}</th>' if number == 0 else ""
        quiet = " quiet" if name in ("chance", "ridge_baseline", "pruned_untrained") else ""
        start = " start" if number == 0 else ""
        rows.append(
            f'<tr class="{kind}{quiet}{start}">{first}<td class="name">{html.escape(_name(name))}</td>{cells}</tr>'
        )
    return rows


def confusion_html(results: Results, pool: str) -> str:
    """Of which modality the first hit is, by task; the modality asked for is framed. Empty where no table says it."""
    by_system = {name: confusion_table(tasks, pool) for name, tasks in results.items()}
    columns = list(
        dict.fromkeys([*MODALITIES, *(key for own in by_system.values() for row in own for key in row["shares"])])
    )
    rows = []
    for name, own in by_system.items():
        for number, row in enumerate(own):
            first = f'<td class="name">{html.escape(_name(name))}</td>' if len(results) > 1 else ""
            cells = "".join(_share(row["shares"].get(key, 0.0), key == row["wanted"]) for key in columns)
            task = html.escape(task_name(str(row["task"])))
            rows.append(
                f'<tr class="{"start" if number == 0 else ""}">{first}<th scope="row">{task}</th>{cells}'
                f"<td>{100 * row['wrong']:.1f}</td></tr>"
            )
    if not rows:
        return ""
    system = "<th>system</th>" if len(results) > 1 else ""
    heads = "".join(f"<th>{html.escape(_plain(name))}</th>" for name in (*columns, "wrong"))
    return (
        f'<div class="wide"><table class="confusion"><thead><tr>{system}<th>task</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p><small>Percent of queries by the modality of their first hit; framed: the modality asked for. A tie "
        "between modalities counts as the wrong one.</small></p>"
    )


def instructions_html(results: Results, pool: str, key: str = "hit_rate@10") -> str:
    """How a figure spreads over all of a task's instructions. Empty where it was not measured."""
    rows = ""
    for name, tasks in results.items():
        for task, whole in tasks.items():
            spread = of_pool(whole, pool).get("instructions", {})
            if key in spread:
                cells = "".join(f"<td>{100 * spread[key][end]:.1f}</td>" for end in ("min", "mean", "max"))
                count = _count(spread.get("count"))
                rows += (
                    f'<tr><th scope="row">{html.escape(task_name(task))}</th>'
                    f'<td class="name">{html.escape(_name(name))}</td><td>{count}</td>{cells}</tr>'
                )
    if not rows:
        return ""
    return (
        '<div class="wide"><table><thead><tr><th>task</th><th>system</th><th>instructions</th><th>least</th>'
        f"<th>mean</th><th>most</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p><small>{label_of_metric(key)}, percent, over all of a task's instructions.</small></p>"
    )


def of_pool(table: Mapping[str, Any], pool: str) -> Mapping[str, Any]:
    """The table of one pool; empty where there is none."""
    chosen = table if pool == "local" else table.get(pool, {})
    return chosen if "pool" in chosen or any(key in chosen for key, _ in COLUMNS) else {}


def in_order(tasks: Iterable[str]) -> list[str]:
    """Task ids by number; labels in the order they come, which is the papers'."""
    found = list(dict.fromkeys(tasks))
    return sorted(found, key=int) if all(task.isdigit() for task in found) else found


def task_name(task: str) -> str:
    """A task for people: "0 text → image", "visualnews text → image"."""
    dataset, _, number = task.rpartition("_task")
    pair = TASK_MODALITIES.get(int(number)) if number.isdigit() else None
    return f"{dataset or task} {' → '.join(_plain(side) for side in pair)}" if pair else task


def label_of_metric(key: str) -> str:
    """A figure's short name: hit@10 for ``hit_rate@10``."""
    return dict((*COLUMNS, *MORE)).get(key, key.replace("hit_rate", "hit"))


def _share(value: float, wanted: bool) -> str:
    kind = "wanted" if wanted else "other"
    return f'<td class="{kind}" style="--share:{100 * value:.0f}%">{100 * value:.1f}</td>'


def _plain(modality: str) -> str:
    return modality.replace(",", " + ")


def _name(system: str) -> str:
    return NAMES.get(system, system)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"
