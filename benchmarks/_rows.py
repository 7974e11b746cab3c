"""Results that a benchmark gathers over several runs: a JSON file of rows, each known by some of its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from puma.mini.fetch.packages import cache_home
from puma.storage.folders import write_json


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows so far; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def has_row(path: Path, cell: Mapping[str, Any]) -> bool:
    """Whether a row has all these values."""
    return any(all(row[name] == value for name, value in cell.items()) for row in read_rows(path))


def add_row(path: Path, row: Mapping[str, Any], same: Sequence[str]) -> None:
    """Add a row, in the place of an earlier one that has the same values under the keys ``same``; safe beside another
    process."""
    cache_home().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_home() / f".{path.stem}.lock"):
        kept = [other for other in read_rows(path) if any(other[name] != row[name] for name in same)]
        write_json(path, [*kept, row])
