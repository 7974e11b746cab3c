"""Training a retriever in the method's two stages, from pairs to a merged model.

The public names, each imported when it is first used, so that a light part of this package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma.training.config import TrainConfig
    from puma.training.stage import TrainResult, train
    from puma.training.two_stages import train_two_stages

_HOMES = {
    "TrainConfig": "puma.training.config",
    "TrainResult": "puma.training.stage",
    "train": "puma.training.stage",
    "train_two_stages": "puma.training.two_stages",
}
__all__ = ["TrainConfig", "TrainResult", "train", "train_two_stages"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
