"""A benchmark in M-BEIR's layout: which files of a folder make it up, and what is in them. Loads no torch.

The layout, under one root (image paths are relative to it)::

    query/<split>/mbeir_<dataset>_task<id>_<split>.jsonl   or without _task<id>, as M-BEIR's train files
    query/union_train/mbeir_union_up_train.jsonl           M-BEIR's train queries, small data sets upsampled
    cand_pool/local/mbeir_<dataset>_task<id>_<split>_cand_pool.jsonl   or without _<split>, as most of M-BEIR's
    cand_pool/global/mbeir_union_<split>_cand_pool.jsonl   also the candidates of a split without local pools
    qrels/<split>/mbeir_<dataset>_task<id>_<split>_qrels.txt           five columns: qid 0 did grade task
    instructions/query_instructions.tsv   a header; query modality, candidate modality, data set's name, number, prompts
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from puma.data.layout import (
    ORDER,
    UNION_TRAIN,
    folder_fault,
    global_pool_path,
    instructions_path,
    label_of,
    mixed_qrels_path,
    mixed_query_path,
    pool_path,
    qrels_path,
    query_path,
    shared_pool_path,
)
from puma.data.lines import MAX_FAULTS, Faults
from puma.data.plan import dataset_number, query_files
from puma.data.records import (
    TASK_MODALITIES,
    TASKS,
    Candidate,
    Query,
    iterate_queries,
    read_instructions,
    read_pool,
    read_qrels,
    read_queries,
)
from puma.data.writing import write_instructions, write_pool, write_qrels, write_queries
from puma.errors import DataError, InputError
from puma.items.skips import Skip

__all__ = [
    "ALL",
    "MAX_FAULTS",
    "TASKS",
    "TASK_MODALITIES",
    "Benchmark",
    "Candidate",
    "Query",
    "check",
    "global_pool_path",
    "instructions_path",
    "open_benchmark",
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

ALL = "all"
"""In place of a data set's name: every data set of the folder, whose tasks then go by their labels."""
TaskName = int | str
"""A task id (0 to 8) in a benchmark of one data set, a label ("visualnews_task0") in one of several."""

_LABEL = re.compile(r"(?P<dataset>\w+)_task(?P<task>\d+)")


class Benchmark:
    """One data set of a folder in M-BEIR's layout, or all of them.

    Args:
        root: the folder that holds ``query``, ``cand_pool``, ``qrels`` and ``instructions``.
        dataset: the data set's name as in the file names ("openpics", "visualnews"), or :data:`ALL`. May be left out
            where the folder holds one only.

    Of one data set the tasks are ids, 0 to 8; of :data:`ALL` they are labels such as "visualnews_task0", M-BEIR's in
    the paper's order. Every method takes what :meth:`tasks` gives.

    ``skips`` may be set to a list: then faulty lines of queries, pools and instructions are left out and added to it,
    where they would raise otherwise.

    Raises:
        DataError: no such folder, no query files in it, or several data sets and none chosen.
    """

    def __init__(self, root: str | os.PathLike[str], dataset: str | None = None) -> None:
        self.root = Path(root)
        self.skips: list[Skip] | None = None
        if fault := folder_fault(self.root):
            raise DataError(fault)
        found = query_files(self.root)
        if not found:
            raise DataError(f"{self.root}: no query files named query/<split>/mbeir_<dataset>_task<id>_<split>.jsonl")
        if dataset is None and len(found) > 1:
            raise DataError(f"{self.root} has data sets {', '.join(sorted(found))}: choose one by dataset= (--dataset)")
        if dataset not in (None, ALL, *found):
            raise DataError(f"{self.root} holds no data set {dataset!r}; it has {', '.join(sorted(found))}")
        self.dataset = dataset if dataset is not None else next(iter(found))
        self.datasets = sorted(found) if self.dataset == ALL else [self.dataset]
        self._tasks: dict[str, list[TaskName]] = {}
        for split in sorted({split for name in self.datasets for split in found[name]}):
            pairs = [(name, task) for name in self.datasets for task in sorted(found[name].get(split, ()))]
            if self.dataset == ALL:
                ranked = sorted((ORDER.get(label_of(*pair), len(ORDER)), label_of(*pair)) for pair in pairs)
                self._tasks[split] = [label for _, label in ranked]
            else:
                self._tasks[split] = [task for _, task in pairs]
        self._prompts: dict[tuple[int, str, str], list[str]] | None = None
        self._union: tuple[str, list[Candidate]] | None = None
        self._mixed: tuple[Path, list[Query]] | None = None

    def __repr__(self) -> str:
        return f"Benchmark({str(self.root)!r}, dataset={self.dataset!r})"

    def splits(self) -> list[str]:
        """The splits that have query files."""
        return sorted(self._tasks)

    def tasks(self, split: str) -> list[TaskName]:
        """The tasks that have queries in this split: ids, rising, or labels."""
        return list(self._tasks.get(split, []))

    def choose(self, split: str, names: Iterable[TaskName] | None = None) -> list[TaskName]:
        """The tasks of a split that the names mean: a task id (of every data set), a label, or a data set; all if None.

        Raises:
            DataError: the split has no task.
            InputError: a name means none of the split's tasks, or no name is given.
        """
        known = self.tasks(split)
        if not known:
            raise DataError(f"the benchmark has no task in split {split!r}; it has the splits {self.splits()}")
        if names is None:
            return known
        wanted = [str(name) for name in names]
        meant = [[task for task in known if name in self._names(task)] for name in wanted]
        if not wanted or not all(meant):
            raise InputError(f"tasks must be some of {known} (split {split}), got {wanted}")
        return list(dict.fromkeys(task for tasks in meant for task in tasks))

    def split_name(self, task: TaskName) -> tuple[str, int]:
        """A task's data set and id.

        Raises:
            InputError: the task is no id or label of this benchmark.
        """
        label = _LABEL.fullmatch(task) if isinstance(task, str) else None
        if label and label["dataset"] in self.datasets:
            return label["dataset"], int(label["task"])
        if self.dataset == ALL or isinstance(task, str):
            raise InputError(f"task must be one such as {self._example()!r}, got {task!r}")
        return self.dataset, task

    def label(self, task: TaskName) -> str:
        """A task's name for a file: "task0" in a benchmark of one data set, "visualnews_task0" in one of several."""
        dataset, number = self.split_name(task)
        return label_of(dataset, number) if self.dataset == ALL else f"task{number}"

    def modalities(self, task: TaskName) -> tuple[str, str]:
        """What a task's queries are, and what it wants found."""
        number = self.split_name(task)[1]
        if number not in TASK_MODALITIES:
            raise DataError(f"task must be one of {sorted(TASK_MODALITIES)}, got {number!r}")
        return TASK_MODALITIES[number]

    def queries(self, task: TaskName, split: str) -> list[Query]:
        """The queries of one task. Raises DataError."""
        dataset, number = self.split_name(task)
        path = query_path(self.root, dataset, number, split)
        mixed = mixed_query_path(self.root, dataset, split)
        if path.is_file() or not mixed.is_file():
            return read_queries(self._existing(path), skips=self.skips)
        if self._mixed is None or self._mixed[0] != mixed:
            self._mixed = (mixed, read_queries(mixed, skips=self.skips))
        return [query for query in self._mixed[1] if query.task_id == number]

    def union_train(self) -> Iterator[Query]:
        """M-BEIR's upsampled train queries, one at a time in the file's order: the same query may come several times.

        Raises:
            DataError: there is no such file, or (at its end) it has faults.
        """
        faults = Faults(self.root / UNION_TRAIN, "the upsampled train queries")
        for _, query in iterate_queries(self.root / UNION_TRAIN, faults):
            yield query
        faults.check()

    def pool(self, task: TaskName, split: str) -> list[Candidate]:
        """The local candidate pool of one task; of a split without any (M-BEIR's train), the candidates of the union
        that are of the modality the task wants. Raises DataError."""
        dataset, number = self.split_name(task)
        path = pool_path(self.root, dataset, number, split)
        shared = shared_pool_path(self.root, dataset, number)
        if path.is_file():
            return read_pool(path, skips=self.skips)
        if (
            split == "train"
            and global_pool_path(self.root, split).is_file()
            and not query_path(self.root, dataset, number, split).is_file()
        ):
            if self._union is None or self._union[0] != split:
                self._union = (split, self.global_pool(split))
            wanted = self.modalities(task)[1]
            return [candidate for candidate in self._union[1] if candidate.modality == wanted]
        return read_pool(shared if shared.is_file() else self._existing(path), skips=self.skips)

    def global_pool(self, split: str) -> list[Candidate]:
        """The union of the candidates of all tasks. Raises DataError; a did that occurs twice is refused."""
        return read_pool(self._existing(global_pool_path(self.root, split)), skips=self.skips)

    def qrels(self, task: TaskName, split: str) -> dict[str, dict[str, int]]:
        """Relevance judgements {qid: {did: grade}}; where there is no file of them (train), the positives, grade 1."""
        dataset, number = self.split_name(task)
        path = qrels_path(self.root, dataset, number, split)
        mixed = mixed_qrels_path(self.root, dataset, split)
        if path.is_file() or (split == "test" and not mixed.is_file()):
            return read_qrels(self._existing(path))
        if mixed.is_file():
            return read_qrels(mixed, number)
        return {query.qid: dict.fromkeys(query.positives, 1) for query in self.queries(task, split)}

    def instructions(self, task: TaskName) -> list[str]:
        """The prompts of a task, in the file's order. Raises DataError if the file has none for it."""
        query_modality, wanted = self.modalities(task)
        if self._prompts is None:
            self._prompts = read_instructions(self._existing(instructions_path(self.root)), skips=self.skips)
        dataset = self.split_name(task)[0]
        number = dataset_number(self.root, dataset)
        found = self._prompts.get((number, query_modality, wanted))
        if not found:
            file, kind = instructions_path(self.root), f"{query_modality} to {wanted}"
            raise DataError(f"{file}: no prompts for data set {number} ({dataset}), {kind}")
        return list(found)

    def instruction(self, task: TaskName) -> str:
        """The first prompt of a task: evaluation always uses this one."""
        return self.instructions(task)[0]

    def _names(self, task: TaskName) -> set[str]:
        dataset, number = self.split_name(task)
        own = {str(task), str(number)}
        return own | {dataset, label_of(dataset, number)}

    def _example(self) -> TaskName:
        return next((task for tasks in self._tasks.values() for task in tasks), "visualnews_task0")

    def _existing(self, path: Path) -> Path:
        if not path.is_file():
            raise DataError(f"{path}: no such file; {self.dataset} has the tasks {self._tasks}")
        return path


def open_benchmark(root: str | os.PathLike[str], dataset: str | None = None) -> Benchmark:
    """A folder's benchmark as it is meant to be evaluated: the data set asked for, else the only one, else all of them.

    Raises:
        DataError: as :class:`Benchmark`.
    """
    if dataset is None and Path(root).is_dir() and len(query_files(Path(root))) > 1:
        return Benchmark(root, ALL)
    return Benchmark(root, dataset)


def check(root: str | os.PathLike[str], dataset: str | None = None) -> None:
    """Check a whole benchmark against itself: unique ids, positives in the pools, images that exist.

    Args:
        dataset: refused if the folder does not hold it; the whole folder is checked.

    Raises:
        DataError: all faults found, up to :data:`MAX_FAULTS`. :func:`puma.data.validation.examine` tells more.
    """
    from puma.data.validation import examine  # it reads benchmarks by this module's neighbours, and is seldom wanted

    Benchmark(root, dataset or ALL)
    found = examine(root, images=0)
    if found.total:
        shown = "\n".join(f"  {fault}" for fault in sorted(found.faults)[:MAX_FAULTS])
        raise DataError(f"{os.fspath(root)}: {found.total} faults:\n{shown}")
