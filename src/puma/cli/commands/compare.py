"""``puma compare``: two results files, task by task, with a paired bootstrap interval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._shared import Json, print_json


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="Results file, as puma evaluate --json-out writes it.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Results file of another model on the same queries.")],
    pool: Annotated[str, typer.Option(help="Pool of candidates: local (one task) or global (all tasks).")] = "local",
    metric: Annotated[str, typer.Option(help="Figure to compare: hit_rate@k or mrr@k.")] = "hit_rate@10",
    task: Annotated[list[str] | None, typer.Option(help="Only this task; can be repeated. Default: all.")] = None,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap samples.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare two models: print B minus A for each task and for the mean, with a 95 % interval (paired bootstrap).

    Example: puma compare old.json new.json --pool global --metric hit_rate@5
    """
    from puma.evaluation import compare as comparing
    from puma.evaluation.results import read_results

    found = comparing.compare(
        read_results(a), read_results(b), pool=pool, metric=metric, tasks=task, resamples=resamples, seed=seed
    )
    if as_json:
        print_json(found)
        return
    typer.echo(f"A: {found['models'][0]}\nB: {found['models'][1]}")
    for note in found["notes"]:
        typer.echo(f"note: {note}")
    wide = max(4, *(len(name) for name in found["tasks"]))
    typer.echo(f"\n{metric}, {pool} pools, percent; * where the 95 % interval leaves out 0")
    typer.echo(
        f"{'task':>{wide}} {'queries':>8} {'A':>6} {'B':>6} {'B - A':>7}   {'interval':<16} {'rose':>6} {'fell':>6}"
    )
    for name, row in found["tasks"].items():
        typer.echo(
            f"{name:>{wide}} {row['queries']:>8,} {_sides(row)} {_interval(row)} {row['better']:>6,} {row['worse']:>6,}"
        )
    typer.echo(f"{'mean':>{wide}} {'':>8} {_sides(found['mean'])} {_interval(found['mean'])}".rstrip())


def _sides(row: dict[str, Any]) -> str:
    return f"{100 * row['a']:>6.1f} {100 * row['b']:>6.1f} {100 * row['difference']:>+7.1f}"


def _interval(row: dict[str, Any]) -> str:
    mark = "*" if row["low"] > 0 or row["high"] < 0 else " "
    ends = f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{mark} {ends:<16}"
