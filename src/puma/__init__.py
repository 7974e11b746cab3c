"""PUMA turns any open multimodal LLM into a fast any-to-any retriever, and runs it.

The public names, nothing else; each is imported when first used, so that ``import puma`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma.errors import PumaError
    from puma.index import Index
    from puma.items.item import Item
    from puma.mini.default import default_model
    from puma.pruning import prune, prune_folder
    from puma.retriever.model import Retriever
    from puma.search.searcher import Searcher
    from puma.training.config import TrainConfig
    from puma.training.stage import train

__version__ = "0.1.0"

_HOMES = {
    "Index": "puma.index",
    "Item": "puma.items",
    "PumaError": "puma.errors",
    "Retriever": "puma.retriever.model",
    "Searcher": "puma.search",
    "TrainConfig": "puma.training.config",
    "default_model": "puma.mini.default",
    "prune": "puma.pruning",
    "prune_folder": "puma.pruning",
    "train": "puma.training",
}
__all__ = [
    "Index",
    "Item",
    "PumaError",
    "Retriever",
    "Searcher",
    "TrainConfig",
    "default_model",
    "prune",
    "prune_folder",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'puma' has no attribute {name!r}")
