"""Exact search over more candidates than fit in memory: within a budget, on several threads, resumable. Loads no torch.

The rule that makes results independent of budget, blocks, threads and interruptions: single-precision matrix products
only rule out what cannot matter, by a bound that holds for every order of summation; all others get *the* score of
:mod:`puma.index.exact.rescoring`, which depends on the two rows alone, rounded to six decimals as everywhere in this
package.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from tqdm import tqdm

from puma.errors import InputError
from puma.index.exact.matrices import Rows, Source, open_source
from puma.index.exact.memory import parse_memory
from puma.index.exact.planning import PAIRS_AT_ONCE, Plan, plan_for
from puma.index.exact.ranking import Counting
from puma.index.exact.rescoring import in_order, score_bound, stored_scores
from puma.index.exact.resume import Checkpoints, key_of
from puma.index.exact.scanning import AHEAD, Space, lost_rows, scan, workers
from puma.index.exact.selection import Selection
from puma.index.interface import checked_k

__all__ = ["parse_memory", "ranks_of_positives_streamed", "top_k"]

VERSION = 1
"""Of the states on the disk."""


def top_k(
    queries: np.ndarray,
    source: Source,
    k: int,
    *,
    memory: str | int = "4GB",
    threads: int | None = None,
    work: str | os.PathLike[str] | None = None,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of every query, exactly.

    Args:
        queries: [n, dim] floats, rows of unit length; a row of zeros or with NaN finds nothing.
        source: the candidates, see :data:`puma.index.exact.matrices.Source`: float16 or float32, rows of unit length
            (to 0.01), numbered from 0 in their order. Rows of zeros or with NaN are never found.
        k: at least 1.
        memory: what this process may hold in all, everything that it holds already included. Fewer queries are taken
            at a time, and the candidates read more often, when they do not fit together.
        threads: cores to use; all that the process may use if None.
        work: a folder for the running state. After a kill, the same call goes on from there; when finished, it holds
            the result, which the same call then returns at once. Delete it when done.
        progress: a label for a bar on stderr; None for no bar.

    Returns:
        ``ids`` int64 [n, k], best first, equal scores in ascending order; ``scores`` float32 [n, k]: cosines in
        [-1, 1], rounded to six decimals. Where fewer than k are found, ids of -1 with NaN at the end. The same on every
        budget, number of threads and course of interruptions.

    Raises:
        InputError: an argument is not as described, or ``memory`` is too small (the message says what would do).
        DataError: the candidates are damaged, or a row is not of unit length.
        StorageError: ``work`` cannot be written.

    Examples:
        >>> ids, scores = top_k(np.array([[0.6, 0.8]]), np.eye(2, dtype=np.float32), 2)
        >>> ids.tolist(), scores.tolist()
        ([[1, 0]], [[0.800000011920929, 0.6000000238418579]])
    """
    k, budget, threads = checked_k(k), parse_memory(memory), _checked_threads(threads)
    with open_source(source, work) as rows:
        checked, query_ok = checked_queries(queries, rows)
        wanted = min(k, rows.count)
        ids = np.full((len(checked), k), -1, dtype=np.int64)
        scores = np.full((len(checked), k), np.nan, dtype=np.float32)
        if not wanted or not len(checked):
            return ids, scores
        plan = plan_for(budget, threads, len(checked), rows, wanted, ids.nbytes + scores.nbytes)
        key = "" if work is None else key_of("top_k", VERSION, wanted, checked, rows.identity())
        with Checkpoints(work, key) as states, _bar(progress, rows.count * len(checked)) as bar:
            first = _finished(states, ids, scores)
            bar.update(first * rows.count)
            while first < len(checked):
                last = first + -(-(len(checked) - first) // -(-(len(checked) - first) // plan.queries))
                pair = _one_pass(checked[first:last], rows, wanted, plan, states, f"{first}-", bar)
                ids[first:last, :wanted], scores[first:last, :wanted] = pair
                states.save(f"done.{first:09d}-{last:09d}", {"ids": pair[0], "scores": pair[1]})
                states.drop(f"running.{first}-")
                first = last
            for name in list(states.names("running.")):  # of a kill between the two lines above
                states.drop(name)
    ids[~query_ok], scores[~query_ok] = -1, np.nan
    return ids, scores


def ranks_of_positives_streamed(
    queries: np.ndarray,
    source: Source,
    positives: Sequence[Sequence[int] | np.ndarray],
    *,
    memory: str | int = "4GB",
    threads: int | None = None,
    work: str | os.PathLike[str] | None = None,
    progress: str | None = None,
) -> list[np.ndarray]:
    """The ranks of every query's positives among all candidates when ties count against us: what
    :func:`puma.evaluation.metrics.ranks_of_positives` gives for the whole matrix of scores.

    Args:
        positives: per query, the distinct candidates (by number) that are right for it.

    The other arguments, the errors and what an interruption does: as :func:`top_k`.

    Returns:
        Per query the ranks of its positives, from 1, ascending, int64. Positives that are never found have none.

    Examples:
        >>> same = np.ones((3, 1), dtype=np.float32)
        >>> ranks_of_positives_streamed(same[:1], same, [[0]])[0].tolist()
        [3]
    """
    budget, threads = parse_memory(memory), _checked_threads(threads)
    with open_source(source, work) as rows:
        checked, query_ok = checked_queries(queries, rows)
        owner, place = checked_positives(positives, len(checked), rows.count)
        plan = plan_for(budget, threads, len(checked), rows, None, (64 + 8 * AHEAD * threads) * len(owner))
        if len(owner):
            found = found_rows(rows, place) & query_ok[owner]
            owner, place = owner[found], place[found]
        own, above = np.empty(0), np.zeros(0, dtype=np.int64)
        if len(owner):
            key = "" if work is None else key_of("ranks", VERSION, owner, place, checked, rows.identity())
            bars = _bar(progress, rows.count * len(checked))
            with Checkpoints(work, key) as states, bars as bar, workers(plan.threads) as pool:
                own = stored_scores(checked, rows, owner, place, pool)
                above = _counted(Counting(checked, owner, own, score_bound(rows.dim)), rows, plan, states, pool, bar)
    return ranks_in_order(len(checked), owner, own, above)


def ranks_in_order(queries: int, owner: np.ndarray, own: np.ndarray, above: np.ndarray) -> list[np.ndarray]:
    """The ranks of each query's positives: of each, whose it is (ascending), its score, and how many candidates score
    as high or higher, itself included."""
    ranks = []
    ends = np.searchsorted(owner, np.arange(queries + 1))
    for low, high in pairwise(ends.tolist()):
        order = np.argsort(-own[low:high], kind="stable")
        scores, ahead = own[low:high][order], above[low:high][order]
        # As in puma.evaluation.metrics: behind all others at this score or above, and the positives before it.
        level = (scores[None, :] >= scores[:, None]).sum(axis=1)
        ranks.append(1 + np.arange(high - low) + ahead - level)
    return ranks


def count_ahead(
    queries: np.ndarray, source: Source, owner: np.ndarray, own: np.ndarray, *, memory: str | int = "4GB"
) -> np.ndarray:
    """How many candidates score as high as each positive or higher, int64 [m], on one thread.

    Args:
        queries: float32 [n, dim], contiguous, lost rows zero.
        source: the candidates, or some of them.
        owner, own: int64 [m], ascending, and float64 [m]: whose each positive is, and its score.
    """
    with open_source(source, None) as rows, _bar(None, 0) as bar, workers(1) as pool:
        plan = plan_for(parse_memory(memory), 1, len(queries), rows, None, (64 + 8 * AHEAD) * len(owner))
        counting = Counting(queries, owner, own, score_bound(rows.dim))
        with Checkpoints(None, "") as states:
            return _counted(counting, rows, plan, states, pool, bar)


def _one_pass(
    queries: np.ndarray, rows: Rows, k: int, plan: Plan, states: Checkpoints, name: str, bar: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of some queries: ids [n, k], scores [n, k]."""
    name = f"running.{name}"
    with workers(plan.threads) as pool:
        selection = Selection(
            queries,
            k,
            score_bound(rows.dim),
            lambda query, places: stored_scores(queries, rows, np.full(len(places), query), places),
        )
        first, saved = 0, states.load(name)
        if saved is not None and len(saved["held"]) == len(queries):
            selection.restore(saved)
            first = int(saved["next"])
            bar.update(first * len(queries))
        del saved

        def merge(start: int, stop: int, kept: Any) -> None:
            selection.merge(start, kept)
            bar.update((stop - start) * len(queries))
            if states.due():
                states.save(name, selection.saved() | {"next": stop})

        spaces = [Space(plan.block, rows.dim, len(queries)) for _ in range(plan.threads)]
        scan(rows, first, plan.block, spaces, pool, selection.visit, merge)
        ids, scores = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32)
        size = max(1, PAIRS_AT_ONCE // k)
        for low in range(0, len(queries), size):
            high = min(low + size, len(queries))
            counts, places = selection.best(low, high)
            exact = stored_scores(queries, rows, np.repeat(np.arange(low, high), counts), places, pool)
            ids[low:high], scores[low:high] = in_order(counts, places, exact, k)
    return ids, scores


def _counted(counting: Counting, rows: Rows, plan: Plan, states: Checkpoints, pool: Any, bar: Any) -> np.ndarray:
    """How many candidates score as high as each positive or higher, itself included."""
    first, saved = 0, states.load("running")
    if saved is not None:
        counting.above[:] = saved["above"]
        first = int(saved["next"])
        bar.update(first * len(counting.queries))

    def merge(start: int, stop: int, above: np.ndarray) -> None:
        counting.above += above
        bar.update((stop - start) * len(counting.queries))
        if states.due() or stop == rows.count:
            states.save("running", {"above": counting.above, "next": stop})

    spaces = [Space(plan.block, rows.dim, len(counting.queries)) for _ in range(plan.threads)]
    scan(rows, first, plan.block, spaces, pool, counting.visit, merge)
    return counting.above


def _finished(states: Checkpoints, ids: np.ndarray, scores: np.ndarray) -> int:
    """Fill in the queries that earlier calls finished; how many they are."""
    first = 0
    for name in states.names("done."):
        low, high = map(int, name.removeprefix("done.").split("-"))
        done = states.load(name) if low == first else None
        if done is not None:
            ids[low:high, : done["ids"].shape[1]], scores[low:high, : done["ids"].shape[1]] = (
                done["ids"],
                done["scores"],
            )
            first = high
    return first


def found_rows(rows: Rows, places: np.ndarray) -> np.ndarray:
    """Which candidates are not lost, bool."""
    wanted, inverse = np.unique(places, return_inverse=True)
    found = np.ones(len(wanted), dtype=bool)
    for start in range(0, len(wanted), 2048):
        lost = lost_rows(rows.gather(wanted[start : start + 2048], careful=True), "source")
        if lost is not None:
            found[start : start + 2048] = ~lost
    return found[inverse]


def checked_queries(queries: Any, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """As float32 [n, dim], contiguous, lost rows zero; and which are not lost."""
    array = np.asarray(queries)
    if array.ndim != 2 or array.dtype.kind != "f" or (rows.count and array.shape[1] != rows.dim):
        raise InputError(f"queries must be floats [n, {rows.dim or 'dim'}], got {array.dtype} {list(array.shape)}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    lost = lost_rows(array, "queries")
    if lost is None:
        return array, np.ones(len(array), dtype=bool)
    return np.where(lost[:, None], np.float32(0), array), ~lost


def checked_positives(positives: Any, queries: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat: whose each positive is, ascending, and its place."""
    if len(positives) != queries:
        raise InputError(f"positives must have one entry per query, got {len(positives)} for {queries} queries")
    owners, places = [], []
    for number, own in enumerate(positives):
        row = np.asarray(own)
        if row.size and (row.ndim != 1 or row.dtype.kind not in "iu"):
            raise InputError(f"positives[{number}] must be a list of candidates' numbers, got {own!r}")
        row = row.astype(np.int64).reshape(-1)
        if row.size and (row.min() < 0 or row.max() >= rows or len(np.unique(row)) != len(row)):
            raise InputError(f"positives[{number}] must be distinct numbers in 0..{rows - 1}, got {row[:20].tolist()}")
        owners.append(np.full(len(row), number, dtype=np.int64))
        places.append(row)
    if not owners:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate(owners), np.concatenate(places)


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise InputError(f"threads must be an integer of at least 1 or None, got {threads!r}")
    return int(threads)


def _bar(label: str | None, pairs: int) -> Any:
    return tqdm(total=pairs, desc=label, unit="pair", unit_scale=True, disable=label is None, smoothing=0.1)
