"""Keys and values of the tokens that many items begin with: the chat template's head and the instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


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
        from puma.retriever.encoding.cache_layers import Used, cache_of

        return cache_of([Used(*(part[:, :, : self.length] for part in pair)) for pair in self.states])


class Recording:
    """Takes the place of a prefix that is not known yet in a pass over whole sequences, and learns it from the first.

    Args:
        wanted: how many tokens of the first row.
    """

    length = 0

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._layers: list[Any] = []

    def cache(self) -> Cache:
        """What a decoder takes as ``past_key_values``."""
        from puma.retriever.encoding.cache_layers import Recorder, growing_cache

        def layer() -> Recorder:
            self._layers.append(Recorder(self.wanted))
            return self._layers[-1]

        return growing_cache(layer)

    def prefix(self) -> Prefix:
        """What was learnt, after the pass."""
        return Prefix([layer.first for layer in self._layers], self.wanted)


def computed_prefix(model: Any, ids: torch.Tensor) -> Prefix:
    """The prefix of a sequence's tokens, by a pass of the decoder over them.

    Args:
        ids: [tokens], on the model's device.
    """
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()
    model.get_decoder()(inputs_embeds=model.get_input_embeddings()(ids[None]), past_key_values=cache, use_cache=True)
    return Prefix([(layer.keys, layer.values) for layer in cache.layers], len(ids))
