"""Figures of every task of a benchmark, on local and global pools, in one shape of table; from any vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from puma.data.layout import AT_TEN
from puma.data.mbeir import TaskName
from puma.errors import InputError
from puma.evaluation.confusion import shares, wrong_modality
from puma.evaluation.judged import Judged, View
from puma.evaluation.metrics import (
    check_k,
    hit_rate_from_ranks,
    mrr_from_ranks,
    ndcg_from_ranks,
    recall_from_ranks,
)
from puma.evaluation.runs import write_run
from puma.evaluation.scoring import Scored, score
from puma.index.exact.sharded import ShardedSearch

KS = (1, 5, 10)
RANKED_K = 10
"""The depth of nDCG and MRR in a table."""
SKIPS_LISTED = 50
INSTRUCTIONS = ("first", "none", "all")

Table = dict[str, Any]
Tables = dict[str, Table]
"""By task id or, of several data sets, label ("visualnews_task0"). Each table holds

- ``pool`` and ``queries``: how many candidates and queries;
- ``hit_rate@k`` and ``recall@k`` for each k, ``ndcg@10``, ``mrr@10``: as :mod:`puma.evaluation.metrics` defines them;
- ``headline``: which of these M-BEIR's tables print for the data set, if its depth is among the ks;
- ``confusion``: the share of queries by the modality of their top hit;
- ``skipped``, ``skipped_items``: queries and candidates that could not be embedded, and the first of them;
- with details ``per_query``: {query id: best rank of a positive, or None where none was ranked};
- with all instructions ``instructions``: {figure: {min, mean, max}} and their ``count``;
- ``global``: the same over the global pool, with ``wrong_modality@1``. Without a local pool asked for, only this.
"""


class Source(Protocol):
    """Where vectors come from. Of each call: unit rows, which of them are there, and {id: reason} for the others."""

    def candidates(self, data: Judged) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        """Vectors of all candidates, in their order."""

    def queries(self, data: Judged, task: TaskName) -> list[tuple[np.ndarray, np.ndarray, dict[str, str]]]:
        """Vectors of a task's queries, in their order, once for each instruction; the first one gives the table."""


def check_ks(ks: Sequence[int]) -> None:
    """Raise InputError unless ``ks`` are integers of at least 1."""
    for k in ks:
        check_k(k)
    if not len(ks):
        raise InputError("ks: at least one depth is needed")


def headline(dataset: str, ks: Sequence[int]) -> dict[str, str]:
    """Which figure M-BEIR's tables print for a data set, if it is among ``ks``."""
    k = 10 if dataset in AT_TEN else 5
    return {"headline": f"hit_rate@{k}"} if k in ks else {}


def count(
    data: Judged,
    source: Source,
    pools: Sequence[str],
    ks: Sequence[int],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    details: bool = False,
    spread: bool = False,
    memory: int | None = None,
    scratch: Path | None = None,
    progress: bool = False,
    search: ShardedSearch | None = None,
) -> Tables:
    """Score every task; ``memory`` is for the candidates' vectors and the scores together, ``search`` as in
    :func:`puma.evaluation.scoring.score`."""
    vectors, readable, faulty = source.candidates(data)
    left = None if memory is None else memory - (0 if isinstance(vectors, np.memmap) else vectors.nbytes)
    tables: Tables = {}
    for task in data.tasks:
        query_sets = source.queries(data, task)
        for pool in pools:
            view = data.view(pool, task)
            rows: list[Table] = []
            for number, (queries, query_ok, query_faults) in enumerate(query_sets):
                keep = run_dir is not None and number == 0
                scored = score(
                    queries,
                    query_ok,
                    vectors,
                    readable,
                    view,
                    memory=left,
                    scratch=scratch,
                    keep_run=keep,
                    progress=f"scores, task {task}, {pool}" if progress else None,
                    search=search,
                )
                if number == 0:
                    skips = (
                        query_faults | {did: faulty[did] for did in view.dids if did in faulty}
                        if faulty
                        else query_faults
                    )
                rows.append(_table(view, scored, ks, skips, pool))
                if number == 0 and details:
                    rows[0]["per_query"] = best_ranks(view.qids, scored.ranks)
                if run_dir is not None and keep:
                    write_run(Path(run_dir) / run_name(data, task, pool), scored.run)
            if spread:
                rows[0]["instructions"] = spread_of(rows)
            store(tables, task, pool, rows[0] | headline(data.benchmark.split_name(task)[0], ks))
    return tables


def run_name(data: Judged, task: TaskName, pool: str) -> str:
    """The file name of a run: "task0_test_local.run", of several data sets "visualnews_task0_test_local.run"."""
    return f"{data.benchmark.label(task)}_{data.split}_{pool}.run"


def _table(view: View, scored: Scored, ks: Sequence[int], skips: Mapping[str, str], pool: str) -> Table:
    table = rates(len(view.places), scored.ranks, scored.gains, view.ideals, ks)
    return table | extras(scored.tops, view, skips, pool)


def rates(
    pool: int, ranks: Sequence[np.ndarray], gains: Sequence[np.ndarray], ideals: Sequence[np.ndarray], ks: Sequence[int]
) -> Table:
    """The figures that ranks decide; arguments as the fields of :class:`puma.evaluation.metrics.Found`."""
    table: Table = {"pool": pool, "queries": len(ranks)}
    table |= {f"hit_rate@{k}": hit_rate_from_ranks(ranks, k) for k in ks}
    table |= {f"recall@{k}": recall_from_ranks(ranks, [len(ideal) for ideal in ideals], k) for k in ks}
    table[f"ndcg@{RANKED_K}"] = ndcg_from_ranks(ranks, gains, ideals, RANKED_K)
    return table | {f"mrr@{RANKED_K}": mrr_from_ranks(ranks, RANKED_K)}


def extras(tops: np.ndarray, view: View, skips: Mapping[str, str], pool: str) -> Table:
    """The rest of a table: what was left out, and the modalities of the top hits."""
    table: Table = {"confusion": shares(tops), "skipped": len(skips)}
    table["skipped_items"] = [f"{name}: {reason}" for name, reason in list(skips.items())[:SKIPS_LISTED]]
    return table | ({"wrong_modality@1": wrong_modality(tops, view.wanted)} if pool == "global" else {})


def best_ranks(qids: Iterable[str], ranks: Iterable[np.ndarray]) -> dict[str, int | None]:
    """The rank of each query's first positive; None where none was ranked."""
    return {qid: int(row.min()) if len(row) else None for qid, row in zip(qids, ranks, strict=True)}


def spread_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``count`` and, of each figure of several tables, its ``min``, ``mean`` and ``max``."""
    found: dict[str, Any] = {"count": len(rows)}
    for key in (key for key in rows[0] if "@" in key):
        values = [float(row[key]) for row in rows]
        found[key] = {"min": min(values), "mean": float(np.mean(values)), "max": max(values)}
    return found


def store(tables: Tables, task: TaskName, pool: str, table: Table) -> None:
    """Put one pool's table in its place."""
    own = tables.setdefault(str(task), {})
    if pool == "local":
        own.update(table)
    else:
        own["global"] = dict(table)
