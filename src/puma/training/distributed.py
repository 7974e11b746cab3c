"""The same model on several processes: equal weights at the start, averaged gradients on every step.

Data parallelism by hand, after the backward pass, in place of torch's ``DistributedDataParallel``. That wrapper counts
on one forward and one backward a step that reach every trained weight on every process. Here a step is several chunks,
or is run twice under a gradient cache, in parts whose number may differ between processes; and a process whose rows
hold no image has no gradient for the projector. What is trained is mostly adapters, so little is lost by not
overlapping the exchange with the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import distributed

from puma.errors import PumaError

BUCKET = 2**25
"""Elements sent at once: 128 MB in fp32, which bounds the copy that is made for sending."""


def join() -> torch.device:
    """Meet the other processes of an ``accelerate launch`` or ``torchrun``, if any; returns this one's device."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available()).device


def wait() -> None:
    """Until every process is here."""
    if processes()[1] > 1:
        distributed.barrier()


def processes() -> tuple[int, int]:
    """(this process's rank, how many there are); (0, 1) without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def broadcast(value: Any) -> Any:
    """The first process's value, which any pickle holds; all processes must ask."""
    if processes()[1] == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def first_does(work: Callable[[], object]) -> None:
    """Let the first process do something that the others wait for; all must call this.

    Raises:
        PumaError: what ``work`` refused, on every process: else the others would wait for one that has left.
    """
    refused: PumaError | None = None
    if processes()[0] == 0:
        try:
            work()
        except PumaError as error:
            refused = error
    refused = broadcast(refused)
    wait()  # the first may leave only when the others have its answer
    if refused is not None:
        raise refused


def equalise(parameters: Iterable[torch.Tensor]) -> None:
    """Every process takes the first one's values."""
    if processes()[1] > 1:
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Every process's gradient becomes the mean over all. One that a process lacks counts as zero there; one that all
    lack stays None, so that the optimiser passes it over as it would on a single process.

    Args:
        parameters: the same ones in the same order on every process.
    """
    _, world = processes()
    if world == 1 or not parameters:
        return
    held = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    distributed.all_reduce(held)
    for parameter, count in zip(parameters, held.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        distributed.all_reduce(flat)
        flat /= world
        for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(gradients: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Neighbours of one type, together at most :data:`BUCKET` elements (or one tensor alone)."""
    buckets: list[list[torch.Tensor]] = []
    room = 0
    for gradient in gradients:
        if not buckets or buckets[-1][0].dtype != gradient.dtype or gradient.numel() > room:
            buckets.append([])
            room = BUCKET
        buckets[-1].append(gradient)
        room -= gradient.numel()
    return buckets
