"""Training pairs: a query, one of its positives, and every candidate known to be right for it. Loads no torch.

Built from a benchmark folder in M-BEIR's layout. A query with several positives, or with several wordings, becomes
several *rows*, of which a sampler draws one an epoch.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from puma.data.mbeir import Benchmark, TaskName, open_benchmark
from puma.errors import DataError, InputError
from puma.items.item import MODALITIES, Item
from puma.items.skips import Skip, summary

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """One training row.

    Args:
        query, candidate: the items; the candidate is right for the query.
        instruction: what the query asks for.
        task: M-BEIR's task id.
        query_id: rows of one query share it.
        candidate_id: the candidate's did.
        known: the dids of every candidate known to be right, this one included: never negatives of this query.
        negatives: explicit hard negatives, (did, item) each.
        any_modality: whether the query asks for no modality (:mod:`puma.training.any_modality`).
        alike: the dids of candidates, of any modality, that would be right if none were asked for.
    """

    query: Item
    candidate: Item
    instruction: str | None
    task: int
    query_id: str
    candidate_id: str
    known: frozenset[str]
    negatives: tuple[tuple[str, Item], ...] = ()
    any_modality: bool = False
    alike: frozenset[str] = frozenset()

    @property
    def target_modality(self) -> int:
        """The candidate's modality as its code."""
        return MODALITIES.index(self.candidate.modality)


def read_pairs(
    root: str | os.PathLike[str],
    *,
    split: str = "train",
    tasks: Sequence[TaskName] | None = None,
    limit: int = 0,
    seed: int = 0,
    negatives: int = 0,
    strict: bool = False,
    faults: list[Skip] | None = None,
) -> list[Pair]:
    """Every (query, positive) row of a benchmark's split, or at most ``limit`` of each query's, the first and others by
    hash.

    Each row carries one of its task's instructions, drawn by the row's own hash, so that a model meets all paraphrases
    and the same seed gives the same rows. With ``negatives`` each row also carries at most so many of its query's
    ``neg_cand_list``, drawn by the row's hash too; one that is also a positive is left out.

    What cannot be used is left out, by itself, and listed: a faulty line of a file, a query without positives, a
    positive that is not in its task's pool, a negative that is in no pool. A query with a faulty positive keeps its
    others.

    Args:
        strict: refuse all of these instead.
        faults: gets what was left out. Without it, a summary goes to the log as a warning.

    Raises:
        DataError: the split has no pair that can be used, a file is missing; with ``strict`` the first fault found.
        InputError: the benchmark lacks one of ``tasks``, or ``negatives`` is below 0.
    """
    left_out: list[Skip] = []
    if negatives < 0:
        raise InputError(f"negatives={negatives!r}: give the most hard negatives of a row, or 0 for none")
    benchmark = open_benchmark(root)
    benchmark.skips = None if strict else left_out
    present = benchmark.tasks(split)
    missing = [task for task in dict.fromkeys(tasks or ()) if task not in present]
    if missing:
        raise InputError(f"tasks={missing}: {root} has for split {split!r} only the tasks {present}")
    pairs: list[Pair] = []
    # A data set's negatives may be of another modality than its task's pool, so they are looked up in all of them.
    everywhere = _all_items(benchmark, split) if negatives else {}

    def refuse(where: str, reason: str, identity: str) -> None:
        if strict:
            raise DataError(f"{where}: {reason}")
        left_out.append(Skip(where, reason, source=os.fspath(root), id=identity))

    for task in tasks or present:
        items = {candidate.did: candidate.item(benchmark.root) for candidate in benchmark.pool(task, split)}
        instructions = benchmark.instructions(task)
        for query in benchmark.queries(task, split):
            known = frozenset(query.positives)
            where = f"{root}: task {task}, query {query.qid}"
            if not query.positives:
                refuse(where, "it has no positive (pos_cand_list is empty)", query.qid)
            for did in query.positives:
                if did not in items:
                    refuse(where, f"its positive {did} is not in the {split} pool", query.qid)
            chosen = tuple(did for did in query.positives if did in items)
            if limit and len(chosen) > limit:
                rest = sorted(chosen[1:], key=functools.partial(_order, f"{seed}:{query.qid}"))
                chosen = (chosen[0], *rest[: limit - 1])
            hard = tuple(did for did in query.negatives if did not in known) if negatives and chosen else ()
            for did in hard:
                if did not in everywhere:
                    refuse(where, f"its negative {did} is in no pool of the split", query.qid)
            hard = tuple(did for did in hard if did in everywhere)
            for did in chosen:
                pairs.append(
                    Pair(
                        query=query.item(benchmark.root),
                        candidate=items[did],
                        instruction=_drawn(instructions, f"{seed}:{query.qid}:{did}"),
                        task=benchmark.split_name(task)[1],
                        query_id=query.qid,
                        candidate_id=did,
                        known=known,
                        negatives=_drawn_negatives(hard, everywhere, negatives, f"{seed}:{query.qid}:{did}"),
                    )
                )
    left_out = list(dict.fromkeys(left_out))  # a pool that several tasks share is read for each
    if not pairs:
        found = f"; {summary(left_out, 'faulty entries')}" if left_out else ""
        raise DataError(f"{root}: no training pairs in split {split!r}{found}")
    if faults is not None:
        faults += left_out
    elif left_out:
        _LOG.warning("%s: %s", os.fspath(root), summary(left_out, "faulty entries"))
    return pairs


def first_instructions(root: str | os.PathLike[str], *, split: str = "train") -> dict[tuple[str, str | None], str]:
    """Each task's first instruction, the one to evaluate and to search with, by (query modality, wanted modality); of
    several data sets with the same, the first one's."""
    benchmark = open_benchmark(root)
    found: dict[tuple[str, str | None], str] = {}
    for task in benchmark.tasks(split):
        found.setdefault(benchmark.modalities(task), benchmark.instruction(task))
    return found


def rows_by_query(pairs: Iterable[Pair]) -> dict[str, list[int]]:
    """Row numbers of each query, in order of first appearance."""
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair.query_id, []).append(row)
    return rows


def _all_items(benchmark: Benchmark, split: str) -> dict[str, Item]:
    return {c.did: c.item(benchmark.root) for task in benchmark.tasks(split) for c in benchmark.pool(task, split)}


def _drawn_negatives(
    dids: Sequence[str], items: Mapping[str, Item], most: int, salt: str
) -> tuple[tuple[str, Item], ...]:
    chosen = sorted(dids, key=functools.partial(_order, salt))[:most]
    return tuple((did, items[did]) for did in chosen)


def _drawn(choices: Sequence[str], key: str) -> str | None:
    if not choices:
        return None
    return choices[_hash(key) % len(choices)]


def _order(salt: str, did: str) -> int:
    return _hash(f"{salt}:{did}")


def _hash(key: str) -> int:
    """The same number on every machine, unlike Python's own hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
