"""Scoring of a task's queries against a pool: ranks of positives, gains, top modalities, runs. Loads no torch.

A score is what :mod:`puma.index.exact.rescoring` defines: the dot product in double precision, rounded to six decimals
(what differs less is rounding noise). One vector stored twice ties with itself exactly, wherever it stands, and no
figure depends on the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puma.evaluation.judged import View
from puma.evaluation.matrices import parts_of
from puma.evaluation.metrics import gains_in_order
from puma.index.exact.memory import resident_bytes
from puma.index.exact.rescoring import pair_scores
from puma.index.exact.sharded import ShardedSearch
from puma.index.exact.streamed import ranks_of_positives_streamed, top_k
from puma.index.interface import SCORE_DECIMALS

AMPLE_BYTES = 4 * 10**9
"""Memory for scores where no limit is given: for more candidates than a block, more changes little."""
LEAST_BYTES = 2**28
"""What scores are given at least, however small the limit."""
RUN_DEPTH = 1000
"""Candidates a query gets in a run file, at most."""


@dataclass
class Scored:
    """What a task's queries found in a pool.

    ``ranks`` and ``gains``: per query as in :class:`puma.evaluation.metrics.Found`; ``tops`` int64 [queries]: the
    modality of each top hit, -1 where nothing was found; a tie is a wrong one; ``run``: {qid: {did: score}}, empty
    unless asked for.
    """

    ranks: list[np.ndarray]
    gains: list[np.ndarray]
    tops: np.ndarray
    run: Mapping[str, dict[str, float]] = field(default_factory=dict)


class _Run(Mapping[str, dict[str, float]]):
    """A run kept as places and scores, a tenth of what dicts need; a query's dict is made when it is asked for."""

    def __init__(self, view: View, order: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> None:
        self._rows = {qid: number for number, qid in enumerate(view.qids)}
        self._dids, self._order, self._ids, self._scores = view.dids, order, ids, scores

    def __getitem__(self, qid: str) -> dict[str, float]:
        number = self._rows[qid]
        found = self._ids[number] >= 0
        columns = self._order[self._ids[number, found]].tolist()
        # float32 holds six decimals only nearly; rounding gives the score back.
        scores = np.round(self._scores[number, found].astype(np.float64), SCORE_DECIMALS).tolist()
        return {self._dids[column]: value for column, value in zip(columns, scores, strict=True)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def score(
    queries: np.ndarray,
    query_ok: np.ndarray,
    vectors: np.ndarray,
    readable: np.ndarray,
    view: View,
    *,
    memory: int | None = None,
    scratch: Path | None = None,
    keep_run: bool = False,
    progress: str | None = None,
    search: ShardedSearch | None = None,
) -> Scored:
    """Score a task's queries against a pool.

    Args:
        queries: float32 [queries, dim], unit rows, or zeros where ``query_ok`` is False.
        query_ok: bool [queries]; the others are misses.
        vectors: float32 [candidates, dim], unit rows, or zeros where ``readable`` is False; an array or a memory map.
        readable: bool [candidates]; the others are never found.
        memory: bytes for what this needs beside what the process holds; :data:`AMPLE_BYTES` if None, and
            :data:`LEAST_BYTES` if less.
        scratch: a folder for copies of rows of a memory map that do not lie side by side.
        keep_run: whether the first :data:`RUN_DEPTH` candidates of each query are kept; of equal scores those of a
            wrong modality, then those earlier in the pool.
        progress: a label for bars on stderr.
        search: searches in this process if None.

    Raises:
        DataError: a row that is neither of unit length nor zeros.
    """
    find_ranks, find_best = (ranks_of_positives_streamed, top_k) if search is None else (search.ranks, search.top_k)
    usable = np.where(query_ok[:, None], queries, np.float32(0))
    budget = resident_bytes() + max(LEAST_BYTES, AMPLE_BYTES if memory is None else memory)
    budget += 24 * RUN_DEPTH * len(usable) if keep_run else 0  # the run itself is no working memory
    options: dict[str, Any] = {"memory": budget, "progress": progress}
    # The modality asked for stands last: of equal scores the first place wins, so a wrong one does.
    order = np.argsort(view.codes == view.wanted, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    positives = [place[columns] for columns in view.positives]
    run: Mapping[str, dict[str, float]] = {}
    with parts_of(vectors, view.places[order], scratch) as source:
        ranks = find_ranks(usable, source, positives, **options)
        if not keep_run and (view.codes == view.codes[0]).all() and readable[view.places].any():
            tops = np.where(query_ok, view.codes[0], -1)
        else:
            ids, scores = find_best(usable, source, RUN_DEPTH if keep_run else 1, **options)
            tops = np.where(ids[:, 0] < 0, -1, view.codes[order[ids[:, 0]]])
            run = _Run(view, order, ids, scores) if keep_run else {}
    gains = [
        _gains(usable[number], vectors, view.places[view.positives[number]], view.grades[number], len(row))
        for number, row in enumerate(ranks)
    ]
    return Scored(ranks, gains, tops, run)


def _gains(query: np.ndarray, vectors: np.ndarray, places: np.ndarray, grades: np.ndarray, found: int) -> np.ndarray:
    """The grades in the order of the ranks; scores are only needed where grades differ."""
    if not found or (grades == grades[0]).all():
        return grades[:found]
    rows = np.asarray(vectors[places], dtype=np.float32)
    scores = pair_scores(np.broadcast_to(query, rows.shape), rows)
    return gains_in_order(np.where(rows.any(axis=1), scores, np.nan), grades)
