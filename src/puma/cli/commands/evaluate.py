"""``puma evaluate``: a model, its vectors or a run file, scored on M-BEIR (or a folder in its layout), mteb or MMEB."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands import _benchmarks
from puma.cli.commands._engine import Address, Engine, EngineName, Workers
from puma.cli.commands._places import writable
from puma.cli.commands._scored import Chosen, Source
from puma.cli.commands._shared import (
    Attention,
    Dtype,
    ForeignModel,
    ForeignPrompt,
    Json,
    Layers,
    Model,
    NoResume,
    WorkFolder,
    check_foreign,
    note,
    print_json,
)
from puma.errors import InputError

BENCHMARKS = ("mbeir", "mteb", "mmeb")
INSTRUCTIONS = ("first", "none", "all")
POOLS = ("local", "global")


def register(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate)


def evaluate(
    model: Model = None,
    st: ForeignModel = None,
    st_prompt: ForeignPrompt = None,
    benchmark: Annotated[
        str,
        typer.Option(
            help="mbeir: a folder in M-BEIR's layout. mteb: mteb's own code. mmeb: a folder in MMEB's layout."
        ),
    ] = "mbeir",
    root: Annotated[
        Path | None, typer.Option(help="The benchmark's folder. Default: OpenPics, built if missing.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Only this data set of the folder. Default: all, such as M-BEIR's sixteen tasks.")
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the data: test, val or train.")] = "test",
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            "--task",
            help="Only these: task ids, labels (visualnews_task0) or data sets. For mteb its task names, for MMEB its "
            "subsets. Separate with commas, or repeat the option. Default: all.",
        ),
    ] = None,
    pools: Annotated[
        str | None,
        typer.Option(help="Pools of candidates: local, global or local,global. Default: both; for mteb local."),
    ] = None,
    instruction: Annotated[
        str,
        typer.Option(
            help="first: the first instruction of each task, as for published figures. none: no instruction. "
            "all: every instruction, with the spread."
        ),
    ] = "first",
    embeddings: Annotated[
        Path | None, typer.Option(help="Score the vectors in this folder (UniIR's .npy layout) without a model.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Score this TREC run file, or those in this folder, without a model.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory limit for vectors and scores, such as 4GB. Large pools are streamed.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(callback=writable, help="Write TREC run files here.")] = None,
    json_out: Annotated[
        Path | None,
        typer.Option(
            callback=writable,
            help="Write all results to this file, with the rank of each query; puma compare reads it.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(callback=writable, help="Write a self-contained HTML page here.")
    ] = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    work: WorkFolder = None,
    no_resume: NoResume = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Score a model on every task of a benchmark. For M-BEIR the published figures are printed above the model's. For
    other data the result of chance is printed next to them. Ties count against the model.

    To continue after an interruption, give the same command again. Under torchrun several processes share the work.

    Example: puma evaluate --root M-BEIR --model runs/quickstart/model --memory 4GB --report report.html
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f"benchmark must be one of {', '.join(BENCHMARKS)}, got {benchmark!r}")
    if instruction not in INSTRUCTIONS:
        raise InputError(f"instruction must be one of {', '.join(INSTRUCTIONS)}, got {instruction!r}")
    sources = {"model": model, "st": st, "embeddings": embeddings, "run": run}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise InputError(
            f"give one of --model, --st, --embeddings and --run, got {' and '.join('--' + name for name in given)}"
        )
    check_foreign(model, st, st_prompt)
    if st_prompt is not None and instruction != "first":
        raise InputError(f"--st-prompt takes the instruction's place: leave --instruction {instruction} out")
    place = Engine(engine, address, workers)
    if place.remote and (benchmark != "mbeir" or run is not None):
        raise InputError("--engine ray goes with --benchmark mbeir, and with a model or --embeddings")
    chosen = Chosen(model, st, st_prompt, dtype, attn, layers, place)
    from puma.evaluation.processes import is_first, processes
    from puma.evaluation.stored.resumable import Work

    options: dict[str, Any] = {
        "dataset": dataset,
        "split": split,
        "tasks": [name for value in tasks or () for name in value.split(",") if name] or None,
        "pools": _pools(pools, benchmark),
        "instruction": instruction,
    }
    if benchmark == "mbeir":
        if memory is not None:
            from puma.index.exact.memory import parse_memory

            options["memory"] = parse_memory(memory)
        source = Source(chosen, embeddings, run, work, not no_resume)
        _mbeir(source, _benchmarks.mbeir_root(root), options, run_dir, json_out, report, as_json)
        return
    unused = {"embeddings": embeddings, "run": run, "memory": memory, "run-dir": run_dir, "report": report}
    for name, value in unused.items():
        if value is not None:
            raise InputError(f"--{name} goes with --benchmark mbeir only, got --benchmark {benchmark}")
    if benchmark == "mteb":
        if processes()[1] > 1:
            raise InputError("--benchmark mteb runs in one process: mteb does the embedding")
        outcome = _benchmarks.mteb(chosen, root, options)
    else:
        outcome = _benchmarks.mmeb(chosen, root, options, Work(work, not no_resume, note))
    if not is_first():
        return
    if json_out is not None:
        from puma.storage.folders import write_json

        write_json(json_out, outcome)
    if as_json:
        print_json(outcome)
    elif benchmark == "mteb":
        _benchmarks.show_mteb(outcome)
    else:
        _benchmarks.show_mmeb(outcome)


def _mbeir(
    source: Source,
    root: Path,
    options: dict[str, Any],
    run_dir: Path | None,
    json_out: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    from puma.evaluation import mbeir
    from puma.evaluation.processes import is_first
    from puma.evaluation.report import terminal as layout

    if not source.model_needed and options["instruction"] != "first":
        raise InputError("--instruction needs a model: stored vectors and runs were made with one already")
    if source.run is not None and run_dir is not None:
        raise InputError("--run-dir writes runs, and --run brings its own: give one of them")
    options["details"] = json_out is not None or report is not None
    plain = {name: options[name] for name in ("dataset", "split", "tasks", "pools")}
    # Reads everything once: faults are reported before a model is loaded. Runs say themselves which tasks they are of.
    random = mbeir.chance(root, **plain) if source.run is None and is_first() else {}
    with contextlib.ExitStack() as stack:
        spare = stack.enter_context(tempfile.TemporaryDirectory(prefix="puma-runs-"))
        runs = run_dir if report is None or source.run is not None or run_dir is not None else Path(spare)
        tables = source.tables(root, options, runs, stack)
        if not is_first():
            return
        pools = [pool for pool in options["pools"] if any(layout.of_pool(table, pool) for table in tables.values())]
        if source.run is not None:
            random = mbeir.chance(root, **plain | {"tasks": list(tables), "pools": pools})
        if options["details"]:
            _write(source, root, options, tables, random, json_out, report, source.run or runs)
        source.written()
    by_label = layout.relabelled(tables, options["dataset"])
    if as_json:
        shown: dict[str, Any] = {"model": _without_queries(tables), "chance": random}
        if layout.is_mbeir(by_label):
            shown["published"] = layout.published_rows(pools)
        print_json(shown)
        return
    for pool in pools:
        if layout.is_mbeir(by_label):
            base = layout.relabelled(random, options["dataset"])
            text = layout.paper_table(by_label, pool, source.name, base, options["split"])
        else:
            text = layout.plain_table(tables, random, pool)
        spread = layout.spread_table(tables, pool)
        found_first = layout.confusion_text(tables, pool) if pool == "global" else ""
        typer.echo("\n".join(["", text, *(f"\n{more}" for more in (found_first, spread) if more)]))
        for name, table in tables.items():
            own = layout.of_pool(table, pool)
            if own.get("skipped"):
                what = "without a run" if source.run is not None else "left out"
                typer.echo(f"{name}: {own['skipped']} {what}, for example {own['skipped_items'][0]}", err=True)


def _write(
    source: Source,
    root: Path,
    options: Mapping[str, Any],
    tables: dict[str, dict[str, Any]],
    random: dict[str, dict[str, Any]],
    json_out: Path | None,
    report: Path | None,
    runs: Path | None,
) -> None:
    from puma.data.mbeir import open_benchmark
    from puma.evaluation.results import make_results, write_results

    about = {
        "root": Path(os.path.abspath(root)).name,
        "dataset": open_benchmark(root, options["dataset"]).dataset,
        "split": options["split"],
        "instruction": options["instruction"],
    }
    results = make_results(source.name, source.fingerprint, about, tables)
    if json_out is not None:
        write_results(json_out, results)
    if report is not None:
        from puma.evaluation.report.page import write_evaluation_report

        write_evaluation_report(report, {**results, "chance": random}, root, runs)


def _without_queries(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables without each query's rank, which fills screens; --json-out has them."""
    return {
        name: _without_queries(value) if isinstance(value, dict) else value
        for name, value in tables.items()
        if name != "per_query"
    }


def _pools(given: str | None, benchmark: str) -> list[str]:
    if given is None:
        return ["local"] if benchmark == "mteb" else list(POOLS)
    chosen = list(dict.fromkeys(name.strip() for name in given.split(",")))
    if set(chosen) - set(POOLS):
        raise InputError(f"pools must be local, global or both with a comma, got {given!r}")
    return chosen
