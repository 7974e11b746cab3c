"""A benchmark written anew with mined hard negatives in M-BEIR's ``neg_cand_list``.

Here: :func:`mine`, its work folder (vectors in parts, finished tasks), and the new root. Not here: which candidates
are chosen (:mod:`puma.mining.choosing`), training with them (``puma.data.pairs``). Nothing in this module loads torch.

Work is kept beside the new root, in ``.<name>.mining``, and the root appears whole when all is done: after a kill at
any point the same command goes on, and what it writes is the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from puma.data.mbeir import Benchmark, Query, TaskName, open_benchmark, write_queries
from puma.embedding import BATCH
from puma.errors import InputError
from puma.evaluation.runs import read_run
from puma.folders import storage_errors, write_json
from puma.items import Encoder
from puma.mining.choosing import UNKNOWN, Chosen, Rules, choose
from puma.mining.roots import NOTE, input_digest, link_the_rest, mined_path, work_folder, write_mined
from puma.mining.scoring import Parts, Pools, from_encoder, from_run, right_answers

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
) -> dict[str, Any]:
    """Write a benchmark anew, its queries of one split with hard negatives from an encoder or from run files.

    The negatives replace those a query had; all else stays. Left out, for each query: its known positives and those of
    any query of its task with the same content, candidates with the content of one of them (equal text, equal bytes of
    the picture), the query itself where its own modality is asked for, and what the rules leave out.

    Args:
        root: the benchmark.
        out: the new root; absent or empty. Its pools, qrels, instructions and pictures are links to ``root``'s folders.
        encoder: scores with the cosine, each query under its task's first instruction.
        run_dir: scores come from ``task<id>_<split>_<pool>.run`` in this folder, as evaluation writes them, instead.
        dataset: a name; None for the folder's only data set or else all of them.
        split: the split whose queries get negatives; of train, M-BEIR's upsampled file gets them too.
        tasks: task ids or labels; all of the split if None. Queries of other tasks stay as they are.
        pool: ``local`` takes a task's own pool; ``global`` the candidates of all tasks' local pools, of any modality
            (training looks its negatives up there).
        rules: how many, and the margin.
        copy: copy everything instead of linking.

    Returns:
        What :data:`NOTE` holds: ``made_with`` and ``tasks``, by id ``queries``, ``full`` (with all the negatives asked
        for), ``none``, ``negatives``, ``alike`` and ``beyond_margin`` (candidates left out), ``unjudged`` (queries
        without a scored positive), ``unreadable``.

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
    if target == source or source in target.parents or target in source.parents:
        raise InputError(f"out={os.fspath(out)!r}: must lie outside the benchmark's folder, and not hold it")
    if target.exists() and not target.is_dir():
        raise InputError(f"out={os.fspath(out)!r}: is a file; give a folder's path")
    benchmark = open_benchmark(source, dataset)
    chosen = benchmark.choose(split, tasks)
    names = {task: f"{benchmark.label(task)}_{split}_{pool}.run" for task in chosen}
    runs = {task: Path(run_dir) / name for task, name in names.items()} if run_dir is not None else {}
    note = {
        "format": 1,
        "scores": "run files" if encoder is None else encoder.fingerprint,
        "dataset": benchmark.dataset,
        "split": split,
        "tasks": chosen,
        "pool": pool,
        **asdict(plan),
        "copy": copy,
        "read": input_digest(benchmark, split, list(runs.values())),
    }
    work = target.parent / f".{target.name}.mining"
    if target.is_dir() and any(target.iterdir()):
        done = json.loads((target / NOTE).read_text(encoding="utf-8")) if (target / NOTE).is_file() else {}
        if done.get("made_with") != note:
            raise InputError(f"out={os.fspath(out)!r}: exists and is not empty; give another folder or remove it first")
        shutil.rmtree(work, ignore_errors=True)
        return done
    with work_folder(work, note):
        pools = Pools(benchmark, split, chosen, pool)
        parts = Parts(work / "parts", encoder, batch_size, progress)
        tables: dict[str, dict[str, int]] = {}
        for task in chosen:
            told = work / "done" / f"{benchmark.label(task)}.json"
            if not told.is_file():
                run = read_run(runs[task]) if runs else None
                queries, table = _task(benchmark, task, split, pools, plan, parts, run)
                write_queries(mined_path(work, benchmark, task), queries)
                write_json(told, table)
            tables[str(task)] = json.loads(told.read_text(encoding="utf-8"))
        write_mined(benchmark, split, chosen, work)
        result = {"made_with": note, "tasks": tables}
        link_the_rest(source, work / "tree", copy)
        write_json(work / "tree" / NOTE, result)
        with storage_errors(target):
            os.replace(work / "tree", target)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _task(
    benchmark: Benchmark,
    task: TaskName,
    split: str,
    pools: Pools,
    rules: Rules,
    parts: Parts,
    run: dict[str, dict[str, float]] | None,
) -> tuple[list[Query], dict[str, int]]:
    queries = benchmark.queries(task, split)
    columns = pools.columns(task)
    known, contents = right_answers(benchmark, task, split, queries)
    place = {pools.dids[column]: number for number, column in enumerate(columns)}
    table = dict.fromkeys(("full", "none", "negatives", "alike", "beyond_margin", "unjudged"), 0)
    source = (
        from_run(run, queries, place, len(columns), task)
        if run is not None
        else from_encoder(parts, pools, columns, queries, benchmark, task)
    )
    order, codes = pools.order[columns], pools.contents[columns]
    asked, wanted = benchmark.modalities(task)
    mined = []
    for query, row in zip(queries, source, strict=True):
        right = [place[did] for did in known[query.qid] if did in place]
        # The query itself, found in the pool, is no wrong answer, unless another modality is asked for.
        own = {pools.code_of(contents[query.qid])} if asked == wanted else set()
        found = choose(row, order, right, codes, rules, alike=own)
        mined.append(replace(query, negatives=tuple(pools.dids[columns[column]] for column in found.columns)))
        _count(table, found, rules)
    unreadable = sum(not own for own in contents.values()) + int((codes == UNKNOWN).sum())
    return mined, {"queries": len(queries), **table, "unreadable": unreadable}


def _count(table: dict[str, int], found: Chosen, rules: Rules) -> None:
    table["full"] += len(found.columns) == rules.negatives
    table["none"] += not found.columns
    table["negatives"] += len(found.columns)
    table["alike"] += found.alike
    table["beyond_margin"] += found.beyond
    table["unjudged"] += not found.judged
