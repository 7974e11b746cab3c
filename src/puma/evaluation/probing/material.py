"""A probe's data: evaluation queries and their pools, and train pairs to fit on, drawn from M-BEIR's layout so that
nothing evaluated is fitted on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from puma.data.mbeir import Benchmark, Candidate, Query
from puma.errors import DataError, InputError
from puma.items.item import Item

MIN_PAIRS = 10
"""Fewer train pairs than this choose no ridge strength."""
TRAIN = "train"

Content = tuple[str | None, str | None]


@dataclass(frozen=True)
class ProbeItem:
    """An item as it is put to the model; ``where`` is its id in the data, for messages."""

    item: Item
    instruction: str | None
    where: str


@dataclass(frozen=True)
class Task:
    """One task; all numbers but ``positives`` are places in :attr:`Material.items`.

    Args:
        task: M-BEIR's id.
        queries, pool: places [q], [p].
        positives: per query the columns of ``pool`` that are right.
        pairs: places of (query, candidate) [m, 2] of the train split; no query and no candidate occurs twice.
    """

    task: int
    queries: list[int]
    pool: list[int]
    positives: list[list[int]]
    pairs: np.ndarray


@dataclass
class Material:
    """All items, each once, and the tasks over them. ``evaluated`` of the items are not train pairs; they come
    first."""

    dataset: str
    split: str
    items: list[ProbeItem] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    evaluated: int = 0
    _place: dict[tuple[str | None, str | None, str | None], int] = field(default_factory=dict)

    def place(self, row: Query | Candidate, root: Path, instruction: str | None = None) -> int:
        """The row's place in ``items``, made if it is new."""
        key = (*_content(row), instruction)
        if key not in self._place:
            self._place[key] = len(self.items)
            self.items.append(ProbeItem(row.item(root), instruction, row.qid if isinstance(row, Query) else row.did))
        return self._place[key]


def gather(
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "val",
    tasks: Iterable[int | str] | None = None,
    queries: int = 200,
    pairs: int = 300,
    pool: int | None = None,
    seed: int = 0,
) -> Material:
    """Draw a probe's material.

    Queries take their task's first instruction, in train too. Train pairs are drawn so that no text or image occurs
    in two of them and no query of them is evaluated, in any task.

    Args:
        root: a benchmark in M-BEIR's layout.
        dataset: which data set of the folder, if it holds several.
        split: what is evaluated; not ``train``, which the ridge maps are fitted on, unless ``pairs`` is 0.
        tasks: task ids; all of the split if None.
        queries: of each task, at most.
        pairs: train pairs of each task, at most; 0 for zero-shot only.
        pool: candidates of each task, at most: the drawn queries' positives and others at random. None keeps all.
        seed: of the draws.

    Raises:
        InputError: a number out of range, a task that is not there, or too few train pairs.
        DataError: the files are at fault.
    """
    for name, value, least in (("queries", queries, 1), ("pairs", pairs, 0), ("pool", pool, 2)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise InputError(f"{name}={value!r}: give a whole number of at least {least}")
    if 0 < pairs < MIN_PAIRS:
        raise InputError(f"pairs={pairs}: the ridge needs at least {MIN_PAIRS} a task; 0 leaves it out")
    if split == TRAIN and pairs:
        raise InputError(f"split={split!r} is what the ridge maps are fitted on: give val or test, or pairs=0")
    benchmark = Benchmark(root, dataset)
    chosen = _chosen(benchmark, split, tasks)
    _refuse_untrained(benchmark, chosen, pairs)
    material = Material(benchmark.dataset, split)
    drawn: list[tuple[int, list[int], list[int], list[list[int]]]] = []
    evaluated: set[Content] = set()
    for task in chosen:
        random = np.random.default_rng([seed, task, 0])
        drawn_queries, found, positives = _evaluation(benchmark, split, task, queries, pool, random)
        evaluated |= {_content(query) for query in drawn_queries}
        instruction = benchmark.instruction(task)
        places = [material.place(query, benchmark.root, instruction) for query in drawn_queries]
        drawn.append((task, places, [material.place(one, benchmark.root) for one in found], positives))
    material.evaluated = len(material.items)
    for task, places, pooled, positives in drawn:
        fitted = np.zeros((0, 2), np.int64)
        if pairs:
            random = np.random.default_rng([seed, task, 1])
            fitted = _pairs(benchmark, task, pairs, evaluated, random, material)
        material.tasks.append(Task(task, places, pooled, positives, fitted))
    return material


def _evaluation(
    benchmark: Benchmark, split: str, task: int, limit: int, size: int | None, random: np.random.Generator
) -> tuple[list[Query], list[Candidate], list[list[int]]]:
    """The drawn queries in the files' order, the pool, and per query the right columns of it."""
    right = {qid: {did for did, grade in row.items() if grade > 0} for qid, row in benchmark.qrels(task, split).items()}
    queries = [query for query in benchmark.queries(task, split) if right.get(query.qid)]
    if not queries:
        raise DataError(f"{benchmark.root}: no query of task {task}, split {split}, has a positive in its qrels")
    queries = [queries[i] for i in sorted(random.permutation(len(queries))[:limit].tolist())]
    pool = benchmark.pool(task, split)
    if not pool:
        raise DataError(f"{benchmark.root}: the pool of task {task}, split {split}, is empty")
    if size is not None and len(pool) > size:
        wanted = {did for query in queries for did in right[query.qid]}
        others = [i for i, candidate in enumerate(pool) if candidate.did not in wanted]
        kept = {others[i] for i in random.permutation(len(others))[: max(0, size - (len(pool) - len(others)))].tolist()}
        pool = [candidate for i, candidate in enumerate(pool) if i in kept or candidate.did in wanted]
    column = {candidate.did: i for i, candidate in enumerate(pool)}
    return queries, pool, [sorted(column[did] for did in right[query.qid] if did in column) for query in queries]


def _pairs(
    benchmark: Benchmark,
    task: int,
    limit: int,
    evaluated: set[Content],
    random: np.random.Generator,
    material: Material,
) -> np.ndarray:
    pool = {candidate.did: candidate for candidate in benchmark.pool(task, TRAIN)}
    queries, instruction = benchmark.queries(task, TRAIN), benchmark.instruction(task)
    met: set[Content] = set()
    rows: list[tuple[int, int]] = []
    for i in random.permutation(len(queries)).tolist():
        query, candidate = queries[i], next((pool[did] for did in queries[i].positives if did in pool), None)
        if candidate is None or _content(query) in evaluated or {_content(query), _content(candidate)} & met:
            continue
        met |= {_content(query), _content(candidate)}
        places = (material.place(query, benchmark.root, instruction), material.place(candidate, benchmark.root))
        rows.append(places)
        if len(rows) == limit:
            break
    if len(rows) < MIN_PAIRS:
        raise InputError(
            f"task {task} has {len(rows)} train pairs without a text or image in common, and the ridge needs "
            f"{MIN_PAIRS}: leave the task out by tasks, or the ridge by pairs=0"
        )
    return np.array(rows, dtype=np.int64)


def _content(row: Query | Candidate) -> Content:
    return row.text, row.image_path


def _chosen(benchmark: Benchmark, split: str, tasks: Iterable[int | str] | None) -> list[int]:
    known = [benchmark.split_name(task)[1] for task in benchmark.tasks(split)]
    if not known:
        raise InputError(f"split={split!r}: {benchmark.root} has the splits {benchmark.splits()}")
    if tasks is None:
        return known
    names = [str(task) for task in tasks]
    if not names or set(names) - {str(task) for task in known}:
        raise InputError(f"tasks must be some of {known} (split {split}), got {names}")
    return [int(name) for name in dict.fromkeys(names)]


def _refuse_untrained(benchmark: Benchmark, tasks: Sequence[int], pairs: int) -> None:
    missing = sorted(set(tasks) - set(benchmark.tasks(TRAIN)))
    if pairs and missing:
        raise InputError(
            f"{benchmark.root} has no train split of task {', '.join(map(str, missing))} to fit the ridge on: "
            "choose other tasks, or pairs=0 for zero-shot only"
        )
