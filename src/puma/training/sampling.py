"""Batches that mix tasks: how many of them is drawn from N(4, 1), no candidate twice in a batch, the same for the same
seed on every process.

Source: the paper: the number of data sets in a batch ~ N(4, 1), clipped to [1, all].
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from puma.errors import InputError
from puma.items.item import MODALITIES
from puma.training.pairs import Pair, rows_by_query


class MixedTaskBatches:
    """Lists of row numbers, one list a batch; every query at most once an epoch, the last short batch dropped.

    With several processes (*ranks*) the batch that is drawn is the global one of ``ranks * batch_size`` rows: in it no
    candidate comes twice, whichever rank holds it. Every rank draws the same from the seed alone, without
    exchanging anything, and keeps its own slice. The slices are dealt like cards, ordered by modality, so that each
    rank has its share of images and no rank waits for the one that got them all.

    A task that is in a batch holds at least two of its rows wherever the task has them: with one row alone a query may
    have no negative of its target's modality, and the hard temperature of MAC-Loss would have nothing to act on.

    Args:
        pairs: the rows.
        batch_size: rows a batch on each rank.
        seed: with the epoch it decides everything.
        mean, deviation: of the number of tasks in a global batch.
        balance: a task is drawn with a weight of its remaining queries to this power: 1 in proportion, 0 all alike.
        ranks: processes that train together.
        rank: whose slice :meth:`batches` gives.

    Raises:
        InputError: fewer queries than a global batch holds; no such rank.

    Examples:
        >>> from puma import Item
        >>> word = Item(text="a")
        >>> pairs = [Pair(word, word, None, 1, f"q{n}", f"c{n}", frozenset({f"c{n}"})) for n in range(8)]
        >>> halves = [list(MixedTaskBatches(pairs, 2, ranks=2, rank=rank).batches(0)) for rank in (0, 1)]
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
        self.ranks, self.rank = ranks, rank
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

    def __len__(self) -> int:
        """Batches in an epoch (an upper bound where duplicate candidates leave a rest)."""
        return self._total // self.global_size

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """This rank's batches of an epoch, in order."""
        for batch in self.plan(epoch):
            yield self.slices(batch)[self.rank]

    def plan(self, epoch: int, seen: Collection[int] = (), moved: int = 0) -> Iterator[list[int]]:
        """The global batches of an epoch, in order: the same on every rank.

        Args:
            seen: rows that a run on another number of processes has had of this epoch; the rest of it is dealt.
            moved: how often the run has changed its number of processes.
        """
        rng = np.random.default_rng([self.seed, epoch])
        # Which row of a query an epoch takes is drawn first, so it is the same for any number of processes.
        left = {task: self._drawn(queries, rng) for task, queries in sorted(self._queries.items())}
        if moved:
            had = set(seen)
            left = {task: [row for row in rows if row not in had] for task, rows in left.items()}
            rng = np.random.default_rng([self.seed, epoch, moved])
        for _ in range(sum(map(len, left.values())) // self.global_size):
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

    def on(self, ranks: int) -> MixedTaskBatches:
        """The same for another number of processes, as this rank or the last one sees it."""
        return MixedTaskBatches(
            self.pairs, self.batch_size, seed=self.seed, mean=self.mean, deviation=self.deviation,
            balance=self.balance, ranks=ranks, rank=min(self.rank, ranks - 1),
        )  # fmt: skip

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
        batches: of one epoch after the other.
        steps: batches in all.
        before: ``(processes, batches)`` of each part of the run that other numbers of processes have done, in order.
            What they gave comes first (a resumed trainer passes over it); the epoch that they broke off goes on with
            the rows it has not seen, and none of it comes twice.

    Raises:
        InputError: fewer different candidates than a global batch holds; on iteration, an epoch without any batch.
    """

    def __init__(self, batches: MixedTaskBatches, steps: int, before: Sequence[tuple[int, int]] = ()) -> None:
        self.batches, self.steps, self.before = batches, steps, tuple(before)
        candidates = len({pair.candidate_id for pair in batches.pairs})
        if candidates < batches.global_size:
            raise InputError(
                f"batch_size={batches.batch_size} on {batches.ranks} process(es): there are only {candidates} "
                "different candidates, and none comes twice in a batch; give a smaller one"
            )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for dealer, epoch, batch in self._plan():
            yield [(epoch, row) for row in dealer.slices(batch)[dealer.rank]]

    def _plan(self) -> Iterator[tuple[MixedTaskBatches, int, list[int]]]:
        """Every global batch of the run, with who deals it and its epoch."""
        epoch, seen = 0, set[int]()
        parts = [(self.batches.on(ranks), count) for ranks, count in self.before]
        parts.append((self.batches, max(0, self.steps - sum(count for _, count in parts))))
        for moved, (dealer, count) in enumerate(parts):
            begun = epoch  # only the epoch that was broken off is dealt anew; the next ones come whole
            while count > 0:
                given = 0
                again = moved if epoch == begun and seen else 0
                for batch in itertools.islice(dealer.plan(epoch, tuple(seen), again), count):
                    given += 1
                    seen.update(batch)
                    yield dealer, epoch, batch
                count -= given
                if count <= 0:
                    break  # the epoch may have more
                if not given and not again:
                    raise InputError(
                        f"batch_size={dealer.batch_size}: epoch {epoch} has no batch of {dealer.global_size} "
                        "different candidates; give a smaller one"
                    )
                epoch, seen = epoch + 1, set()


class Rows:
    """The data set as the trainer sees it: ``(epoch, row)``, which :class:`Run` draws, becomes the collator's dict."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, drawn: tuple[int, int]) -> dict[str, int]:
        return {"epoch": drawn[0], "row": drawn[1]}
