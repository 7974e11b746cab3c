"""Keeping the shallow decoder layers of a multimodal LLM, in memory and from folder to folder, and loading models.

The public names, each imported when it is first used, so that a light part of this package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma.pruning.folders import RECORD, prune, prune_folder
    from puma.pruning.hub import model_folder
    from puma.pruning.layers import count_parameters, cut, cut_config, decoder_of, kept_layers
    from puma.pruning.loading import load_model
    from puma.pruning.processors import load_processor

_HOMES = {
    "RECORD": "puma.pruning.folders",
    "count_parameters": "puma.pruning.layers",
    "cut": "puma.pruning.layers",
    "cut_config": "puma.pruning.layers",
    "decoder_of": "puma.pruning.layers",
    "kept_layers": "puma.pruning.layers",
    "load_model": "puma.pruning.loading",
    "load_processor": "puma.pruning.processors",
    "model_folder": "puma.pruning.hub",
    "prune": "puma.pruning.folders",
    "prune_folder": "puma.pruning.folders",
}
__all__ = [
    "RECORD",
    "count_parameters",
    "cut",
    "cut_config",
    "decoder_of",
    "kept_layers",
    "load_model",
    "load_processor",
    "model_folder",
    "prune",
    "prune_folder",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
