"""Which lengths a model's vectors may be cut to, as its configuration says it.

The key is the one that vLLM reads: ``matryoshka_dimensions`` of config.json, the full length included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEY = "matryoshka_dimensions"


def nested_dimensions(config: Any, dim: int) -> tuple[int, ...]:
    """The lengths below the full one, rising; none of a model that was not trained for any.

    Args:
        config: transformers' configuration, or config.json as a mapping.
        dim: length of the model's vectors.
    """
    found = config.get(KEY) if isinstance(config, Mapping) else getattr(config, KEY, None)
    return tuple(sorted({n for n in found if type(n) is int and 0 < n < dim})) if isinstance(found, list) else ()


def note_dimensions(config: Any, dimensions: Sequence[int], dim: int) -> None:
    """Write :func:`nested_dimensions` into transformers' configuration."""
    if dimensions:
        setattr(config, KEY, [*dimensions, dim])
    elif hasattr(config, KEY):
        delattr(config, KEY)
