"""What a stage will meet, known before it begins: its steps, its batches, its pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from puma.training.budget import UNBOUNDED
from puma.training.config import TrainConfig
from puma.training.distributed import processes
from puma.training.pairs import Pair
from puma.training.run_folder import PARTS, parts_of
from puma.training.sampling import MixedTaskBatches, Run
from puma.training.sharding import is_sharded


def is_movable(config: TrainConfig, checkpoint: str | None) -> bool:
    """Whether a run may go on from this checkpoint with another number of processes. Not under FSDP2, whose checkpoints
    are cut for theirs (untested); not with stored targets, which were made of the pairs that the first number of
    processes meets; not from a checkpoint that does not say how many processes reached it."""
    counted = checkpoint is None or (Path(checkpoint) / PARTS).is_file()
    return counted and not is_sharded() and (config.distillation_weight == 0 or config.teacher == "shared")


def moved_parts(checkpoint: str | None, accumulate: int) -> list[tuple[int, int]]:
    """What other numbers of processes have done of a run, as ``before`` of :class:`puma.training.sampling.Run` takes
    it; empty where all was done by as many as today."""
    parts = parts_of(checkpoint, accumulate)
    return parts[:-1] if parts and parts[-1][0] == processes()[1] else parts


def planned_steps(config: TrainConfig, batches: MixedTaskBatches, before: Sequence[tuple[int, int]] = ()) -> int:
    """Optimisation steps of a stage; :data:`puma.training.budget.UNBOUNDED` where only its minutes end it.

    Args:
        before: as :class:`puma.training.sampling.Run` has it. A run of so many epochs takes what is left of them.
    """
    if config.minutes and not config.steps:
        return UNBOUNDED
    if before and not config.steps:
        done = sum(count for _, count in before)
        rows = sum(ranks * count for ranks, count in before) * config.batch_size
        left = max(0.0, config.epochs * len(batches) * batches.global_size - rows)
        return math.ceil((done + left / batches.global_size) / config.accumulate)
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
