"""Evaluation on a benchmark in M-BEIR's layout: every task, local and global pools, one pass over the candidates.

Here: :func:`evaluate` for an encoder, :func:`chance` for a random ranking, in one shape of table. Not here: the metrics
(:mod:`puma.evaluation.metrics`), the files' format (:mod:`puma.data.mbeir`), showing results
(:mod:`puma.evaluation.report`).

The rules: a query takes its task's first instruction, a candidate none; scores are cosines of the fp32 vectors, rounded
to six decimals (what differs less is rounding noise), and ties count against us; a candidate whose picture cannot be
read is never found but stays in the pool's count; a query whose picture cannot be read is a miss. Where the pool holds
the query's own picture, as in some published tasks, it stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.mbeir import TASK_MODALITIES, Benchmark, Candidate, Query
from puma.embedding import BATCH, embed_readable
from puma.errors import DataError, InputError
from puma.evaluation.metrics import (
    chance_hit_rate,
    chance_recall,
    check_k,
    hit_rate_from_ranks,
    ranks_of_positives,
    recall_from_ranks,
)
from puma.evaluation.runs import write_run
from puma.index.exact import rounded
from puma.items import Encoder

POOLS = ("local", "global")
KS = (1, 5, 10)
RUN_DEPTH = 1000
"""Candidates a query gets in a run file, at most."""
SKIPS_LISTED = 50
BLOCK_FLOATS = 2**24
WIDE_FLOATS = 2**27
"""Pools up to this many floats are scored in double precision (1 GiB), so that one vector stored twice ties exactly."""

Tables = dict[str, dict[str, Any]]
"""By task id: ``pool``, ``queries``, ``hit_rate@k``, ``recall@k``, ``skipped``, ``skipped_items``, and under
``global`` the same over the global pool with ``wrong_modality@1``. Without a local pool asked for, only ``global``."""


def evaluate(
    encoder: Encoder,
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    tasks: Iterable[int | str] | None = None,
    pools: Sequence[str] = POOLS,
    ks: Sequence[int] = KS,
    run_dir: str | os.PathLike[str] | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
) -> Tables:
    """Embed the queries and candidates of a benchmark and score them.

    Args:
        encoder: embeds both sides. Each candidate is embedded once, for all tasks and pools.
        root: the benchmark's folder.
        dataset: which data set of the folder, if it holds several.
        tasks: task ids; all the split has if None.
        pools: ``local``, ``global`` or both.
        ks: depths of hit rate and recall.
        run_dir: where a TREC run file per task and pool is written, if given.
        batch_size: items handed to the encoder at once.
        progress: whether bars with rate and time left go to stderr.

    Returns:
        See :data:`Tables`; rates in [0, 1], ``wrong_modality@1`` is the share of queries whose best candidate is not of
        the modality asked for.

    Raises:
        InputError: an unknown task or pool, or a k below 1.
        DataError: the benchmark's files are at fault.
    """
    data = _Data.read(root, dataset, split, tasks, pools, ks)
    label = "candidates" if progress else None
    items = [candidate.item(root) for candidate in data.candidates]
    vectors, readable, faults = embed_readable(encoder, items, batch_size=batch_size, progress=label)
    faulty = {data.candidates[place].did: reason for place, reason in faults}
    tables: Tables = {}
    for task in data.tasks:
        queries = data.queries[task]
        asked, heard, unheard = embed_readable(
            encoder,
            [query.item(root) for query in queries],
            instruction=data.benchmark.instruction(task),
            batch_size=batch_size,
            progress=f"queries, task {task}" if progress else None,
        )
        own_faults = {queries[place].qid: reason for place, reason in unheard}
        for pool in pools:
            places = data.places(pool, task)
            judged = _Judged(data, task, places)
            ranks, wrong, run = _rank(asked, heard, vectors, readable, judged, run_dir is not None)
            table = _rates(len(places), ranks, judged.totals, ks)
            skips = own_faults | {did: faulty[did] for did in judged.dids if did in faulty} if faulty else own_faults
            table["skipped"] = len(skips)
            table["skipped_items"] = [f"{name}: {reason}" for name, reason in list(skips.items())[:SKIPS_LISTED]]
            if pool == "global":
                table["wrong_modality@1"] = wrong
            _store(tables, task, pool, table)
            if run_dir is not None:
                write_run(Path(run_dir) / f"task{task}_{split}_{pool}.run", run)
    return tables


def chance(
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    tasks: Iterable[int | str] | None = None,
    pools: Sequence[str] = POOLS,
    ks: Sequence[int] = KS,
) -> Tables:
    """What a random ranking would reach in expectation, in :func:`evaluate`'s shape and with its errors."""
    data = _Data.read(root, dataset, split, tasks, pools, ks)
    tables: Tables = {}
    for task in data.tasks:
        for pool in pools:
            judged = _Judged(data, task, data.places(pool, task))
            size = len(judged.dids)
            found = [len(columns) for columns in judged.positives]
            table: dict[str, Any] = {"pool": size, "queries": len(found)}
            for k in ks:
                table[f"hit_rate@{k}"] = float(np.mean([chance_hit_rate(size, count, k) for count in found]))
            for k in ks:
                shares = [count / total for count, total in zip(found, judged.totals, strict=True)]
                table[f"recall@{k}"] = chance_recall(size, k) * float(np.mean(shares))
            table |= {"skipped": 0, "skipped_items": []}
            if pool == "global":
                table["wrong_modality@1"] = float(1 - judged.asked_for.mean())
            _store(tables, task, pool, table)
    return tables


@dataclass(frozen=True)
class _Data:
    """A split's queries, and its candidates, each once; a pool is a list of places among them."""

    benchmark: Benchmark
    split: str
    tasks: list[int]
    queries: dict[int, list[Query]]
    qrels: dict[int, dict[str, set[str]]]
    candidates: list[Candidate]
    pools: dict[tuple[str, int | None], np.ndarray]

    @classmethod
    def read(
        cls,
        root: str | os.PathLike[str],
        dataset: str | None,
        split: str,
        tasks: Iterable[int | str] | None,
        pools: Sequence[str],
        ks: Sequence[int],
    ) -> _Data:
        for k in ks:
            check_k(k)
        if isinstance(pools, str) or not pools or set(pools) - set(POOLS):
            raise InputError(f"pools must be some of {POOLS}, got {pools!r}")
        benchmark = Benchmark(root, dataset)
        chosen = _chosen(benchmark.tasks(split), tasks, split)
        gathered = _Gathered()
        places: dict[tuple[str, int | None], np.ndarray] = {}
        if "global" in pools:  # first: then it is one unbroken stretch of the matrix, and needs no copy
            places["global", None] = gathered.places(benchmark.global_pool(split), "the global pool")
        if "local" in pools:
            for task in chosen:
                places["local", task] = gathered.places(benchmark.pool(task, split), f"the pool of task {task}")
        queries, qrels = {}, {}
        for task in chosen:
            grades = benchmark.qrels(task, split)
            positives = {qid: {did for did, grade in row.items() if grade > 0} for qid, row in grades.items()}
            qrels[task] = {qid: dids for qid, dids in positives.items() if dids}
            queries[task] = [query for query in benchmark.queries(task, split) if query.qid in qrels[task]]
            if not queries[task]:
                raise DataError(
                    f"{os.fspath(root)}: no query of task {task}, split {split}, has a positive in its qrels"
                )
        return cls(benchmark, split, chosen, queries, qrels, gathered.candidates, places)

    def places(self, pool: str, task: int) -> np.ndarray:
        return self.pools[pool, task if pool == "local" else None]


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


class _Judged:
    """One pool seen from one task: which columns are right for each query."""

    def __init__(self, data: _Data, task: int, places: np.ndarray) -> None:
        self.places = places
        self.qids = [query.qid for query in data.queries[task]]
        self.dids = [data.candidates[place].did for place in places]
        column = {did: number for number, did in enumerate(self.dids)}
        relevant = [data.qrels[task][qid] for qid in self.qids]
        self.totals = [len(dids) for dids in relevant]
        self.positives = [sorted(column[did] for did in dids if did in column) for dids in relevant]
        wanted = TASK_MODALITIES[task][1]
        self.asked_for = np.array([data.candidates[place].modality == wanted for place in places])


def _rank(
    queries: np.ndarray,
    heard: np.ndarray,
    vectors: np.ndarray,
    readable: np.ndarray,
    judged: _Judged,
    keep_run: bool,
) -> tuple[list[np.ndarray], float, dict[str, dict[str, float]]]:
    """Ranks of each query's positives, the share of wrong modalities on top, and the run."""
    places = judged.places
    whole = bool((places == np.arange(len(places))).all())
    pool = vectors[: len(places)] if whole else vectors[places]
    precision = np.float64 if pool.size <= WIDE_FLOATS else np.float32
    pool, queries = pool.astype(precision, copy=False), queries.astype(precision)
    lost = ~readable[places]
    ranks: list[np.ndarray] = []
    run: dict[str, dict[str, float]] = {}
    wrong = 0
    for rows in _blocks(len(queries), max(1, BLOCK_FLOATS // len(places))):
        scores = rounded(queries[rows] @ pool.T)  # [block, pool]
        scores[:, lost] = np.nan
        scores[~heard[rows]] = np.nan
        ranks += ranks_of_positives(scores, judged.positives[rows])
        best = np.where(np.isnan(scores), -np.inf, scores)
        right = best[:, judged.asked_for].max(axis=1, initial=-np.inf)
        wrong += int((best[:, ~judged.asked_for].max(axis=1, initial=-np.inf) >= right).sum())
        if keep_run:
            for qid, row in zip(judged.qids[rows], best, strict=True):
                run[qid] = _top(row, judged.dids)
    return ranks, wrong / len(queries), run


def _top(row: np.ndarray, dids: Sequence[str]) -> dict[str, float]:
    depth = min(RUN_DEPTH, len(row))
    best = np.argpartition(-row, depth - 1)[:depth]
    ranked = sorted(best[np.isfinite(row[best])].tolist(), key=lambda place: (-row[place], dids[place]))
    return {dids[place]: float(row[place]) for place in ranked}


def _rates(pool: int, ranks: Sequence[np.ndarray], totals: Sequence[int], ks: Sequence[int]) -> dict[str, Any]:
    table: dict[str, Any] = {"pool": pool, "queries": len(ranks)}
    table |= {f"hit_rate@{k}": hit_rate_from_ranks(ranks, k) for k in ks}
    return table | {f"recall@{k}": recall_from_ranks(ranks, totals, k) for k in ks}


def _store(tables: Tables, task: int, pool: str, table: Mapping[str, Any]) -> None:
    own = tables.setdefault(str(task), {})
    if pool == "local":
        own.update(table)
    else:
        own["global"] = dict(table)


def _chosen(available: Iterable[int], tasks: Iterable[int | str] | None, split: str) -> list[int]:
    known = [int(task) for task in available]
    if not known:
        raise DataError(f"the benchmark has no task in split {split!r}")
    if tasks is None:
        return known
    names = [str(task) for task in tasks]
    unknown = [name for name in names if name not in map(str, known)]
    if unknown or not names:
        raise InputError(f"tasks must be some of {known} (split {split}), got {names}")
    return [int(name) for name in dict.fromkeys(names)]


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
