"""What a stage will meet, known before it begins: its steps, its batches, its pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from puma.training.budget import UNBOUNDED
from puma.training.config import TrainConfig
from puma.training.distributed import processes
from puma.training.pairs import Pair
from puma.training.sampling import MixedTaskBatches, Run


def planned_steps(config: TrainConfig, batches: MixedTaskBatches) -> int:
    """Optimisation steps of a stage; :data:`puma.training.budget.UNBOUNDED` where only its minutes end it."""
    if config.minutes and not config.steps:
        return UNBOUNDED
    return config.steps or max(1, math.ceil(config.epochs * len(batches) / config.accumulate))


def batches_of(pairs: Sequence[Pair], config: TrainConfig) -> Iterator[list[int]]:
    """The batches that :func:`puma.training.stage.train` will take on one process, in order, of all its epochs."""
    yield from _batches(pairs, config, 1)


def met_pairs(pairs: Sequence[Pair], config: TrainConfig) -> list[Pair]:
    """The pairs that a stage of fixed steps will meet on all processes, each once; all of them where only its minutes
    end it."""
    if config.minutes and not config.steps:
        return list(pairs)
    met = dict.fromkeys(row for batch in _batches(pairs, config, processes()[1]) for row in batch)
    return [pairs[row] for row in met]


def _batches(pairs: Sequence[Pair], config: TrainConfig, ranks: int) -> Iterator[list[int]]:
    batches = MixedTaskBatches(pairs, config.batch_size * ranks, seed=config.seed, balance=config.balance)
    for batch in Run(batches, planned_steps(config, batches) * config.accumulate):
        yield [row for _, row in batch]
