"""Run files that anyone made, scored against a benchmark: ours, UniIR's, or any other in TREC's format. Loads no torch.

The scores decide, not the ranks written beside them, and ties count against the run. A query that a run lacks is a
miss. A document that is not in the pool keeps its place: what stands behind it is ranked behind it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.layout import global_pool_path, label_of
from puma.data.mbeir import Benchmark, TaskName, open_benchmark
from puma.errors import DataError, InputError
from puma.evaluation.confusion import top_modalities
from puma.evaluation.counting import KS, Tables, best_ranks, check_ks, extras, headline, rates, store
from puma.evaluation.judged import CODE, POOLS, Judged
from puma.evaluation.metrics import Run, find
from puma.evaluation.runs import read_run
from puma.items.item import MODALITIES

_OURS = re.compile(r"(?:(?P<dataset>\w+)_)?task(?P<task>\d+)_(?P<split>[a-z]+)_(?P<pool>local|global)\.run")
_UNIIR = re.compile(
    r"mbeir_(?P<dataset>\w+)_task(?P<task>\d+)_(?P<pool>single|union)_pool_(?P<split>[a-z]+)_k\d+_run\.txt"
)
_POOL = {"single": "local", "union": "global", "local": "local", "global": "global"}
SUFFIXES = (".run", ".txt", ".trec")
"""Files of a folder that are read as runs."""


@dataclass(frozen=True)
class RunName:
    """What a run file's name says; ``dataset`` is None where it names none."""

    dataset: str | None
    task: int
    split: str
    pool: str


def run_name_of(name: str) -> RunName | None:
    """Read the name that :func:`puma.evaluation.mbeir.evaluate` or UniIR's retriever gives a run file, or None.

    Examples:
        >>> run_name_of("mbeir_webqa_task2_union_pool_test_k10_run.txt")
        RunName(dataset='webqa', task=2, split='test', pool='global')
        >>> run_name_of("task0_val_local.run").pool
        'local'
    """
    found = _UNIIR.fullmatch(name) or _OURS.fullmatch(name)
    if not found:
        return None
    return RunName(found["dataset"], int(found["task"]), found["split"], _POOL[found["pool"]])


def evaluate_runs(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    tasks: Iterable[TaskName] | None = None,
    pools: Sequence[str] = POOLS,
    ks: Sequence[int] = KS,
    details: bool = False,
) -> Tables:
    """Score a run file or a folder of them.

    Args:
        path: a file in TREC's format (``qid Q0 did rank score tag``, or with UniIR's seventh column, the task), or a
            folder of files that end in ``.run``, ``.txt`` or ``.trec``. A name such as ours or UniIR's says which task
            and pool a file is for; of any other file the query ids say the tasks, and it is scored in the local pool if
            all of its documents are in it, else in the global one (choose by ``pools`` if that is wrong).
        tasks: those to be scored; all that the files are for if None.

    The other arguments are as in :func:`puma.evaluation.mbeir.evaluate`.

    Returns:
        ``evaluate``'s tables of the tasks and pools that have a run. In each, ``skipped`` counts the queries that the
        run lacks, and ``run`` says the ``file``, ``missing_queries``, ``other_queries`` (not judged here),
        ``outside_pool`` (results that are no candidate of the pool) and ``depth`` (the most results of a query).

    Raises:
        InputError: no such file, an unknown task or pool, no run for a task asked for, or none at all.
        DataError: the files are at fault, or two of them are for the same task and pool.
    """
    check_ks(ks)
    if isinstance(pools, str) or not pools or set(pools) - set(POOLS):
        raise InputError(f"pools must be some of {POOLS}, got {pools!r}")
    wanted_tasks = None if tasks is None else list(tasks)
    benchmark = open_benchmark(root, dataset)
    chosen = benchmark.choose(split, wanted_tasks)
    named, other = _sorted(_files(path), benchmark, split, chosen)
    needed = {pool for _, pool in named} | (set(_there(root, split)) if other else set())
    wanted = [pool for pool in POOLS if pool in pools and pool in needed]
    if not wanted:
        raise InputError(f"{os.fspath(path)}: no run file for the tasks {chosen}, split {split}, pools {list(pools)}")
    data = Judged.read(root, dataset, split, wanted_tasks, wanted)
    runs: dict[tuple[TaskName, str], tuple[Path, Run]] = {}
    for key, file in named.items():
        if key[1] in wanted:
            runs[key] = (file, read_run(file))
    for file in other:
        for key, run in _by_content(read_run(file), data, wanted).items():
            if key in runs:
                raise DataError(f"{runs[key][0]} and {file} are both runs of task {key[0]}, {key[1]} pool")
            runs[key] = (file, run)
    tables: Tables = {}
    codes = {candidate.did: CODE[candidate.modality] for candidate in data.candidates}
    for task in data.tasks:
        for pool in wanted:
            if (task, pool) in runs:
                file, run = runs[task, pool]
                table = _table(data, task, pool, run, codes, ks, details) | {"run": _said(data, task, pool, file, run)}
                store(tables, task, pool, table | headline(data.benchmark.split_name(task)[0], ks))
    lacking = [task for task in chosen if str(task) not in tables]
    if not tables or (wanted_tasks is not None and lacking):
        raise InputError(f"{os.fspath(path)}: no run file for the tasks {lacking}, split {split}, pools {list(pools)}")
    return tables


def _table(
    data: Judged,
    task: TaskName,
    pool: str,
    run: Run,
    codes: Mapping[str, int],
    ks: Sequence[int],
    details: bool,
) -> dict[str, Any]:
    view = data.view(pool, task)
    found = find({qid: data.grades[task][qid] for qid in view.qids}, run)
    ranks = [one.ranks for one in found]
    table = rates(len(view.places), ranks, [one.gains for one in found], [one.ideal for one in found], ks)
    best = np.full((len(view.qids), len(MODALITIES)), -np.inf)
    for number, qid in enumerate(view.qids):
        for did, value in run.get(qid, {}).items():
            if did in codes:
                best[number, codes[did]] = max(best[number, codes[did]], value)
    skips = {qid: "not in the run" for qid in view.qids if qid not in run}
    table |= extras(top_modalities(best, view.wanted), view, skips, pool)
    return table | ({"per_query": best_ranks(view.qids, ranks)} if details else {})


def _said(data: Judged, task: TaskName, pool: str, file: Path, run: Run) -> dict[str, Any]:
    view = data.view(pool, task)
    own = [qid for qid in view.qids if qid in run]
    return {
        "file": file.name,
        "missing_queries": len(view.qids) - len(own),
        "other_queries": len(run) - len(own),
        "outside_pool": sum(did not in view.column for qid in own for did in run[qid]),
        "depth": max((len(run[qid]) for qid in own), default=0),
    }


def _files(path: str | os.PathLike[str]) -> list[Path]:
    place = Path(path)
    if not place.is_dir():
        return [place]
    found = sorted(file for file in place.iterdir() if file.is_file() and file.suffix in SUFFIXES)
    if not found:
        raise InputError(f"{place}: no run files in this folder (they end in {', '.join(SUFFIXES)})")
    return found


def _sorted(
    files: Sequence[Path], benchmark: Benchmark, split: str, chosen: Sequence[TaskName]
) -> tuple[dict[tuple[TaskName, str], Path], list[Path]]:
    """Files by task and pool as their names say, and those whose names say nothing."""
    tasks = {label_of(*benchmark.split_name(task)): task for task in chosen}
    named: dict[tuple[TaskName, str], Path] = {}
    other = []
    for file in files:
        name = run_name_of(file.name)
        if name is None:
            other.append(file)
            continue
        label = label_of(name.dataset or benchmark.dataset, name.task)
        if name.split != split or label not in tasks:
            continue  # of another split, or of a task that was not asked for
        key = (tasks[label], name.pool)
        if key in named:
            raise DataError(f"{named[key]} and {file} are both runs of task {key[0]}, {key[1]} pool")
        named[key] = file
    return named, other


def _there(root: str | os.PathLike[str], split: str) -> list[str]:
    return list(POOLS) if global_pool_path(root, split).is_file() else ["local"]


def _by_content(run: Run, data: Judged, pools: Sequence[str]) -> dict[tuple[TaskName, str], Run]:
    found: dict[tuple[TaskName, str], Run] = {}
    for task in data.tasks:
        own = {qid: run[qid] for qid in data.grades[task] if qid in run}
        if own:
            pool = pools[0]
            if len(pools) > 1 and any(
                did not in data.view("local", task).column for row in own.values() for did in row
            ):
                pool = "global"
            found[task, pool] = own
    return found
