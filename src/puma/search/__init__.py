"""Searching: an encoder and an index together, from ingest to reranking.

The public names, each imported when it is first used, so that a light part of this package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma.search.searcher import Added, Searcher

_HOMES = {
    "Added": "puma.search.searcher",
    "Searcher": "puma.search.searcher",
}
__all__ = ["Added", "Searcher"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
