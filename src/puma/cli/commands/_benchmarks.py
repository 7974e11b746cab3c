"""``puma evaluate`` on mteb and MMEB, and the default folder of M-BEIR's layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from puma.cli.commands._scored import Chosen
from puma.errors import InputError

if TYPE_CHECKING:
    from puma.evaluation.stored.resumable import Work


def mteb(chosen: Chosen, root: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    from puma.evaluation.mteb import tasks as mteb_tasks

    names = options["tasks"]
    # mteb's own tasks bring their own data; a task id or name of ours needs a folder, and by default that is OpenPics.
    ours = names is None or any(name.isdigit() or name.startswith("OpenPics") for name in names)
    folder = mbeir_root(root) if root is not None or ours else None
    encoder = chosen.load()
    about = {name: options[name] for name in ("dataset", "split", "pools", "instruction")}
    return mteb_tasks.run(encoder, names, root=folder, **about)


def mmeb(chosen: Chosen, root: Path | None, options: Mapping[str, Any], work: Work) -> dict[str, Any]:
    from puma.evaluation import mmeb as benchmark
    from puma.evaluation.processes import is_first
    from puma.evaluation.stored.resumable import made_with, opened_store, part_size
    from puma.mini.fetch.packages import cache_home

    if root is None:
        raise InputError("--benchmark mmeb needs the folder of its subsets: --root DIR")
    if not root.is_dir():
        raise InputError(f"--root {root}: no such folder")
    encoder = chosen.load()
    size = part_size(encoder)
    values = made_with(encoder, size, root=os.path.realpath(root), subsets=options["tasks"])
    with opened_store(cache_home() / "evaluations", root.resolve().name, values, work) as store:
        outcome = benchmark.evaluate(encoder, root, options["tasks"], batch_size=size, work=store)
        if is_first():
            store.remove()
    return outcome


def show_mteb(tables: Mapping[str, Mapping[str, Any]]) -> None:
    typer.echo(f"{'task':<40} {'pool':>9} {'queries':>8} {'hit@1':>7} {'hit@5':>7} {'hit@10':>7}  (percent, by mteb)")
    for name, table in tables.items():
        for own in (table, *(value for key, value in table.items() if key == "global" and isinstance(value, dict))):
            if "queries" in own:
                cells = " ".join(f"{_percent(own.get(f'hit_rate@{k}')):>7}" for k in (1, 5, 10))
                title = own.get("name", name)
                typer.echo(f"{title:<40} {own.get('pool', '-'):>9} {own['queries']:>8} {cells}")


def show_mmeb(outcome: Mapping[str, Any]) -> None:
    typer.echo(f"{'subset':<28} {'queries':>8} {'hit@1':>7} {'chance':>7}  (percent)")
    for name, table in outcome["subsets"].items():
        typer.echo(f"{name:<28} {table['queries']:>8} {_percent(table['hit@1']):>7} {_percent(table['chance@1']):>7}")
        if table.get("skipped"):
            typer.echo(f"{name}: {table['skipped']} unreadable, for example {table['skipped_items'][0]}", err=True)
    for name, group in outcome["groups"].items():
        typer.echo(f"mean of {name} ({group['subsets']} of {group['of']} subsets): {_percent(group['hit@1'])}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def mbeir_root(root: Path | None) -> Path:
    if root is not None:
        return benchmark_folder("--root", root)
    from puma.mini.openpics import build

    return Path(build())


def benchmark_folder(flag: str, path: Path) -> Path:
    """The folder that a flag names.

    Raises:
        InputError: it is none; the message says what to do with a table of pairs.
    """
    from puma.data.layout import folder_fault

    if fault := folder_fault(path):
        raise InputError(f"{flag} {fault}")
    return path
