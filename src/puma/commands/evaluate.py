"""``puma evaluate``: hit rate and recall of a model on a benchmark in M-BEIR's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from puma.commands._shared import Json, Model, load_retriever, print_json


def register(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate)


def evaluate(
    model: Model = None,
    root: Annotated[
        Path | None, typer.Option(help="The benchmark's folder. Default: OpenPics, built if missing.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Which data set, if the folder holds several.")] = None,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    task: Annotated[list[str] | None, typer.Option(help="A task id; may be given several times. Default: all.")] = None,
    pools: Annotated[str, typer.Option(help="local, global, or both with a comma.")] = "local,global",
    run_dir: Annotated[Path | None, typer.Option(help="Write TREC run files here.")] = None,
    as_json: Json = False,
) -> None:
    """Score a model on every task, with chance beside it. Ties count against the model.

    Example: puma evaluate --model runs/quickstart/model --json
    """
    from puma.evaluation import mbeir

    if root is None:
        from puma.mini.pictures import build

        root = build()
    chosen: dict[str, Any] = {"dataset": dataset, "split": split, "tasks": task or None, "pools": pools.split(",")}
    random = mbeir.chance(root, **chosen)  # reads everything once: faults are told before a model is loaded
    tables = mbeir.evaluate(load_retriever(model), root, run_dir=run_dir, **chosen)
    if as_json:
        print_json({"model": tables, "chance": random})
        return
    for pool in chosen["pools"]:
        typer.echo(f"\n{pool} pools (percent; chance in brackets)")
        typer.echo(
            f"{'task':>4} {'pool':>8} {'queries':>8} {'hit@1':>15} {'hit@5':>15} {'hit@10':>15} {'recall@10':>15}"
        )
        for name, table in tables.items():
            own = table if pool == "local" else table["global"]
            base = random[name] if pool == "local" else random[name]["global"]
            keys = ("hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@10")
            cells = " ".join(f"{f'{100 * own[key]:.1f} ({100 * base[key]:.1f})':>15}" for key in keys)
            typer.echo(f"{name:>4} {own['pool']:>8} {own['queries']:>8} {cells}")
            if own["skipped"]:
                typer.echo(f"     {own['skipped']} unreadable, as {own['skipped_items'][0]}", err=True)
