"""The last decoder layer of a training step, computed at ``[RET]`` alone.

The loss reads one state an item. In the last layer the other positions matter by their keys and values only, so query,
attention, output projection and MLP of that layer run for one position an item, forward and backward: the same states
and gradients, for a sixth less work in a model of six layers. The layers are the family's own, as in
:mod:`puma.retriever.encoding.short_pass`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch

from puma.pruning import decoder_of
from puma.retriever.encoding.ret_states import allows_short_pass
from puma.retriever.encoding.short_pass import LastLayer
from puma.retriever.pooling import last_positions
from puma.training.sharding import is_sharded


def allows_short_last_layer(model: Any) -> bool:
    """Whether a model may be trained so; tried on the model itself, which is left in the mode it was in.

    Never under FSDP2 or with activations computed again in the backward pass, and not where image features are added
    to the states after the last layer (Qwen3-VL cut to its first layers).
    """
    decoder = decoder_of(model)
    layers = getattr(decoder, "layers", ())
    added = getattr(getattr(model.config, "vision_config", None), "deepstack_visual_indexes", None) or ()
    if is_sharded() or not len(layers) or len(added) >= len(layers):
        return False
    if any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
        return False
    modes = {module: module.training for module in model.modules()}
    try:
        return allows_short_pass(model.eval())
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def short_last_layer(model: Any, attention_mask: torch.Tensor) -> Iterator[None]:
    """While it is open, the model's last hidden states are those at the last attended position alone, [n, 1, dim].

    Args:
        model: a multimodal transformers model; whatever wraps it (DDP, sentence-transformers) is called as ever.
        attention_mask: of the batch that goes through it, [n, length].
    """
    layer = decoder_of(model).layers[-1]
    layer.forward = LastLayer(copy.copy(layer), last_positions(attention_mask)).forward
    try:
        yield
    finally:
        del layer.forward
