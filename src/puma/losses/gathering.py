"""Rows of all processes on every process, with gradient.

The one collective of the losses. ``torch.distributed`` is only used where a process group is up; alone, everything
here returns what it was given. How losses are scaled for it: :mod:`puma.training.objective`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from puma.errors import InputError


def world_size() -> int:
    """How many processes train together; 1 without a process group."""
    return distributed.get_world_size() if _grouped() else 1


def rank() -> int:
    """This process's number; 0 without a process group."""
    return distributed.get_rank() if _grouped() else 0


def gather_sizes(sizes: list[int], device: torch.device) -> list[list[int]]:
    """A few whole numbers of every process: one list a rank, in rank order. Waits for all processes."""
    if world_size() == 1:
        return [sizes]
    mine = torch.tensor(sizes, dtype=torch.int64, device=device)
    gathered = [torch.empty_like(mine) for _ in range(world_size())]
    distributed.all_gather(gathered, mine)
    return [row.tolist() for row in gathered]


def gather_rows(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """The rows of all processes, this process's first, then those of the next rank, and so on round.

    The gradient that reaches a row is the *sum* of what all processes' losses send it. So with a loss of its own rows
    on each process, summed over processes, each has the exact gradient of that sum with respect to its rows; a trainer
    that averages parameter gradients over processes (DDP) divides by their number.

    Args:
        rows: [n, ...]; the trailing shape is the same everywhere, n need not be.
        counts: n of every rank, in rank order (:func:`gather_sizes`).

    Returns:
        [sum(counts), ...].

    Raises:
        InputError: ``counts`` does not fit the processes or the rows.
    """
    if len(counts) != world_size() or counts[rank()] != len(rows):
        raise InputError(
            f"counts={counts}: need one for each of {world_size()} processes, and {len(rows)} for this one"
        )
    if len(counts) == 1:
        return rows
    gathered = _Gather.apply(rows, counts)
    # Own rows first: the losses look for the positive of query i at candidate i.
    return torch.roll(gathered, -sum(counts[: rank()]), dims=0)


class _Gather(torch.autograd.Function):
    """torch's own differentiable gather is deprecated, and wants the same number of rows everywhere."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.counts = counts
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None


def _grouped() -> bool:
    return bool(distributed.is_available() and distributed.is_initialized())
