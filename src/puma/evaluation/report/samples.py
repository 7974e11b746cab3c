"""Which queries a report shows: of each task some that were answered at once and some that failed, from run files.

Loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from puma.data.mbeir import Benchmark, Candidate, Query, TaskName, open_benchmark
from puma.errors import DataError
from puma.evaluation.report.sheets import RESULTS_SHOWN, Asked, Result, Sheet
from puma.evaluation.report.tables import task_name
from puma.evaluation.runs import read_run
from puma.evaluation.scored_runs import run_name_of

SHOWN = 3
"""Successes, and failures, shown of a task."""
FAILED = 10
"""A query fails if nothing right is among so many."""

Run = dict[str, dict[str, float]]


def run_sheets(
    root: str | os.PathLike[str],
    runs: str | os.PathLike[str],
    *,
    split: str = "test",
    dataset: str | None = None,
    shown: int = SHOWN,
) -> list[Sheet]:
    """Per task a sheet of queries whose first result is right and one of queries with nothing right among ten, drawn
    evenly over the queries; each with its first five results and, where it is not among them, the right one.

    Args:
        root: the benchmark.
        runs: a folder of run files, named as evaluation or UniIR names them, or one such file. Of a task with a local
            and a global run the local one is shown. Other names are passed over.

    Raises:
        DataError: a run names a candidate that its pool has not, or the files are at fault.
    """
    benchmark = open_benchmark(root, dataset)
    sheets = []
    for task, (pool, path) in _files(benchmark, Path(runs), split).items():
        run = read_run(path)
        known = benchmark.pool(task, split) if pool == "local" else benchmark.global_pool(split)
        candidates = {candidate.did: candidate for candidate in known}
        queries = {query.qid: query for query in benchmark.queries(task, split)}
        right = {
            qid: [did for did, grade in row.items() if grade > 0]
            for qid, row in benchmark.qrels(task, split).items()
            if qid in queries
        }
        ranks = {qid: best_rank(dids, run.get(qid, {})) for qid, dids in right.items() if dids}
        good = [qid for qid, rank in ranks.items() if rank == 1]
        bad = [qid for qid, rank in ranks.items() if rank is None or rank > FAILED]
        where = "" if pool == "local" else ", the global pool"
        for kind, qids in (("right at once", good), (f"nothing right among {FAILED}", bad)):
            rows = [
                _asked(benchmark, task, queries[qid], run.get(qid, {}), right[qid], candidates, path)
                for qid in _spread(qids, shown)
            ]
            title = f"Task {task_name(str(task))}{where}: {kind} ({len(qids):,} of {len(ranks):,})"
            sheets += [Sheet(title, rows)] if rows else []
    return sheets


def best_rank(right: Sequence[str], scores: Mapping[str, float]) -> int | None:
    """The rank of the first right candidate, from 1; ties count against it. None if no right one has a score."""
    own = max((scores[did] for did in right if did in scores), default=None)
    others = set(right)
    return None if own is None else 1 + sum(value >= own for did, value in scores.items() if did not in others)


def _asked(
    benchmark: Benchmark,
    task: TaskName,
    query: Query,
    scores: Mapping[str, float],
    right: Sequence[str],
    candidates: Mapping[str, Candidate],
    path: Path,
) -> Asked:
    others = set(right)
    # Right ones behind wrong ones of the same score: as they are ranked.
    best = sorted(scores, key=lambda did: (-scores[did], did in others, did))
    missing = next((did for did in best[:RESULTS_SHOWN] if did not in candidates), None)
    if missing is not None:
        raise DataError(f"{path}: names candidate {missing}, which the pool of task {task} has not")
    results = [Result(candidates[did].item(benchmark.root), scores[did], did in others) for did in best[:RESULTS_SHOWN]]
    wanted, rank = None, best_rank(right, scores)
    if not any(result.right for result in results):
        found = [did for did in best if did in others] + [did for did in right if did not in scores]
        first = next((did for did in found if did in candidates), None)
        if first is not None:
            wanted = Result(candidates[first].item(benchmark.root), scores.get(first, float("nan")), True)
    return Asked(
        query.item(benchmark.root),
        results,
        benchmark.instruction(task),
        rank=rank,
        wanted=wanted,
        depth=len(scores),
    )


def _files(benchmark: Benchmark, runs: Path, split: str) -> dict[TaskName, tuple[str, Path]]:
    found: dict[TaskName, tuple[str, Path]] = {}
    tasks = {benchmark.split_name(task): task for task in benchmark.tasks(split)}
    for path in sorted(runs.iterdir()) if runs.is_dir() else [runs]:
        name = run_name_of(path.name)
        if name is None or name.split != split:
            continue
        datasets = [name.dataset] if name.dataset else benchmark.datasets
        for task in (tasks[dataset, name.task] for dataset in datasets if (dataset, name.task) in tasks):
            if task not in found or name.pool == "local":
                found[task] = (name.pool, path)
    return {task: found[task] for task in tasks.values() if task in found}


def _spread(values: Sequence[str], count: int) -> list[str]:
    if len(values) <= count:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, count).astype(int)]
