"""Layers of transformers' caches that put a known prefix before the keys and values, or learn one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


def cache_of(layers: list[Any]) -> Cache:
    """A cache of these layers."""
    return Cache(layers=layers)


def growing_cache(layer: Callable[[], Any]) -> Cache:
    """A cache that makes itself a layer for each of the decoder's."""
    return Cache(layer_class_to_replicate=layer)


class Used(DynamicLayer):
    """Puts the prefix before the keys and values of every row, and keeps nothing."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = (self.keys, key_states), (self.values, value_states)
        keys, values = (torch.cat([kept.expand(len(new), -1, -1, -1), new], 2) for kept, new in pairs)
        return keys, values


class Recorder(DynamicLayer):
    """Copies the first tokens of the first row, and passes everything on as it came."""

    first: tuple[torch.Tensor, torch.Tensor]

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self._wanted = wanted

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (part[:1, :, : self._wanted].clone() for part in (key_states, value_states))
        self.first = keys, values
        return key_states, value_states
