"""Queries, qrels and candidate pools of a split as an evaluation holds them, each candidate once. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from puma.data.mbeir import Benchmark, Candidate, Query, TaskName, open_benchmark
from puma.errors import DataError, InputError
from puma.items.item import MODALITIES

POOLS = ("local", "global")
CODE = {modality: code for code, modality in enumerate(MODALITIES)}


@dataclass(frozen=True)
class Judged:
    """A split's queries with a positive, their qrels, and all candidates, each once, one modality after the other; a
    pool is a list of places among them, in its file's order.

    ``grades`` holds the positives only: grades above 0.
    """

    benchmark: Benchmark
    split: str
    tasks: list[TaskName]
    queries: dict[TaskName, list[Query]]
    grades: dict[TaskName, dict[str, dict[str, int]]]
    candidates: list[Candidate]
    pools: dict[tuple[str, TaskName | None], np.ndarray]

    @classmethod
    def read(
        cls,
        root: str | os.PathLike[str],
        dataset: str | None,
        split: str,
        tasks: Iterable[TaskName] | None,
        pools: Sequence[str],
    ) -> Judged:
        """Read everything that the tasks need.

        Args:
            dataset: a name; None for the folder's only data set or else all of them.
            tasks: task ids, labels or data sets; all if None.

        Raises:
            InputError: an unknown task or pool.
            DataError: the files are at fault: a candidate twice in a pool, one id for two candidates, an empty pool, a
                task without a positive, or what :mod:`puma.data.mbeir` says of a single file.
        """
        if isinstance(pools, str) or not pools or set(pools) - set(POOLS):
            raise InputError(f"pools must be some of {POOLS}, got {pools!r}")
        benchmark = open_benchmark(root, dataset)
        chosen = benchmark.choose(split, tasks)
        gathered = _Gathered()
        places: dict[tuple[str, TaskName | None], np.ndarray] = {}
        if "global" in pools:
            places["global", None] = gathered.places(benchmark.global_pool(split), "the global pool")
        if "local" in pools:
            for task in chosen:
                places["local", task] = gathered.places(benchmark.pool(task, split), f"the pool of task {task}")
        queries, grades = {}, {}
        for task in chosen:
            rows = benchmark.qrels(task, split)
            positives = {qid: {did: grade for did, grade in row.items() if grade > 0} for qid, row in rows.items()}
            own = grades[task] = {qid: row for qid, row in positives.items() if row}
            queries[task] = [query for query in benchmark.queries(task, split) if query.qid in own]
            if not queries[task]:
                raise DataError(
                    f"{os.fspath(root)}: no query of task {task}, split {split}, has a positive in its qrels"
                )
        candidates, where = gathered.by_modality()
        places = {key: where[own] for key, own in places.items()}
        return cls(benchmark, split, chosen, queries, grades, candidates, places)

    @cached_property
    def codes(self) -> np.ndarray:
        """The candidates' modalities as positions in :data:`puma.items.MODALITIES`: int64 [candidates]."""
        return np.array([CODE[candidate.modality] for candidate in self.candidates], dtype=np.int64)

    def view(self, pool: str, task: TaskName) -> View:
        """One pool as one task sees it."""
        return View(self, task, np.sort(self.pools[pool, task if pool == "local" else None]))


class View:
    """One pool seen from one task: which of its columns are right for each query, and how right.

    ``places`` int64 [pool]: the columns' places among all candidates, ascending; ``positives`` and ``grades``, per
    query: the right columns, ascending, and their grades; ``ideals``: the grades of all its positives, those outside
    the pool included, descending; ``codes`` int64 [pool]: modalities; ``wanted``: the code of the modality asked
    for.
    """

    def __init__(self, data: Judged, task: TaskName, places: np.ndarray) -> None:
        self.places = places
        self.qids = [query.qid for query in data.queries[task]]
        self.dids = [data.candidates[place].did for place in places]
        self.column = {did: number for number, did in enumerate(self.dids)}
        rows = [data.grades[task][qid] for qid in self.qids]
        self.ideals = [np.array(sorted(row.values(), reverse=True), dtype=np.float64) for row in rows]
        pairs = [sorted((self.column[did], grade) for did, grade in row.items() if did in self.column) for row in rows]
        self.positives = [np.array([column for column, _ in pair], dtype=np.int64) for pair in pairs]
        self.grades = [np.array([grade for _, grade in pair], dtype=np.float64) for pair in pairs]
        self.codes = data.codes[places]
        self.wanted = CODE[data.benchmark.modalities(task)[1]]


class _Gathered:
    """Candidates of several pools, each kept once."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self._place: dict[str, int] = {}

    def places(self, pool: Iterable[Candidate], name: str) -> np.ndarray:
        places = []
        for candidate in pool:
            place = self._place.setdefault(candidate.did, len(self.candidates))
            if place == len(self.candidates):
                self.candidates.append(candidate)
            else:
                other = self.candidates[place]
                if (other.text, other.image_path) != (candidate.text, candidate.image_path):
                    raise DataError(f"candidate {candidate.did} of {name} is another one in another pool")
            places.append(place)
        if len(set(places)) != len(places):
            raise DataError(f"{name} holds a candidate twice")
        if not places:
            raise DataError(f"{name} is empty")
        return np.array(places, dtype=np.int64)

    def by_modality(self) -> tuple[list[Candidate], np.ndarray]:
        """All candidates, one modality after the other, so that what is scored together lies together; and the new
        place of each."""
        order = np.argsort([CODE[candidate.modality] for candidate in self.candidates], kind="stable")
        where = np.empty(len(order), dtype=np.int64)
        where[order] = np.arange(len(order))
        return [self.candidates[place] for place in order.tolist()], where
