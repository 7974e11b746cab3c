"""Connecting to a Ray cluster, and how many actors fit into it. Loads ray when it connects."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puma.errors import DependencyError, InputError, require

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Pool:
    """How many actors, and what each of them takes of the cluster."""

    workers: int
    cpus: int
    gpus: int


def plan_pool(free: Mapping[str, float], workers: int | None = None) -> Pool:
    """The actors for what is free in a cluster: one for each GPU; without GPUs one for each CPU but one.

    Args:
        free: amounts of ``CPU`` and ``GPU``, as Ray gives them.
        workers: how many are wanted; None for as many as there is room for.

    Raises:
        InputError: ``workers`` is no positive integer. DependencyError: the cluster lacks room: actors without room
            would wait for ever.

    Examples:
        >>> plan_pool({"CPU": 16, "GPU": 2})
        Pool(workers=2, cpus=1, gpus=1)
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise InputError(f"workers must be an integer of at least 1, got {workers!r}")
    cpus, gpus = int(free.get("CPU", 0)), int(free.get("GPU", 0))
    # One CPU stays free: whatever else Ray starts would wait for the actors' end, and they for it.
    room = min(gpus, cpus - 1) if gpus else cpus - 1
    described = f"{cpus} CPUs and {gpus} GPUs are free"
    if room < 1:
        raise DependencyError(
            f"the Ray cluster lacks room: {described}, and a worker takes one CPU (and one GPU where there are any) "
            "beside one CPU that stays free; add machines, or end what runs there (`ray status` shows it)"
        )
    if workers is not None and workers > room:
        raise DependencyError(
            f"the Ray cluster lacks room for {workers} workers: {described}, and one CPU must stay free; give "
            f"--workers {room}, or add machines"
        )
    return Pool(workers or room, 1, 1 if gpus else 0)


def connected(address: str | None, workers: int | None = None) -> Any:
    """The ray module, connected.

    Raises:
        DependencyError: ray is not installed, or no cluster answers at the address.
    """
    require("--engine ray", "ray")
    if address not in (None, "auto", "local"):
        check_answers(str(address))
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray starts programs by fork and exec at once, which harms no thread of LanceDB's.
    warnings.filterwarnings("ignore", message="lancedb fork support", category=RuntimeWarning)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if address in (None, "local"):
            # A worker more than CPUs is refused by plan_pool; a machine with one CPU still gets one worker.
            cpus = max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1)
            ray.init(
                address="local",
                num_cpus=max(cpus, workers or 1) + 1,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise DependencyError(
            f"--address {address}: no Ray cluster ({str(error).strip().splitlines()[0]:.200}); start one with "
            "`ray start --head`, and give its address as host:port"
        ) from None
    return ray


def check_answers(address: str) -> None:
    """Raise InputError unless an address is ``[ray://]host:port``, DependencyError unless something answers there
    within :data:`CONNECT_SECONDS`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--address {address!r}: give host:port of the Ray cluster's head, as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise DependencyError(
            f"--address {address}: nothing answers there ({error.strerror or error}); start a cluster with "
            "`ray start --head --port 6379`, and give its address"
        ) from None
