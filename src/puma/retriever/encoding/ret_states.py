"""The states at ``[RET]`` of batches, computed the short way (:mod:`puma.retriever.encoding.short_pass`) where a model
allows.

Whether it does is tried on the model itself, once: a few tokens go both ways, and the states must agree.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from puma.retriever.encoding.batches import pass_tokens
from puma.retriever.encoding.beginnings import PREFIX_BYTES, SHORTEST_PREFIX, shared_length
from puma.retriever.encoding.bounded import BoundedMemory
from puma.retriever.encoding.prefixes import Prefix, Recording, computed_prefix
from puma.retriever.encoding.short_pass import NotShortenedError, ret_rows
from puma.retriever.encoding.states import Features, cast_features, forward_states, weights_stamp
from puma.retriever.pooling import last_token_state

SAME, SAME_HALF = 1e-4, 2e-2
"""How far states of the short way may be from those of the plain one, in parts of the largest: in fp32, and in half
precision."""

MEMORIES: WeakKeyDictionary[torch.nn.Module, BoundedMemory[Prefix]] = WeakKeyDictionary()
"""Of each decoder the prefixes that later calls may use."""
_TRIED: WeakKeyDictionary[torch.nn.Module, dict[Hashable, bool]] = WeakKeyDictionary()


class RetStates:
    """What :func:`puma.retriever.encoding.loop.encode_batches` computes of each batch of one call.

    Args:
        model: in eval mode.
        heads: how many items begin with these tokens, by the tokens: those before an item's own text or image.
    """

    def __init__(self, model: Any, heads: Mapping[tuple[int, ...], int]) -> None:
        self.heads = dict(heads)
        self.short = allows_short_pass(model)
        decoder = model.get_decoder()
        self.memory = MEMORIES.setdefault(decoder, BoundedMemory[Prefix](PREFIX_BYTES))
        self._weights = weights_stamp(model.get_input_embeddings(), decoder) if self.short and self.heads else None

    def __call__(self, model: Any, features: Features) -> torch.Tensor:
        """The raw (not normalised) states at ``[RET]`` after the final norm, [n, dim], in fp32."""
        if not self.short:
            return forward_states(model, features)
        try:
            key, prefix = self._prefix(model, features)
            last = features["attention_mask"].sum(1) - 1
            states = ret_rows(model, cast_features(model, features), prefix, last).float()
        except NotShortenedError:
            self.short = False
            return forward_states(model, features)
        if isinstance(prefix, Recording):
            self.memory.put(key, prefix.prefix())
        return states

    def _prefix(self, model: Any, features: Features) -> tuple[Hashable, Prefix | Recording]:
        """What of the batch's common beginning is known, or worth a pass of its own, or worth being recorded."""
        head, length = self._common(features)
        if length < SHORTEST_PREFIX:
            return None, Prefix()
        ids = features["input_ids"]
        kind = torch.get_autocast_dtype(ids.device.type) if torch.is_autocast_enabled(ids.device.type) else None
        key = (self._weights, kind, head)
        known = self.memory.get(key)
        if known is None or known.length < length - SHORTEST_PREFIX:
            if self.heads[head] * length <= len(head) + pass_tokens(ids.device):
                return key, Recording(length)  # the next call with this head will win by it
            known = computed_prefix(model, torch.tensor(head, device=ids.device))
            self.memory.put(key, known)
        return key, known.first(length)

    def _common(self, features: Features) -> tuple[tuple[int, ...], int]:
        """The head that the batch begins with, and how many of its tokens all rows share; not a row's last."""
        if not self.heads:
            return (), 0
        ids = features["input_ids"]
        differs = (ids != ids[:1]).any(0)
        shared = int(differs.int().argmax()) if bool(differs.any()) else ids.shape[1]
        shared = min(shared, int(features["attention_mask"].sum(1).min()) - 1)
        first = ids[0, :shared].tolist()
        lengths = {head: shared_length(head, first) for head in self.heads}
        return max(lengths.items(), key=lambda found: found[1])


def allows_short_pass(model: Any) -> bool:
    """Whether the short way gives what the plain one gives: never while a model is trained or its decoder is hooked
    into, else by trying it once."""
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    if model.training or not isinstance(layers, torch.nn.ModuleList) or not len(layers):
        return False
    for module in (decoder, *layers):
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            return False  # someone else has exchanged it, or listens
    weight = model.get_input_embeddings().weight
    tried = _TRIED.setdefault(decoder, {})
    key = (type(decoder), len(layers), weight.dtype, weight.device, decoder.config._attn_implementation)
    if key not in tried:
        try:
            tried[key] = _same_both_ways(model)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a decoder of another kind may raise anything when it is called in another way
            tried[key] = False
    return tried[key]


@torch.no_grad()
def _same_both_ways(model: Any) -> bool:
    device = next(model.parameters()).device
    few = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 6, 7, 8, 14, 15, 0, 0, 0]], device=device)
    features = {"input_ids": few, "attention_mask": (few > 0).long()}
    plain = last_token_state(model(**features, use_cache=False).last_hidden_state, features["attention_mask"])
    last = features["attention_mask"].sum(1) - 1
    most = (SAME if plain.dtype == torch.float32 else SAME_HALF) * plain.abs().max()
    ways = (Prefix(), computed_prefix(model, few[0, :4]))
    return all(bool((ret_rows(model, features, way, last) - plain).abs().max() <= most) for way in ways)
