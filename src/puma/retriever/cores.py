"""How many cores this process may use. Imports nothing but the standard library."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """The cores that this process may use: by its affinity, and by the quota of its container (cgroup 2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError, IndexError):
        quota, period = _QUOTA.read_text(encoding="ascii").split()[:2]  # "max 100000" where there is no quota
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores
