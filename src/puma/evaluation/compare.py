"""Two evaluations compared, query by query: differences per task with a paired bootstrap interval. Loads no torch.

The interval: queries of a task are drawn with replacement, as many as it has, each with both systems' figures, and the
mean difference is taken; the interval is the middle 95 % of many such means (percentile bootstrap). Tasks are drawn
apart, and their differences averaged, for the mean over tasks. Paired, because most of what a query's figure varies by
is the query. It speaks of other queries of the same kind, not of other training seeds.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; for retrieval, Sakai, "Evaluating
evaluation metrics based on the bootstrap" (SIGIR 2006).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from puma.errors import InputError

RESAMPLES = 10_000
LEVEL = 0.95
BLOCK = 2**22
"""Counts drawn at once, at most."""
POOLS = ("local", "global")

_METRIC = re.compile(r"(hit_rate|mrr)@([1-9]\d*)")

Results = Mapping[str, Any]
"""A results document, as :func:`puma.evaluation.results.read_results` gives it."""


def compare(
    a: Results,
    b: Results,
    *,
    pool: str = "local",
    metric: str = "hit_rate@10",
    tasks: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What b reaches more than a, task by task and on the mean over tasks.

    Args:
        pool: ``local`` or ``global``.
        metric: ``hit_rate@k`` or ``mrr@k``: what a query's best rank decides.
        tasks: tasks to compare; None for all, which both must then have.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``pool``, ``metric``, ``models``, ``resamples``, ``seed``, ``level``, ``notes`` (settings that differ, in
        words), ``tasks``: per task ``queries``, ``a``, ``b``, ``difference`` (b - a, of rates in [0, 1]), ``low`` and
        ``high`` of the interval, ``better`` and ``worse`` (queries whose figure rose or fell); and ``mean``, the same
        over tasks without the counts.

    Raises:
        InputError: an unknown pool or metric, documents without ranks per query, or ones that are not of the same
            benchmark, tasks and queries; the message says where they part.
    """
    if pool not in POOLS:
        raise InputError(f"pool={pool!r}: give one of {POOLS}")
    if resamples < 1:
        raise InputError(f"resamples={resamples!r}: give at least 1")
    gain = _gain(metric)
    names = (_name(a), _name(b))
    _same_benchmark(a, b)
    ranks = [_ranks(document, pool, name) for document, name in zip((a, b), names, strict=True)]
    chosen = _tasks(ranks, tasks)
    _same_queries(a, b, ranks, chosen, pool)
    random = np.random.default_rng(seed)
    rows: dict[str, dict[str, Any]] = {}
    draws = np.zeros(resamples)
    for task in chosen:
        first, second = ranks[0][task], ranks[1][task]
        old = np.array([gain(first[qid]) for qid in first])
        new = np.array([gain(second[qid]) for qid in first])
        found = bootstrap_means(new - old, resamples, random)
        draws += found / len(chosen)
        rows[task] = {"queries": len(old), "a": float(old.mean()), "b": float(new.mean())}
        rows[task] |= _difference(float(np.mean(new - old)), found)
        rows[task] |= {"better": int((new > old).sum()), "worse": int((new < old).sum())}
    mean = {side: float(np.mean([row[side] for row in rows.values()])) for side in ("a", "b")}
    difference = float(np.mean([row["difference"] for row in rows.values()]))
    return {
        "pool": pool,
        "metric": metric,
        "models": list(names),
        "resamples": resamples,
        "seed": seed,
        "level": LEVEL,
        "notes": _notes(a, b),
        "tasks": rows,
        "mean": {**mean, **_difference(difference, draws)},
    }


def bootstrap_means(values: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """The means of ``resamples`` samples, drawn from the values with replacement, each as large as they are.

    Drawn as counts of the distinct values, which has the same distribution as drawing the values one by one and, with
    differences of hit rates being -1, 0 or 1, takes three numbers a sample instead of thousands.

    Args:
        values: [n], n >= 1.

    Returns:
        float64 [resamples].
    """
    if not len(values):
        raise InputError("values: the bootstrap needs at least one")
    distinct, counts = np.unique(values, return_counts=True)
    share = counts / len(values)
    step = max(1, BLOCK // len(distinct))
    blocks = [
        random.multinomial(len(values), share, size=min(step, resamples - start)) @ distinct
        for start in range(0, resamples, step)
    ]
    return np.concatenate(blocks) / len(values)


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle ``level`` of bootstrap draws: its two ends."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _difference(value: float, draws: np.ndarray) -> dict[str, float]:
    low, high = interval(draws)
    return {"difference": value, "low": low, "high": high}


def _gain(metric: str) -> Any:
    match = _METRIC.fullmatch(metric)
    if not match:
        raise InputError(f"metric={metric!r}: give hit_rate@k or mrr@k; of others a query's best rank is not enough")
    k = int(match[2])
    if match[1] == "hit_rate":
        return lambda rank: float(rank is not None and rank <= k)
    return lambda rank: 1.0 / rank if rank is not None and rank <= k else 0.0


def _name(document: Results) -> str:
    return str(document.get("model") or "unnamed")


def _same_benchmark(a: Results, b: Results) -> None:
    ours, theirs = a.get("benchmark", {}), b.get("benchmark", {})
    parts = [
        f"{key} {ours.get(key)!r} against {theirs.get(key)!r}"
        for key in ("dataset", "split")
        if ours.get(key) != theirs.get(key)
    ]
    if parts:
        raise InputError(f"the two results are of different benchmarks: {', '.join(parts)}; evaluate both on one")


def _ranks(document: Results, pool: str, name: str) -> Mapping[str, Mapping[str, int | None]]:
    found = document.get("per_query", {}).get(pool)
    if not found:
        known = sorted(document.get("per_query", {}))
        remedy = f"it has {', '.join(known)}" if known else "write it with `puma evaluate --json-out`"
        raise InputError(f"the results of {name} hold no ranks per query on {pool} pools; {remedy}")
    return found


def _tasks(ranks: Sequence[Mapping[str, Any]], tasks: Iterable[str] | None) -> list[str]:
    first, second = (set(found) for found in ranks)
    if tasks is None:
        if first != second:
            alone = [
                f"{', '.join(sorted(own))} only in {side}"
                for side, own in (("A", first - second), ("B", second - first))
                if own
            ]
            raise InputError(f"the two results hold different tasks: {'; '.join(alone)}; choose common ones by --task")
        return sorted(first, key=_order)
    chosen = list(dict.fromkeys(str(task) for task in tasks))
    unknown = [task for task in chosen if task not in first & second]
    if unknown or not chosen:
        raise InputError(f"tasks must be some of {sorted(first & second, key=_order)}, which both have; got {chosen}")
    return chosen


def _same_queries(a: Results, b: Results, ranks: Sequence[Mapping[str, Any]], tasks: Sequence[str], pool: str) -> None:
    for task in tasks:
        first, second = set(ranks[0][task]), set(ranks[1][task])
        if first != second:
            alone = sorted(first ^ second)
            raise InputError(
                f"task {task}: the two results are of different queries ({len(first)} and {len(second)}, "
                f"{len(alone)} of them in one only, as {alone[0]}); a paired comparison needs the same"
            )
        sizes = [_size(document, task, pool) for document in (a, b)]
        if None not in sizes and sizes[0] != sizes[1]:
            raise InputError(f"task {task}: the {pool} pools differ: {sizes[0]} candidates against {sizes[1]}")
        if not first:
            raise InputError(f"task {task}: no query to compare")


def _size(document: Results, task: str, pool: str) -> Any:
    table = document.get("tables", {}).get(task, {})
    return (table if pool == "local" else table.get("global", {})).get("pool")


def _notes(a: Results, b: Results) -> list[str]:
    notes = []
    for key, wording in (("root", "folders are named"), ("instruction", "instructions are")):
        ours, theirs = (document.get("benchmark", {}).get(key) for document in (a, b))
        if ours != theirs:
            notes.append(f"the {wording} {ours!r} in A and {theirs!r} in B")
    if a.get("fingerprint") and a.get("fingerprint") == b.get("fingerprint"):
        notes.append("both are of one model (the fingerprints are equal)")
    return notes


def _order(task: str) -> tuple[int, str]:
    return (int(task), "") if task.isdigit() else (10**6, task)
