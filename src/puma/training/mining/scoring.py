"""Scores of queries against candidates, and the known right answers, for mining. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from puma.data.mbeir import Benchmark, Candidate, Query, TaskName
from puma.errors import DataError
from puma.evaluation.stored.resumable import Resumable, Wanted, safe_name
from puma.index.exact.small import rounded
from puma.items.digest import lenient_digest
from puma.items.item import Item
from puma.training.mining.choosing import UNKNOWN

BLOCK_FLOATS = 2**24


class Pools:
    """The candidates of a split, each once; a task's pool is a list of places among them, its columns.

    Args:
        pool: ``local`` takes a task's own pool; ``global`` the candidates of all tasks.
        all_tasks: hold the candidates of all tasks even where the pools are local.
    """

    def __init__(
        self, benchmark: Benchmark, split: str, tasks: Sequence[TaskName], pool: str, *, all_tasks: bool = False
    ) -> None:
        self.candidates: list[Candidate] = []
        place: dict[str, int] = {}
        self._columns: dict[TaskName, np.ndarray] = {}
        for task in benchmark.tasks(split) if all_tasks or pool == "global" else tasks:
            columns = []
            for candidate in benchmark.pool(task, split):
                column = place.setdefault(candidate.did, len(self.candidates))
                if column == len(self.candidates):
                    self.candidates.append(candidate)
                columns.append(column)
            self._columns[task] = np.array(columns, dtype=np.int64)
        if pool == "global":
            self._columns = dict.fromkeys(tasks, np.arange(len(self.candidates)))
        self.dids = [candidate.did for candidate in self.candidates]
        self.order = np.empty(len(self.dids), dtype=np.int64)
        self.order[np.array(sorted(range(len(self.dids)), key=self.dids.__getitem__), dtype=np.int64)] = np.arange(
            len(self.dids)
        )
        self.root = benchmark.root
        self._codes: dict[str, int] = {}

    @cached_property
    def contents(self) -> np.ndarray:
        """int [n]: equal numbers for candidates of equal content. Reads every image once."""
        return np.array([self._code(candidate.item(self.root)) for candidate in self.candidates])

    def columns(self, task: TaskName) -> np.ndarray:
        return self._columns[task]

    def of_other_modality(self, wanted: str) -> np.ndarray:
        """int [m]: the places of all candidates that are not of this modality."""
        return np.flatnonzero(np.array([candidate.modality != wanted for candidate in self.candidates]))

    def items(self) -> list[Item]:
        return [candidate.item(self.root) for candidate in self.candidates]

    def code_of(self, content: str | None) -> int:
        """The number of a content among the candidates'."""
        return self._codes.get(content, UNKNOWN) if content else UNKNOWN

    def _code(self, item: Item) -> int:
        content = lenient_digest(item)
        return self._codes.setdefault(content, len(self._codes)) if content else UNKNOWN


class Vectors:
    """A split's vectors in a store: of the candidates, and of each task's queries."""

    def __init__(self, embedding: Resumable, benchmark: Benchmark, split: str, pools: Pools) -> None:
        self.embedding, self.benchmark, self.split, self.pools = embedding, benchmark, split, pools
        self._candidates: tuple[np.ndarray, np.ndarray] | None = None
        self.faults: dict[str, str] = {}
        """Why candidates and queries could not be embedded, by id."""

    def share(self, tasks: Sequence[TaskName]) -> None:
        """Embed this process's share of all that these tasks need."""
        if tasks:
            self.embedding.share([self._pool(), *(self._query_list(task) for task in tasks)])

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, dim] and which could be embedded [n]."""
        if self._candidates is None:
            vectors, readable, faults = self.embedding.embedded(self._pool())
            self.faults |= {self.pools.dids[place]: reason for place, reason in faults}
            self._candidates = vectors, readable
        return self._candidates

    def queries(self, task: TaskName) -> tuple[np.ndarray, np.ndarray]:
        """The same of a task's queries, under its instruction."""
        vectors, readable, faults = self.embedding.embedded(self._query_list(task))
        queries = self.benchmark.queries(task, self.split) if faults else []
        self.faults |= {queries[place].qid: reason for place, reason in faults}
        return vectors, readable

    def _pool(self) -> Wanted:
        return Wanted("candidates", self.pools.items, len(self.pools.dids), label="candidates")

    def _query_list(self, task: TaskName) -> Wanted:
        queries, root = self.benchmark.queries(task, self.split), self.benchmark.root
        return Wanted(
            safe_name(f"queries-{self.benchmark.label(task)}"),
            lambda: [query.item(root) for query in queries],
            len(queries),
            self.benchmark.instruction(task),
            f"queries, task {task}",
        )


def right_answers(
    benchmark: Benchmark, task: TaskName, split: str, queries: Sequence[Query]
) -> tuple[dict[str, set[str]], dict[str, str | None]]:
    """By query: what is right for it or for another of its content, and its content's digest, None if unreadable."""
    qrels = benchmark.qrels(task, split)
    contents = {query.qid: lenient_digest(query.item(benchmark.root)) for query in queries}
    shared: dict[str, set[str]] = {}
    for query in queries:
        judged = {did for did, grade in qrels.get(query.qid, {}).items() if grade > 0}
        shared.setdefault(contents[query.qid] or query.qid, set()).update(query.positives, judged)
    return {query.qid: shared[contents[query.qid] or query.qid] for query in queries}, contents


def from_encoder(vectors: Vectors, columns: np.ndarray, task: TaskName) -> Iterator[np.ndarray]:
    """A row of scores a query, over these columns; NaN where one of the two could not be embedded."""
    candidates, readable = vectors.candidates()
    query_vectors, query_ok = vectors.queries(task)
    pool, lost = candidates[columns].astype(np.float64), ~readable[columns]
    step = max(1, BLOCK_FLOATS // max(1, len(columns)))
    for start in range(0, len(query_vectors), step):
        scores = rounded(query_vectors[start : start + step].astype(np.float64) @ pool.T)
        scores[:, lost] = np.nan
        scores[~query_ok[start : start + step]] = np.nan
        yield from scores


def from_run(
    run: Mapping[str, Mapping[str, float]], queries: Sequence[Query], place: dict[str, int], size: int, task: TaskName
) -> Iterator[np.ndarray]:
    met = False
    for query in queries:
        row = np.full(size, np.nan)
        for did, score in run.get(query.qid, {}).items():
            if did in place:
                row[place[did]] = score
                met = True
        yield row
    if not met:
        raise DataError(f"task {task}: no query and candidate of the run file are of this benchmark's split")
