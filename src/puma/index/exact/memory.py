"""Memory as a budget: reading ``"4GB"``, and how much this process already holds. Loads no torch."""

from __future__ import annotations

import os
import re
import sys

from puma.errors import InputError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE | re.ASCII)


def parse_memory(size: str | int) -> int:
    """Bytes of a size as people write it.

    Args:
        size: an integer of bytes, or text: ``"4GB"`` (decimal), ``"4GiB"`` (binary), ``"512M"``, ``"1.5g"``.

    Raises:
        InputError: it is none of these, or not above zero.

    Examples:
        >>> parse_memory("4GB"), parse_memory("1.5 GiB"), parse_memory(1000)
        (4000000000, 1610612736, 1000)
    """
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found:
        amount = int(float(found[1]) * UNITS[(found[2] or "").lower()])
    elif isinstance(size, int) and not isinstance(size, bool):
        amount = size
    else:
        amount = 0
    if amount < 1:
        raise InputError(f"memory must be a size above zero such as '4GB' or '512MiB', got {size!r}")
    return amount


def shown_memory(size: int) -> str:
    """A size in megabytes, rounded up, in a form that :func:`parse_memory` reads."""
    return f"{-(-size // 10**6)}MB"


def resident_bytes() -> int:
    """Memory this process holds now; where the system does not say, the most it ever held."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 256 * 10**6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
