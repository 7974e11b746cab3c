"""Batches that mix tasks: how many of them is drawn from N(4, 1), no candidate twice in a batch, the same for the same
seed.

Source: method.md "The two stages": the number of data sets in a batch ~ N(4, 1), clipped to [1, all].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from puma.data.pairs import Pair, rows_by_query
from puma.errors import InputError


class MixedTaskBatches:
    """Lists of row numbers, one list a batch; every query at most once an epoch, the last short batch dropped.

    Args:
        pairs: the rows.
        batch_size: rows a batch.
        seed: with the epoch it decides everything.
        mean, deviation: of the number of tasks in a batch.
        balance: a task is drawn with a weight of its remaining queries to this power: 1 in proportion, 0 all alike.

    Raises:
        InputError: fewer queries than a batch holds.
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
    ) -> None:
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed
        self.mean, self.deviation, self.balance, self.epoch = mean, deviation, balance, 0
        self._queries: dict[int, list[list[int]]] = {}
        for rows in rows_by_query(pairs).values():
            self._queries.setdefault(pairs[rows[0]].task, []).append(rows)
        total = sum(map(len, self._queries.values()))
        if batch_size < 2 or total < batch_size:
            raise InputError(f"batch_size={batch_size}: give a number from 2 to the {total} queries there are")
        self._total = total

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch (an upper bound where duplicate candidates leave a rest)."""
        return self._total // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        left = {task: self._drawn(queries, rng) for task, queries in sorted(self._queries.items())}
        for _ in range(len(self)):
            batch = self._batch(left, rng)
            if len(batch) < self.batch_size:
                return
            yield batch

    @staticmethod
    def _drawn(queries: list[list[int]], rng: np.random.Generator) -> list[int]:
        """One row of each query, in random order, to be popped from the end."""
        picked = [rows[int(rng.integers(len(rows)))] for rows in queries]
        return [picked[i] for i in rng.permutation(len(picked))]

    def _batch(self, left: dict[int, list[int]], rng: np.random.Generator) -> list[int]:
        batch: list[int] = []
        taken: set[str] = set()
        open_tasks = [task for task, rows in left.items() if rows]
        wanted = int(np.clip(round(float(rng.normal(self.mean, self.deviation))), 1, max(1, len(open_tasks))))
        weights = np.array([len(left[task]) for task in open_tasks], dtype=float) ** self.balance
        chosen = (
            rng.choice(open_tasks, size=wanted, replace=False, p=weights / weights.sum()).tolist() if open_tasks else []
        )
        for position, task in enumerate(chosen):
            share = (self.batch_size - len(batch)) // (wanted - position)
            self._take(left[task], share, batch, taken)
        for task in sorted(open_tasks, key=lambda t: -len(left[t])):  # what the chosen could not fill
            self._take(left[task], self.batch_size - len(batch), batch, taken)
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
