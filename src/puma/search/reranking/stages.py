"""Two stages on run files: the first one's best candidates get a second score, and both are joined by a weight."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from puma.data.mbeir import Benchmark
from puma.errors import DataError, InputError
from puma.evaluation.metrics import Run
from puma.items.item import Item

DEPTH = 50
"""Candidates of the first stage that the second one scores."""

Scores = dict[str, dict[str, float]]
"""{query id: {candidate's id: score}}."""


class Reranker(Protocol):
    """What scores a query's candidates again. Everything else here sees only this."""

    def rerank(self, query: Item, instruction: str | None, candidates: Sequence[Item]) -> np.ndarray:
        """Scores float32 [n], one a candidate in the order given; higher is better. Comparable within a query."""


def second_stage(
    reranker: Reranker,
    run: Run,
    queries: Mapping[str, Item],
    candidates: Mapping[str, Item],
    instruction: str | None,
    *,
    depth: int = DEPTH,
    each: Callable[[], object] | None = None,
) -> Scores:
    """The second stage's scores of every query's first candidates.

    Args:
        run: the first stage's. Who ties with the last of the first ``depth`` comes along, so that no tie is broken.
        queries, candidates: the items by id.
        each: called after each query, for a progress bar.

    Raises:
        InputError: ``depth`` is below 1. DataError: the run names an id that is not among the items.
    """
    if depth < 1:
        raise InputError(f"depth={depth!r}: give at least 1")
    scores: Scores = {}
    for qid, first in run.items():
        dids = _first(first, depth)
        unknown = [name for name in [qid, *dids] if name not in (queries if name == qid else candidates)]
        if unknown:
            raise DataError(f"the run names {unknown[0]}, which is no query or candidate of this task")
        items = [candidates[did] for did in dids]
        found = reranker.rerank(queries[qid], instruction, items) if items else np.zeros(0)
        scores[qid] = {did: float(score) for did, score in zip(dids, found, strict=True)}
        if each is not None:
            each()
    return scores


def combined(run: Run, second: Mapping[str, Mapping[str, float]], weight: float) -> Scores:
    """The two stages as one run: ``(1 - weight) * first + weight * second`` where there is a second score; the
    others follow behind in their old order.

    Args:
        weight: 0 is the first stage alone, 1 the second alone among the candidates it scored.

    Raises:
        InputError: the weight is outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise InputError(f"weight={weight!r}: give a number from 0 (first stage) to 1 (second stage)")
    out: Scores = {}
    for qid, first in run.items():
        again = second.get(qid, {})
        out[qid] = {did: (1 - weight) * first[did] + weight * score for did, score in again.items()}
        rest = {did: score for did, score in first.items() if did not in again}
        # One step for all of them: behind the last of the others, and as far from each other as before.
        step = min(out[qid].values(), default=0.0) - max(rest.values(), default=0.0) - 1.0
        out[qid] |= {did: score + (step if again else 0.0) for did, score in rest.items()}
    return out


def rerank_run(
    reranker: Reranker,
    root: str | os.PathLike[str],
    run: Run,
    task: int,
    *,
    split: str = "test",
    dataset: str | None = None,
    pool: str = "local",
    depth: int = DEPTH,
    weight: float = 1.0,
) -> Scores:
    """A task's run after the second stage, to be scored like any other.

    Args:
        root: the benchmark.
        run: the first stage's, as :func:`puma.evaluation.runs.read_run` reads it.
        pool: ``local`` or ``global``, the pool the run was made on.

    Raises:
        InputError: an unknown pool, or a number out of its range. DataError: run and benchmark do not fit.
    """
    queries, candidates, instruction = task_items(root, task, split=split, dataset=dataset, pool=pool)
    return combined(run, second_stage(reranker, run, queries, candidates, instruction, depth=depth), weight)


def task_items(
    root: str | os.PathLike[str], task: int, *, split: str = "test", dataset: str | None = None, pool: str = "local"
) -> tuple[dict[str, Item], dict[str, Item], str]:
    """A task's queries and candidates by id, and its first instruction."""
    if pool not in ("local", "global"):
        raise InputError(f"pool={pool!r}: give local or global")
    benchmark = Benchmark(root, dataset)
    candidates = benchmark.pool(task, split) if pool == "local" else benchmark.global_pool(split)
    return (
        {query.qid: query.item(root) for query in benchmark.queries(task, split)},
        {candidate.did: candidate.item(root) for candidate in candidates},
        benchmark.instruction(task),
    )


def _first(scores: Mapping[str, float], depth: int) -> list[str]:
    ranked = sorted(scores, key=lambda did: (-scores[did], did))
    if len(ranked) <= depth:
        return ranked
    floor = scores[ranked[depth - 1]]
    return [did for did in ranked if scores[did] >= floor]
