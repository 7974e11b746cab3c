"""``puma``: the command line.

The public names, each imported when it is first used, so that a light part of this package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma.cli.app import main, run

_HOMES = {
    "main": "puma.cli.app",
    "run": "puma.cli.app",
}
__all__ = ["main", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
