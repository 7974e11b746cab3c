"""A benchmark in M-BEIR's layout: which files it has, and what is in them.

Here: :class:`Benchmark`, and by name all of :mod:`puma.data.records` and :mod:`puma.data.writing` (single files).
Not here: downloading, training examples (:mod:`puma.data.pairs`), scoring (:mod:`puma.evaluation`). Loads no torch.

The layout, under one root (image paths are relative to it)::

    query/<split>/mbeir_<dataset>_task<id>_<split>.jsonl
    cand_pool/local/mbeir_<dataset>_task<id>_<split>_cand_pool.jsonl   or without _<split>, as most of M-BEIR's
    cand_pool/global/mbeir_union_<split>_cand_pool.jsonl
    qrels/<split>/mbeir_<dataset>_task<id>_<split>_qrels.txt           five columns: qid 0 did grade task
    instructions/query_instructions.tsv   a header; query modality, candidate modality, data set's name, number, prompts
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from puma.data.records import (
    MAX_FAULTS,
    TASK_MODALITIES,
    TASKS,
    Candidate,
    Query,
    read_instructions,
    read_pool,
    read_qrels,
    read_queries,
)
from puma.data.writing import write_instructions, write_pool, write_qrels, write_queries
from puma.errors import DataError

__all__ = [
    "MAX_FAULTS",
    "TASKS",
    "TASK_MODALITIES",
    "Benchmark",
    "Candidate",
    "Query",
    "check",
    "global_pool_path",
    "instructions_path",
    "pool_path",
    "qrels_path",
    "query_path",
    "read_instructions",
    "read_pool",
    "read_qrels",
    "read_queries",
    "write_instructions",
    "write_pool",
    "write_qrels",
    "write_queries",
]

_QUERY_FILE = re.compile(r"mbeir_(?P<dataset>\w+)_task(?P<task>\d+)_(?P<split>[a-z]+)\.jsonl")


def query_path(root: str | os.PathLike[str], dataset: str, task: int, split: str) -> Path:
    """Where the queries of one task are."""
    return Path(root) / "query" / split / f"mbeir_{dataset}_task{task}_{split}.jsonl"


def pool_path(root: str | os.PathLike[str], dataset: str, task: int, split: str) -> Path:
    """Where the local candidate pool of one task is written."""
    return Path(root) / "cand_pool" / "local" / f"mbeir_{dataset}_task{task}_{split}_cand_pool.jsonl"


def global_pool_path(root: str | os.PathLike[str], split: str) -> Path:
    """Where the union of all candidates of a split is."""
    return Path(root) / "cand_pool" / "global" / f"mbeir_union_{split}_cand_pool.jsonl"


def qrels_path(root: str | os.PathLike[str], dataset: str, task: int, split: str) -> Path:
    """Where the relevance judgements of one task are."""
    return Path(root) / "qrels" / split / f"mbeir_{dataset}_task{task}_{split}_qrels.txt"


def instructions_path(root: str | os.PathLike[str]) -> Path:
    """Where the query instructions of all tasks are."""
    return Path(root) / "instructions" / "query_instructions.tsv"


class Benchmark:
    """One data set of a folder in M-BEIR's layout.

    Args:
        root: the folder that holds ``query``, ``cand_pool``, ``qrels`` and ``instructions``.
        dataset: the data set's name as in the file names ("openpics", "visualnews"). May be left out where the folder
            holds one only.

    Raises:
        DataError: no such folder, no query files in it, or several data sets and none chosen.
    """

    def __init__(self, root: str | os.PathLike[str], dataset: str | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; expected a benchmark in M-BEIR's layout")
        found: dict[str, dict[str, list[int]]] = {}
        for path in sorted((self.root / "query").glob("*/mbeir_*_task*_*.jsonl")):
            match = _QUERY_FILE.fullmatch(path.name)
            if match and match["split"] == path.parent.name:
                found.setdefault(match["dataset"], {}).setdefault(match["split"], []).append(int(match["task"]))
        if not found:
            raise DataError(f"{self.root}: no query files named query/<split>/mbeir_<dataset>_task<id>_<split>.jsonl")
        if dataset is None and len(found) > 1:
            raise DataError(f"{self.root} holds several data sets ({', '.join(sorted(found))}): choose one by dataset=")
        if dataset is not None and dataset not in found:
            raise DataError(f"{self.root} holds no data set {dataset!r}; it has {', '.join(sorted(found))}")
        self.dataset = dataset if dataset is not None else next(iter(found))
        self._tasks = {split: sorted(tasks) for split, tasks in found[self.dataset].items()}
        self._prompts: dict[tuple[int, str, str], list[str]] | None = None

    def __repr__(self) -> str:
        return f"Benchmark({str(self.root)!r}, dataset={self.dataset!r})"

    def splits(self) -> list[str]:
        """The splits that have query files."""
        return sorted(self._tasks)

    def tasks(self, split: str) -> list[int]:
        """The ids of the tasks that have queries in this split, rising."""
        return list(self._tasks.get(split, []))

    def queries(self, task: int, split: str) -> list[Query]:
        """The queries of one task. Raises DataError."""
        return read_queries(self._existing(query_path(self.root, self.dataset, task, split)))

    def pool(self, task: int, split: str) -> list[Candidate]:
        """The local candidate pool of one task. Raises DataError."""
        path = pool_path(self.root, self.dataset, task, split)
        shared = path.with_name(path.name.replace(f"_{split}_cand_pool", "_cand_pool"))
        return read_pool(shared if shared.is_file() and not path.is_file() else self._existing(path))

    def global_pool(self, split: str) -> list[Candidate]:
        """The union of the candidates of all tasks. Raises DataError; a did that occurs twice is refused."""
        return read_pool(self._existing(global_pool_path(self.root, split)))

    def qrels(self, task: int, split: str) -> dict[str, dict[str, int]]:
        """Relevance judgements {qid: {did: grade}}; where there is no file of them (train), the positives, grade 1."""
        path = qrels_path(self.root, self.dataset, task, split)
        if path.is_file() or split == "test":
            return read_qrels(self._existing(path))
        return {query.qid: dict.fromkeys(query.positives, 1) for query in self.queries(task, split)}

    def instructions(self, task: int) -> list[str]:
        """All prompts of a task, the one to evaluate with first.

        Raises:
            DataError: the file has none for this data set and task.
        """
        if self._prompts is None:
            self._prompts = read_instructions(self._existing(instructions_path(self.root)))
        if task not in TASK_MODALITIES:
            raise DataError(f"task must be one of {sorted(TASK_MODALITIES)}, got {task!r}")
        number = self._number()
        found = [p for key, p in self._prompts.items() if key == (number, *TASK_MODALITIES[task])]
        if not found:
            raise DataError(
                f"{instructions_path(self.root)}: no prompts for data set {number} ({self.dataset}), "
                f"{' to '.join(TASK_MODALITIES[task])}"
            )
        return list(found[0])

    def instruction(self, task: int) -> str:
        """The first prompt of a task: evaluation always uses this one."""
        return self.instructions(task)[0]

    def _number(self) -> int:
        """The data set's number: what stands before the colon in its query ids."""
        for split, tasks in self._tasks.items():
            for other in tasks:
                with open(query_path(self.root, self.dataset, other, split), encoding="utf-8") as stream:
                    match = re.search(r'"qid"\s*:\s*"(\d+):', stream.readline())
                if match:
                    return int(match[1])
        raise DataError(f"{self.root}: {self.dataset} has no queries, so its number is unknown")

    def _existing(self, path: Path) -> Path:
        if not path.is_file():
            raise DataError(f"{path}: no such file; {self.dataset} has the tasks {self._tasks}")
        return path


def check(root: str | os.PathLike[str], dataset: str | None = None) -> None:
    """Check a whole benchmark against itself: unique ids, positives in the pools, pictures that exist.

    Raises:
        DataError: all faults found, up to :data:`MAX_FAULTS`.
    """
    benchmark = Benchmark(root, dataset)
    faults: list[str] = []
    exists: dict[str, bool] = {}

    def missing(path: str | None) -> bool:
        return path is not None and not exists.setdefault(path, (benchmark.root / path).is_file())

    for split in benchmark.splits():
        union = (
            {candidate.did: candidate for candidate in benchmark.global_pool(split)}
            if _has_global(benchmark.root, split)
            else None
        )
        for task in benchmark.tasks(split):
            name = f"{benchmark.dataset} task {task} {split}"
            pool = {candidate.did: candidate for candidate in benchmark.pool(task, split)}
            faults += [
                f"{name}: {c.did} shows {c.image_path}, which is missing"
                for c in pool.values()
                if missing(c.image_path)
            ]
            if union is not None:
                faults += [
                    f"{name}: {did} is not the same candidate in the global pool"
                    for did, candidate in pool.items()
                    if union.get(did) != candidate
                ]
            queries = {query.qid: query for query in benchmark.queries(task, split)}
            for query in queries.values():
                faults += [
                    f"{name}: {query.qid} names {did}, not in the pool" for did in query.positives if did not in pool
                ]
                if missing(query.image_path):
                    faults.append(f"{name}: {query.qid} shows {query.image_path}, which is missing")
            judged = benchmark.qrels(task, split)
            for qid, dids in judged.items():
                if qid not in queries:
                    faults.append(f"{name}: the qrels judge {qid}, which is no query")
                elif {did for did, grade in dids.items() if grade > 0} != set(queries[qid].positives):
                    faults.append(f"{name}: the qrels and the positives of {qid} differ")
            faults += [
                f"{name}: {qid} has no positive"
                for qid in queries
                if not any(g > 0 for g in judged.get(qid, {}).values())
            ]
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:MAX_FAULTS])
        raise DataError(f"{benchmark.root}: {len(faults)} faults:\n{shown}")


def _has_global(root: Path, split: str) -> bool:
    return global_pool_path(root, split).is_file()
