"""The folders of a mining run: its work folder, the query files it writes, and links to all that stays.

Loads no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from puma.data.layout import UNION_TRAIN, mixed_qrels_path, mixed_query_path
from puma.data.mbeir import (
    Benchmark,
    Query,
    TaskName,
    global_pool_path,
    instructions_path,
    qrels_path,
    query_path,
    read_queries,
    write_queries,
)
from puma.errors import InputError
from puma.storage.folders import storage_errors, write_json

NOTE = "mining.json"
"""The file in the new root that says how its negatives were mined."""


def mined_path(work: Path, benchmark: Benchmark, task: TaskName) -> Path:
    return work / "mined" / f"{benchmark.label(task)}.jsonl"


def write_mined(benchmark: Benchmark, split: str, tasks: Sequence[TaskName], work: Path) -> None:
    """The query files that hold mined queries: a task's own, or one of a whole data set, as M-BEIR's train files."""
    root, tree = benchmark.root, work / "tree"
    mixed: dict[Path, Path] = {}
    every: dict[str, Query] = {}
    union = root / UNION_TRAIN if split == "train" and (root / UNION_TRAIN).is_file() else None
    for task in tasks:
        dataset, number = benchmark.split_name(task)
        own = query_path(root, dataset, number, split)
        queries = read_queries(mined_path(work, benchmark, task))
        if own.is_file():
            write_queries(tree / own.relative_to(root), queries)
        else:
            path = mixed_query_path(root, dataset, split)
            mixed[path] = tree / path.relative_to(root)
        if union or not own.is_file():
            every.update({query.qid: query for query in queries})
    for path, target in mixed.items():
        write_queries(target, (every.get(query.qid, query) for query in read_queries(path)))
    if union:
        write_queries(tree / UNION_TRAIN, (_with_negatives(query, every) for query in benchmark.union_train()))


def _with_negatives(query: Query, mined: dict[str, Query]) -> Query:
    return replace(query, negatives=mined[query.qid].negatives) if query.qid in mined else query


def input_digest(benchmark: Benchmark, split: str, more: Sequence[Path]) -> str:
    """Of all that is read of the benchmark but the images: work on other files is not gone on with."""
    digest, root = hashlib.sha256(), benchmark.root
    paths = [instructions_path(root), root / UNION_TRAIN, global_pool_path(root, split), *more]
    for task in benchmark.tasks(split):
        dataset, number = benchmark.split_name(task)
        paths += [query_path(root, dataset, number, split), qrels_path(root, dataset, number, split)]
    for dataset in benchmark.datasets:
        paths += [mixed_query_path(root, dataset, split), mixed_qrels_path(root, dataset, split)]
        paths += sorted((root / "cand_pool" / "local").glob(f"mbeir_{dataset}_*"))
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        if path.is_file():
            with open(path, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def work_folder(work: Path, note: dict[str, Any], resume: bool = True) -> Iterator[None]:
    """The folder of one run's unfinished work, locked; what another run left is thrown away unless ``resume``.

    Raises:
        InputError: another run is at work there, or left work of other settings.
    """
    with storage_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{work}: another mining run is at work there; give another --out") from None
        try:
            for entry in work.iterdir() if not resume else ():
                if entry.name != "lock":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            path = work / "settings.json"
            if path.is_file():
                found = json.loads(path.read_text(encoding="utf-8"))
                other = sorted(name for name in {*found, *note} if found.get(name) != note.get(name))
                if other:
                    raise InputError(
                        f"{work}: holds the unfinished work of another run ({', '.join(other)} differ); "
                        "give another --out, or start anew with --no-resume"
                    )
            write_json(path, note)
            yield
        finally:
            lock.release()


def link_the_rest(source: Path, tree: Path, copy: bool) -> None:
    """Everything of ``source`` that ``tree`` lacks: folders as links where there can be any, files copied."""
    for entry in sorted(source.iterdir()):
        if entry.name == NOTE or (entry.name.startswith(".") and entry.name.endswith(".mining")):
            continue
        if entry.name != "query":
            _link(entry.resolve(), tree / entry.name, copy)
            continue
        for path in sorted(path for path in entry.rglob("*") if path.is_file()):
            _link(path.resolve(), tree / "query" / path.relative_to(entry), copy)


def _link(entry: Path, target: Path, copy: bool) -> None:
    with storage_errors(target):
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.is_dir() and not copy:
            with contextlib.suppress(OSError):  # a file system without links
                os.symlink(entry, target)
                return
        work = target.with_name(f".{target.name}.part")  # whole or absent: a killed copy must not pass for one
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(entry, work) if entry.is_dir() else shutil.copy2(entry, work)
        os.replace(work, target)
