"""Batches that mix tasks: how many of them is drawn from N(4, 1), no candidate twice in a batch, the same for the same
seed on every process.

Here: :class:`MixedTaskBatches`, an epoch's batches, and :class:`Run`, a whole run's. Not here: tensors (collating).

Source: method.md "The two stages": the number of data sets in a batch ~ N(4, 1), clipped to [1, all].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from puma.errors import InputError
from puma.items.item import MODALITIES
from puma.training.pairs import Pair, rows_by_query


class MixedTaskBatches:
    """Lists of row numbers, one list a batch; every query at most once an epoch, the last short batch dropped.

    With several processes (*ranks*) the batch that is drawn is the global one of ``ranks * batch_size`` rows: in it no
    candidate comes twice, whichever rank holds it. Every rank draws the same from the seed alone, with no word between
    them, and keeps its own slice. The slices are dealt like cards, ordered by modality, so that each rank has its share
    of images and no rank waits for the one that got them all.

    A task that is in a batch holds at least two of its rows wherever the task has them: with one row alone a query may
    have no negative of its target's modality, and the hard temperature of MAC-Loss would have nothing to act on.

    Args:
        pairs: the rows.
        batch_size: rows a batch on each rank.
        seed: with the epoch it decides everything.
        mean, deviation: of the number of tasks in a global batch.
        balance: a task is drawn with a weight of its remaining queries to this power: 1 in proportion, 0 all alike.
        ranks: processes that train together.
        rank: whose slice iteration gives.

    Raises:
        InputError: fewer queries than a global batch holds; no such rank.

    Examples:
        >>> from puma import Item
        >>> word = Item(text="a")
        >>> pairs = [Pair(word, word, None, 1, f"q{n}", f"c{n}", frozenset({f"c{n}"})) for n in range(8)]
        >>> halves = [list(MixedTaskBatches(pairs, 2, ranks=2, rank=rank)) for rank in (0, 1)]
        >>> sorted(row for half in halves for batch in half for row in batch)
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch_size: int,
        *,
        seed: int = 0,
        mean: float = 4.0,
        deviation: float = 1.0,
        balance: float = 1.0,
        ranks: int = 1,
        rank: int = 0,
    ) -> None:
        if ranks < 1 or not 0 <= rank < ranks:
            raise InputError(f"rank={rank} of ranks={ranks}: give a rank from 0 to ranks - 1")
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed
        self.mean, self.deviation, self.balance = mean, deviation, balance
        self.ranks, self.rank, self.epoch = ranks, rank, 0
        self._given = 0  # batches given of this epoch
        self._start = 0  # where the next iteration begins
        self._queries: dict[int, list[list[int]]] = {}
        for rows in rows_by_query(pairs).values():
            self._queries.setdefault(pairs[rows[0]].task, []).append(rows)
        self.global_size = ranks * batch_size
        self._total = sum(map(len, self._queries.values()))
        if batch_size < 2 or self._total < self.global_size:
            across = f" on each of {ranks} processes" if ranks > 1 else ""
            raise InputError(
                f"batch_size={batch_size}{across}: give a number from 2 to {self._total // ranks}, there are "
                f"{self._total} queries"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next, from its first."""
        self.epoch, self._given, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where iteration stands: the epoch, and how many of its batches were given."""
        return {"epoch": self.epoch, "given": self._given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where :meth:`state_dict` stood: the next iteration gives the rest of that epoch.

        Raises:
            InputError: it is no such state.
        """
        if set(state) != {"epoch", "given"} or any(int(value) < 0 for value in state.values()):
            raise InputError(f"state {dict(state)!r}: give what state_dict() returned")
        self.set_epoch(int(state["epoch"]))
        self._given = self._start = int(state["given"])

    def __len__(self) -> int:
        """Batches in an epoch (an upper bound where duplicate candidates leave a rest)."""
        return self._total // self.global_size

    def __iter__(self) -> Iterator[list[int]]:
        start, self._start = self._start, 0
        self._given = start  # now, not at the first batch
        return self._rest(start)

    def _rest(self, start: int) -> Iterator[list[int]]:
        for batch in itertools.islice(self.plan(self.epoch), start, None):
            self._given += 1
            yield self.slices(batch)[self.rank]

    def plan(self, epoch: int) -> Iterator[list[int]]:
        """The global batches of an epoch, in order: the same on every rank."""
        rng = np.random.default_rng([self.seed, epoch])
        left = {task: self._drawn(queries, rng) for task, queries in sorted(self._queries.items())}
        for _ in range(len(self)):
            batch = self._batch(left, rng)
            if len(batch) < self.global_size:
                return
            yield batch

    def slices(self, batch: Sequence[int]) -> list[list[int]]:
        """A global batch dealt out to the ranks: ``batch_size`` rows each, together all of it."""
        if self.ranks == 1:
            return [list(batch)]
        ordered = sorted(batch, key=self._modalities)  # stable: within a modality the order drawn
        return [ordered[rank :: self.ranks] for rank in range(self.ranks)]

    def _modalities(self, row: int) -> tuple[int, int]:
        pair = self.pairs[row]
        return MODALITIES.index(pair.query.modality), pair.target_modality

    @staticmethod
    def _drawn(queries: list[list[int]], rng: np.random.Generator) -> list[int]:
        """One row of each query, in random order, to be popped from the end."""
        picked = [rows[int(rng.integers(len(rows)))] for rows in queries]
        return [picked[i] for i in rng.permutation(len(picked))]

    def _batch(self, left: dict[int, list[int]], rng: np.random.Generator) -> list[int]:
        batch: list[int] = []
        taken: set[str] = set()
        open_tasks = [task for task, rows in left.items() if rows]
        most = max(1, min(len(open_tasks), self.global_size // 2))
        wanted = int(np.clip(round(float(rng.normal(self.mean, self.deviation))), 1, most))
        weights = np.array([len(left[task]) for task in open_tasks], dtype=float) ** self.balance
        chosen = (
            rng.choice(open_tasks, size=wanted, replace=False, p=weights / weights.sum()).tolist() if open_tasks else []
        )
        for position, task in enumerate(chosen):
            share = (self.global_size - len(batch)) // (wanted - position)
            self._take(left[task], share, batch, taken)
        for task in sorted(open_tasks, key=lambda t: -len(left[t])):  # what the chosen could not fill
            self._take(left[task], self.global_size - len(batch), batch, taken)
        return batch

    def _take(self, rows: list[int], count: int, batch: list[int], taken: set[str]) -> None:
        held: list[int] = []
        while rows and count > 0:
            row = rows.pop()
            if self.pairs[row].candidate_id in taken:
                held.append(row)
                continue
            taken.add(self.pairs[row].candidate_id)
            batch.append(row)
            count -= 1
        rows.extend(reversed(held))


class Run:
    """A rank's batches of a whole run: epoch after epoch until ``steps`` are given. Every item is ``(epoch, row)``, so
    that what is drawn for a row (modality dropout) may differ from epoch to epoch and is the same after a resume.

    To a trainer it is one epoch of exactly ``steps`` batches. A trainer that counted the data's epochs itself would
    resume at the wrong batch wherever an epoch is shorter than ``len`` promised, as duplicate candidates make it.

    Args:
        batches: its own epoch and position are neither read nor moved.
        steps: batches in all.

    Raises:
        InputError: fewer different candidates than a global batch holds; on iteration, an epoch without any batch.
    """

    def __init__(self, batches: MixedTaskBatches, steps: int) -> None:
        self.batches, self.steps = batches, steps
        candidates = len({pair.candidate_id for pair in batches.pairs})
        if candidates < batches.global_size:
            raise InputError(
                f"batch_size={batches.batch_size} on {batches.ranks} process(es): there are only {candidates} "
                "different candidates, and none comes twice in a batch; give a smaller one"
            )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        given = 0
        for epoch in itertools.count():
            before = given
            for batch in itertools.islice(self.batches.plan(epoch), self.steps - given):
                given += 1
                yield [(epoch, row) for row in self.batches.slices(batch)[self.batches.rank]]
            if given >= self.steps:
                return
            if given == before:
                raise InputError(
                    f"batch_size={self.batches.batch_size}: epoch {epoch} has no batch of {self.batches.global_size} "
                    "different candidates; give a smaller one"
                )
