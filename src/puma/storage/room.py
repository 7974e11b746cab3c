"""Whether a disk has room for what is about to be written. Loads no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

RESERVE = 32 * 2**20
"""Bytes that are left free for the small files that are written beside vectors, and for other programs."""


def free_bytes(place: Path) -> int:
    """Bytes that are free on the disk of a file or folder, whether it is there yet or not."""
    return shutil.disk_usage(_there(place)).free


def same_disk(one: Path, other: Path) -> bool:
    """Whether two files or folders are, or will be, on one disk."""
    return os.stat(_there(one)).st_dev == os.stat(_there(other)).st_dev


def taken_bytes(path: Path) -> int:
    """Bytes that a file takes on its disk; 0 where there is none."""
    return path.stat().st_blocks * 512 if path.is_file() else 0


def _there(place: Path) -> Path:
    found = Path(os.path.abspath(place))
    while not found.exists() and found != found.parent:
        found = found.parent
    return found
