"""Keys and values of the tokens that many items begin with: the chat template's head and the instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

MEMORY_BYTES = 64 * 1024 * 1024
"""Kept of one model's prefixes: of puma-mini about 7,000 tokens, of twelve layers of Qwen2-VL-7B about 2,700."""


@dataclass(frozen=True)
class Prefix:
    """The decoder's keys and values of the first tokens of a sequence.

    Args:
        states: of each layer the keys and the values, [1, heads, tokens, head size].
        length: how many of the tokens are used; 0 for none.
    """

    states: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()
    length: int = 0

    def first(self, length: int) -> Prefix:
        """The same, of which at most the first ``length`` tokens are used."""
        return Prefix(self.states, min(length, self.length))

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(part.nbytes for pair in self.states for part in pair)

    def cache(self) -> Cache | None:
        """What a decoder takes as ``past_key_values``, for a batch of any size; None where nothing is used."""
        if not self.length:
            return None
        return Cache(layers=[_Used(*(part[:, :, : self.length] for part in pair)) for pair in self.states])


class Recording:
    """Takes the place of a prefix that is not known yet in a pass over whole sequences, and learns it from the first.

    Args:
        wanted: how many tokens of the first row.
    """

    length = 0

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._layers: list[_Recording] = []

    def cache(self) -> Cache:
        """What a decoder takes as ``past_key_values``."""

        def layer() -> _Recording:
            self._layers.append(_Recording(self.wanted))
            return self._layers[-1]

        return Cache(layer_class_to_replicate=layer)

    def prefix(self) -> Prefix:
        """What was learnt, after the pass."""
        return Prefix([layer.first for layer in self._layers], self.wanted)


def computed_prefix(model: Any, ids: torch.Tensor) -> Prefix:
    """The prefix of a sequence's tokens, by a pass of the decoder over them.

    Args:
        ids: [tokens], on the model's device.
    """
    cache = DynamicCache()
    model.get_decoder()(inputs_embeds=model.get_input_embeddings()(ids[None]), past_key_values=cache, use_cache=True)
    return Prefix([(layer.keys, layer.values) for layer in cache.layers], len(ids))


class _Used(DynamicLayer):
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


class _Recording(DynamicLayer):
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
