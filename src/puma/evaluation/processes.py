"""Several processes that embed one list together, as ``torchrun`` starts them; the first also scores and writes.

They talk over gloo whatever the device, with a limit of a month: NCCL's barrier gives up after ten minutes, and one
process may embed, or the first score, for longer. Loads torch only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from puma.errors import InputError, PumaError

LIMIT = timedelta(days=30)


def processes() -> tuple[int, int]:
    """(this process's number, how many there are); joins the others at the first call. (0, 1) without ``torchrun``."""
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return 0, 1
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=LIMIT)
    return distributed.get_rank(), distributed.get_world_size()


def is_first() -> bool:
    """Whether this is the process that scores, writes and speaks."""
    return int(os.environ.get("RANK") or 0) == 0 or int(os.environ.get("WORLD_SIZE") or 1) < 2


def wait() -> None:
    """Until every process is here.

    Raises:
        PumaError: one of them has stopped.
    """
    _exchange(lambda distributed: distributed.barrier())


def first_does(action: Callable[[], Any]) -> Any:
    """The first process does this while the others wait, which get None; what it raises, all raise.

    Raises:
        InputError: on the others, with the first one's message.
    """
    rank, world = processes()
    if world == 1:
        return action()
    done, failed = None, None
    if rank == 0:
        try:
            done = action()
        except Exception as error:
            failed = error
    message = [str(failed) if failed is not None else None]
    _exchange(lambda distributed: distributed.broadcast_object_list(message, src=0))
    if failed is not None:
        raise failed
    if message[0] is not None:
        raise InputError(f"the first process stopped: {message[0]}")
    return done


def _exchange(step: Callable[[Any], Any]) -> None:
    if processes()[1] == 1:
        return
    from torch import distributed

    try:
        step(distributed)
    except RuntimeError as error:
        raise PumaError(
            "another process of this run has stopped, see its message; what was embedded is kept, and the same "
            f"command goes on from there ({str(error).splitlines()[0]:.120})"
        ) from None
