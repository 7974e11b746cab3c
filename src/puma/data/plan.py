"""Files that a benchmark's folder should hold: M-BEIR's as published, or those that its own query files call for.

Loads no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from puma.data.layout import (
    DATASETS,
    TASKS_IN_ORDER,
    PublishedTask,
    mixed_qrels_path,
    mixed_query_path,
    pool_path,
    published_pool_path,
    qrels_path,
    query_path,
    shared_pool_path,
)
from puma.errors import DataError

QUERY_FILE = re.compile(r"mbeir_(?P<dataset>\w+)_task(?P<task>\d+)_(?P<split>[a-z]+)\.jsonl")
MIXED_FILE = re.compile(r"mbeir_(?P<dataset>\w+)_(?P<split>[a-z]+)\.jsonl")
_QID = re.compile(r'"qid"\s*:\s*"(\d+):')
_KNOWN = {
    "query": re.compile(r"mbeir_\w+_(train|val|test)\.jsonl"),
    "cand_pool": re.compile(r"mbeir_\w+_cand_pool\.jsonl"),
    "qrels": re.compile(r"mbeir_\w+_(train|val|test)_qrels\.txt"),
}


@dataclass(frozen=True)
class Part:
    """Files that belong together: queries, their local pool (None: there is none), their judgements.

    Args:
        task: the task id; None where the queries are of several.
        known: the published task, if it is one.
    """

    queries: Path
    pool: Path | None
    qrels: Path | None
    task: int | None
    known: PublishedTask | None = None
    is_test: bool = False


def query_files(root: Path) -> dict[str, dict[str, set[int]]]:
    """Task ids by data set and split, of the query files there are. Files that hold a whole data set and name no task
    count as holding the tasks that M-BEIR's data set of this name has, or its other splits: reading one only to list
    its tasks would take minutes."""
    found: dict[str, dict[str, set[int]]] = {}
    mixed: list[tuple[str, str]] = []
    for path in sorted((root / "query").glob("*/mbeir_*.jsonl")):
        match = QUERY_FILE.fullmatch(path.name)
        whole = MIXED_FILE.fullmatch(path.name)
        if match and match["split"] == path.parent.name:
            found.setdefault(match["dataset"], {}).setdefault(match["split"], set()).add(int(match["task"]))
        elif whole and whole["split"] == path.parent.name:
            mixed.append((whole["dataset"], whole["split"]))
    for name, split in mixed:
        known = {task for tasks in found.get(name, {}).values() for task in tasks}
        known |= {task.task for task in TASKS_IN_ORDER if task.dataset == name}
        if known and split not in found.get(name, {}):
            found.setdefault(name, {})[split] = known
    return found


def dataset_number(root: Path, dataset: str) -> int:
    """A data set's number: what stands before the colon in its query ids.

    Raises:
        DataError: it has no queries.
    """
    for path in sorted((root / "query").glob(f"*/mbeir_{dataset}_*.jsonl")):
        match = QUERY_FILE.fullmatch(path.name) or MIXED_FILE.fullmatch(path.name)
        if not match or match["dataset"] != dataset:
            continue
        with open(path, encoding="utf-8", errors="replace") as stream:
            first = next(filter(None, map(_QID.search, stream)), None)  # the first line may be a broken one
        if first:
            return int(first[1])
    raise DataError(f"{root}: {dataset} has no queries, so its number is unknown")


def is_published(root: Path) -> bool:
    """Whether the folder holds any of M-BEIR's own data sets, so that all its published files are expected."""
    return any(name in DATASETS for name in query_files(root)) or not query_files(root)


def planned(root: Path, split: str, published: bool) -> list[Part]:
    """The parts of a split, in the paper's order and then by name."""
    found = query_files(root)
    parts = _published(root, split) if published else []
    for dataset in sorted(found):
        if published and dataset in DATASETS:
            continue
        for task in sorted(found[dataset].get(split, ())):
            own, shared = pool_path(root, dataset, task, split), shared_pool_path(root, dataset, task)
            qrels = qrels_path(root, dataset, task, split)
            parts.append(
                Part(
                    query_path(root, dataset, task, split),
                    shared if shared.is_file() and not own.is_file() else own,
                    qrels if split == "test" or qrels.is_file() else None,
                    task,
                    is_test=split == "test",
                )
            )
    return parts


def _published(root: Path, split: str) -> list[Part]:
    if split == "train":
        return [
            Part(mixed_query_path(root, name, split), None, mixed_qrels_path(root, name, split), None)
            for name in DATASETS
        ]
    return [
        Part(
            query_path(root, task.dataset, task.task, split),
            published_pool_path(root, task, split),
            qrels_path(root, task.dataset, task.task, split),
            task.task,
            task,
            split == "test",
        )
        for task in TASKS_IN_ORDER
    ]


def strangers(root: Path) -> list[str]:
    """Notes on files whose names the layout does not know, as mistyped ones."""
    notes = []
    for folder, pattern in _KNOWN.items():
        for path in sorted((root / folder).glob("*/*")):
            if path.is_file() and not path.name.startswith(".") and not pattern.fullmatch(path.name):
                notes.append(f"{path.relative_to(root).as_posix()}: not a name of this layout; it is not read")
    return notes
