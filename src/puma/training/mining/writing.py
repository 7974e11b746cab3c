"""A benchmark written anew with mined hard negatives in M-BEIR's ``neg_cand_list``.

Which candidates are chosen is :mod:`puma.training.mining.choosing`'s; this module loads no torch.

Work is kept beside the new root, in ``.<name>.mining``, and the root appears whole when all is done: after a kill at
any point the same command goes on, and what it writes is the same.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.mbeir import Benchmark, Query, TaskName, open_benchmark, write_queries
from puma.errors import InputError
from puma.evaluation.counting import SKIPS_LISTED
from puma.evaluation.processes import first_does, is_first
from puma.evaluation.runs import read_run
from puma.evaluation.stored.resumable import Resumable, Work, made_with, opened_store
from puma.items.encoder import BATCH, Encoder
from puma.storage.folders import storage_errors, write_json
from puma.training.mining.choosing import UNKNOWN, Chosen, Rules, choose, choose_above
from puma.training.mining.roots import NOTE, input_digest, link_the_rest, mined_path, work_folder, write_mined
from puma.training.mining.scoring import Pools, Vectors, from_encoder, from_run, right_answers

POOLS = ("local", "global")


def mine(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    encoder: Encoder | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    split: str = "train",
    tasks: Sequence[TaskName] | None = None,
    pool: str = "local",
    rules: Rules | None = None,
    copy: bool = False,
    batch_size: int = BATCH,
    progress: bool = True,
    work: Work | None = None,
) -> dict[str, Any]:
    """Write a benchmark anew, its queries of one split with hard negatives from an encoder or from run files.

    The negatives replace those a query had; all else stays. Left out, for each query: its known positives and those of
    any query of its task with the same content, candidates with the content of one of them (equal text, equal bytes of
    the image), the query itself where its own modality is asked for, and what the rules leave out.

    With ``rules.other_modality`` a query also gets candidates of other modalities that score as high as its best
    positive or higher, from all tasks' pools. They follow its other negatives, and training takes both alike: set
    ``hard_negatives`` to the sum.

    Args:
        root: the benchmark.
        out: the new root; absent or empty. Its pools, qrels, instructions and images are links to ``root``'s folders.
        encoder: scores with the cosine, each query under its task's first instruction.
        run_dir: scores come from ``task<id>_<split>_<pool>.run`` in this folder, as evaluation writes them, instead;
            those of other modalities from ``..._global.run``.
        dataset: a name; None for the folder's only data set or else all of them.
        split: the split whose queries get negatives; of train, M-BEIR's upsampled file gets them too.
        tasks: task ids or labels; all of the split if None. Queries of other tasks stay as they are.
        pool: ``local`` takes a task's own pool; ``global`` the candidates of all tasks' local pools, of any modality
            (training looks its negatives up there).
        rules: how many, and the margin.
        copy: copy everything instead of linking.
        work: another place for the vectors than beside ``out``, and whether an interrupted run's work is gone on with.

    Of several processes, as ``torchrun`` starts them, each embeds its share; the first writes, the others return {}.

    Returns:
        What :data:`NOTE` holds: ``made_with`` and ``tasks``, by id ``queries``, ``full`` (with all the negatives asked
        for), ``none``, ``negatives``, ``alike`` and ``beyond_margin`` (candidates left out), ``unjudged`` (queries
        without a scored positive), ``other_modality`` (negatives of another, where asked for), ``unreadable``;
        ``skipped``, how many queries and candidates could not be embedded, and ``skipped_items``, the first of them
        with the reason.

    Raises:
        InputError: neither or both of ``encoder`` and ``run_dir``, an unknown pool or task, an ``out`` that is in use,
            or work of another run there.
        DataError: the benchmark's files, or a run's, are at fault.
        StorageError: the disk is full or the place cannot be written.
    """
    if (encoder is None) == (run_dir is None):
        raise InputError("mine needs one source of scores: an encoder (--model) or a folder of run files (--run-dir)")
    if pool not in POOLS:
        raise InputError(f"pool={pool!r}: give one of {POOLS}")
    source, target, plan = Path(root).resolve(), Path(out).resolve(), rules or Rules()
    _check_target(source, target, out)
    benchmark = open_benchmark(source, dataset)
    chosen = benchmark.choose(split, tasks)
    names = {task: f"{benchmark.label(task)}_{split}_{pool}.run" for task in chosen}
    runs = {task: Path(run_dir) / name for task, name in names.items()} if run_dir is not None else {}
    wide_runs: dict[TaskName, Path] = {}
    if run_dir is not None and plan.other_modality:
        wide_runs = {task: Path(run_dir) / f"{benchmark.label(task)}_{split}_global.run" for task in chosen}
    note = {
        "format": 2,
        "scores": "run files" if encoder is None else encoder.fingerprint,
        "dataset": benchmark.dataset,
        "split": split,
        "tasks": chosen,
        "pool": pool,
        # Named only where it is asked for: what was mined before it existed stays the same work.
        **{name: value for name, value in asdict(plan).items() if name != "other_modality" or value},
        "copy": copy,
        "read": input_digest(benchmark, split, [*runs.values(), *wide_runs.values()]),
    }
    beside = target.parent / f".{target.name}.mining"
    if target.is_dir() and any(target.iterdir()):
        done = json.loads((target / NOTE).read_text(encoding="utf-8")) if (target / NOTE).is_file() else {}
        if done.get("made_with") != note:
            raise InputError(f"out={os.fspath(out)!r}: exists and is not empty; give another folder or remove it first")
        shutil.rmtree(beside, ignore_errors=True)
        return done
    if encoder is None and not is_first():
        return {}
    chosen_work = work or Work()
    with contextlib.ExitStack() as stack:
        first_does(lambda: stack.enter_context(work_folder(beside, note, chosen_work.resume)))
        pools = Pools(benchmark, split, chosen, pool, all_tasks=plan.other_modality > 0)
        todo = [task for task in chosen if not _note_path(beside, benchmark, task).is_file()]
        vectors: Vectors | None = None
        if encoder is not None:
            settings = made_with(encoder, batch_size, out=str(target), read=note["read"])
            store = stack.enter_context(opened_store(beside / "vectors", "mine", settings, chosen_work))
            embedding = Resumable(encoder, store, batch_size=batch_size, progress=progress)
            vectors = Vectors(embedding, benchmark, split, pools)
            vectors.share(todo)
            if not is_first():
                return {}
        for task in todo:
            read = [read_run(own[task]) for own in (runs, wide_runs) if own]
            queries, table = _task(benchmark, task, split, pools, plan, vectors, read)
            write_queries(mined_path(beside, benchmark, task), queries)
            write_json(
                _note_path(beside, benchmark, task), {"table": table, "skipped": vectors.faults if vectors else {}}
            )
        notes = {task: json.loads(_note_path(beside, benchmark, task).read_text(encoding="utf-8")) for task in chosen}
        write_mined(benchmark, split, chosen, beside)
        result = {"made_with": note, **_summary(notes)}
        link_the_rest(source, beside / "tree", copy)
        write_json(beside / "tree" / NOTE, result)
        with storage_errors(target):
            os.replace(beside / "tree", target)
        if encoder is not None:
            store.remove()
    shutil.rmtree(beside, ignore_errors=True)
    return result


def _check_target(source: Path, target: Path, out: str | os.PathLike[str]) -> None:
    if target == source or source in target.parents or target in source.parents:
        raise InputError(f"out={os.fspath(out)!r}: must lie outside the benchmark's folder, and not hold it")
    if target.exists() and not target.is_dir():
        raise InputError(f"out={os.fspath(out)!r}: is a file; give a folder's path")


def _summary(notes: dict[TaskName, dict[str, Any]]) -> dict[str, Any]:
    """What :data:`NOTE` says beside ``made_with``, from the notes of the tasks."""
    skipped = {name: reason for own in notes.values() for name, reason in own["skipped"].items()}
    return {
        "tasks": {str(task): own["table"] for task, own in notes.items()},
        "skipped": len(skipped),
        "skipped_items": [f"{name}: {reason}" for name, reason in list(skipped.items())[:SKIPS_LISTED]],
    }


def _note_path(work: Path, benchmark: Benchmark, task: TaskName) -> Path:
    """Where a task's figures are kept once its queries are written."""
    return work / "done" / f"{benchmark.label(task)}.json"


def _task(
    benchmark: Benchmark,
    task: TaskName,
    split: str,
    pools: Pools,
    rules: Rules,
    vectors: Vectors | None,
    runs: Sequence[Mapping[str, Mapping[str, float]]],
) -> tuple[list[Query], dict[str, int]]:
    """A task's queries with their negatives, and its figures. ``runs``: of its pool and, where other modalities are
    mined, of all candidates; empty with vectors."""
    queries = benchmark.queries(task, split)
    columns = pools.columns(task)
    known, contents = right_answers(benchmark, task, split, queries)
    place = {pools.dids[column]: number for number, column in enumerate(columns)}
    table = dict.fromkeys(("full", "none", "negatives", "alike", "beyond_margin", "unjudged"), 0)

    def rows(columns: np.ndarray, place: dict[str, int], number: int) -> Iterator[np.ndarray]:
        if vectors is not None:
            return from_encoder(vectors, columns, task)
        return from_run(runs[number], queries, place, len(columns), task)

    order, codes = pools.order[columns], pools.contents[columns]
    query_modality, wanted = benchmark.modalities(task)
    above: Iterator[list[str]] = itertools.repeat([], len(queries))
    if rules.other_modality:
        table["other_modality"] = 0
        everywhere = {did: number for number, did in enumerate(pools.dids)}
        wide = rows(np.arange(len(pools.dids)), everywhere, 1)
        right_places = ([everywhere[did] for did in known[query.qid] if did in everywhere] for query in queries)
        above = _above(wide, right_places, pools, wanted, rules.other_modality)
    mined = []
    for query, row, others in zip(queries, rows(columns, place, 0), above, strict=True):
        right = [place[did] for did in known[query.qid] if did in place]
        # The query itself, found in the pool, is no wrong answer, unless another modality is asked for.
        own = {pools.code_of(contents[query.qid])} if query_modality == wanted else set()
        found = choose(row, order, right, codes, rules, alike=own)
        chosen = [pools.dids[columns[column]] for column in found.columns]
        more = [did for did in others if did not in chosen]  # a global pool may have given them already
        mined.append(replace(query, negatives=(*chosen, *more)))
        _count(table, found, rules)
        if rules.other_modality:
            table["other_modality"] += len(more)
    unreadable = sum(not own for own in contents.values()) + int((codes == UNKNOWN).sum())
    return mined, {"queries": len(queries), **table, "unreadable": unreadable}


def _above(
    rows: Iterator[np.ndarray], right: Iterable[Sequence[int]], pools: Pools, wanted: str, most: int
) -> Iterator[list[str]]:
    """The dids of each query's negatives of other modalities, best first."""
    columns = pools.of_other_modality(wanted)
    order, codes = pools.order[columns], pools.contents[columns]
    for row, places in zip(rows, right, strict=True):
        own = row[list(places)]
        own = own[~np.isnan(own)]
        floor = float(own.max()) if own.size else float("nan")
        yield [pools.dids[columns[column]] for column in choose_above(row[columns], order, floor, codes, most)]


def _count(table: dict[str, int], found: Chosen, rules: Rules) -> None:
    table["full"] += len(found.columns) == rules.negatives
    table["none"] += not found.columns
    table["negatives"] += len(found.columns)
    table["alike"] += found.alike
    table["beyond_margin"] += found.beyond
    table["unjudged"] += not found.judged
