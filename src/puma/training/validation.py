"""Evaluation while training runs: hit rates on a bounded part of the data's val split.

A task's queries are drawn by the hash of their ids, and its pool is their positives and as many other candidates as
fit, drawn the same way: the same for the same seed on every machine. The pools are smaller than the published ones, so
the figures rank checkpoints of one run; ``puma evaluate`` makes those to report.
"""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from puma.data.mbeir import Candidate, Query, TaskName, open_benchmark
from puma.errors import DataError, InputError
from puma.evaluation.counting import KS, count
from puma.evaluation.judged import CODE, Judged
from puma.items.encoder import Encoder, embed_readable
from puma.retriever.model import Retriever
from puma.retriever.stored_vision import VisionFeatures

MEAN = "eval_hit_mean"
"""The figure that the best checkpoint and early stopping go by: the mean of the tasks' hit rates."""
SPLIT = "val"


class Judge(Protocol):
    """What a training is evaluated by."""

    def figures(self, encoder: Any) -> dict[str, float]:
        """Figures of the weights as they are, in [0, 1], with :data:`MEAN` among them."""


@dataclass(frozen=True)
class Validation:
    """The part of a val split that a training is evaluated on.

    Args:
        judged: queries, qrels and pools.
    """

    judged: Judged

    @classmethod
    def read(
        cls, root: str | os.PathLike[str], *, queries: int = 200, pool: int = 1000, seed: int = 0, split: str = SPLIT
    ) -> Validation:
        """Draw it from a benchmark in M-BEIR's layout.

        Args:
            queries: the most of a task; 0 for all.
            pool: the most candidates of a task beside the positives; 0 for all.

        Raises:
            InputError: the data has no such split.
            DataError: its files are at fault.
        """
        benchmark = open_benchmark(root)
        tasks = benchmark.tasks(split)
        if not tasks:
            raise InputError(
                f"eval_every: {os.fspath(root)} has no {split} split, only {benchmark.splits()}; add query, pool and "
                f"qrels files of it (docs/mbeir.md), or train with eval_every=0"
            )
        chosen: dict[TaskName, list[Query]] = {}
        grades: dict[TaskName, dict[str, dict[str, int]]] = {}
        pools: dict[TaskName, list[Candidate]] = {}
        for task in tasks:
            rows = benchmark.qrels(task, split)
            positives = {qid: {did: grade for did, grade in row.items() if grade > 0} for qid, row in rows.items()}
            judged = [query for query in benchmark.queries(task, split) if positives.get(query.qid)]
            if not judged:
                raise DataError(f"{os.fspath(root)}: no query of task {task}, split {split}, has a positive")
            keep = drawn([query.qid for query in judged], queries, seed)
            chosen[task] = [judged[number] for number in keep]
            grades[task] = {query.qid: positives[query.qid] for query in chosen[task]}
            wanted = {did for row in grades[task].values() for did in row}
            pools[task] = _limited(benchmark.pool(task, split), wanted, pool, seed)
        everything = {candidate.did: candidate for own in pools.values() for candidate in own}
        candidates = sorted(everything.values(), key=lambda candidate: (CODE[candidate.modality], candidate.did))
        place = {candidate.did: number for number, candidate in enumerate(candidates)}
        places: dict[tuple[str, TaskName | None], np.ndarray] = {}
        for task, own in pools.items():
            places["local", task] = np.array([place[candidate.did] for candidate in own], dtype=np.int64)
        return cls(Judged(benchmark, split, tasks, chosen, grades, candidates, places))

    def figures(self, encoder: Encoder) -> dict[str, float]:
        """Evaluate: ``eval_hit_<task>`` of each task, at M-BEIR's depth for its data set (5, or 10), and
        :data:`MEAN`, all in [0, 1]."""
        tables = count(self.judged, _Embedded(encoder), ("local",), KS)
        found = {}
        for task in self.judged.tasks:
            table = tables[str(task)]
            found[f"eval_hit_{self.judged.benchmark.label(task)}"] = float(table[table["headline"]])
        return {**found, MEAN: float(np.mean(list(found.values())))}


@dataclass(frozen=True)
class _Embedded:
    """Vectors that an encoder makes: a :class:`puma.evaluation.counting.Source`."""

    encoder: Encoder

    def candidates(self, data: Judged) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        items = [candidate.item(data.benchmark.root) for candidate in data.candidates]
        vectors, readable, faults = embed_readable(self.encoder, items)
        return vectors, readable, {data.candidates[number].did: reason for number, reason in faults}

    def queries(self, data: Judged, task: TaskName) -> list[tuple[np.ndarray, np.ndarray, dict[str, str]]]:
        queries = data.queries[task]
        items = [query.item(data.benchmark.root) for query in queries]
        vectors, readable, faults = embed_readable(self.encoder, items, instruction=data.benchmark.instruction(task))
        return [(vectors, readable, {queries[number].qid: reason for number, reason in faults})]


class TrainingEncoder:
    """The retriever as training computes it: under the same autocast, reading the same stored vision features.

    Args:
        retriever: in training.
        vision: stored outputs of the frozen tower.
        precision: the stage's.
    """

    mixed_instructions = True

    def __init__(self, retriever: Retriever, vision: VisionFeatures | None, precision: str) -> None:
        self._retriever = copy.copy(retriever)  # the model itself is shared
        self._retriever.vision = vision if vision is not None else retriever.vision
        self._retriever.autocast = torch.bfloat16 if precision == "bf16" else None

    @property
    def dim(self) -> int:
        return self._retriever.dim

    @property
    def fingerprint(self) -> str:
        return self._retriever.fingerprint

    def encode(self, items: Any, instruction: Any = None) -> Any:
        return self._retriever.encode(items, instruction)


def evaluations(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, mean hit rate) of the evaluations in a trainer's log, in order."""
    return [(int(entry["step"]), float(entry[MEAN])) for entry in history if MEAN in entry]


def best_of(history: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
    """(step, mean hit rate) of the best evaluation; of equal ones the first. None without any."""
    return max(evaluations(history), key=lambda found: (found[1], -found[0]), default=None)


def stalled(history: Sequence[Mapping[str, Any]]) -> int:
    """How many evaluations came after the best one."""
    best = best_of(history)
    return 0 if best is None else sum(step > best[0] for step, _ in evaluations(history))


def drawn(names: Sequence[str], most: int, seed: int) -> list[int]:
    """Positions of at most ``most`` names (0: all), those of the smallest hash, in their own order."""
    if not most or len(names) <= most:
        return list(range(len(names)))
    order = sorted(range(len(names)), key=lambda number: (zlib.crc32(f"{seed}:{names[number]}".encode()), number))
    return sorted(order[:most])


def _limited(pool: Sequence[Candidate], wanted: set[str], most: int, seed: int) -> list[Candidate]:
    others = [candidate for candidate in pool if candidate.did not in wanted]
    keep = {others[number].did for number in drawn([candidate.did for candidate in others], most, seed)}
    found = {candidate.did: candidate for candidate in pool if candidate.did in wanted or candidate.did in keep}
    return list(found.values())
