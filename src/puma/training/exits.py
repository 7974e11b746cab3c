"""Elastic depth: one decoder whose states at ``[RET]`` are vectors at several depths, trained together.

An exit after layer ``d`` is what a model cut to its first ``d`` layers gives: the state there, through the model's own
final norm. Every exit of a batch comes of one forward pass. Sources: deeply supervised nets (Lee et al. 2015); exits
that learn from the deepest one are "Be Your Own Teacher" (Zhang et al., ICCV 2019); the same for embedders of texts is
the 2D Matryoshka of Li et al. 2024 (arXiv 2402.14776).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from puma.errors import InputError
from puma.pruning import decoder_of
from puma.retriever.pooling import last_token_state


def check_exits(model: Any, exits: Sequence[int]) -> None:
    """Raise InputError unless every exit lies before the model's last layer."""
    total = len(decoder_of(model).layers)
    wrong = [depth for depth in exits if depth >= total]
    if wrong:
        raise InputError(
            f"exits={list(exits)}: the model has {total} decoder layers, and its end is always trained; give depths "
            f"below {total}"
        )


def states_at_depths(
    model: Any, exits: Sequence[int], forward: Callable[[], torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """The states at ``[RET]`` at the model's end and at its exits.

    Args:
        model: a transformers model.
        exits: numbers of decoder layers, each below the model's.
        forward: runs the model once and returns its last hidden states, [n, length, dim].
        attention_mask: [n, length].

    Returns:
        [n, (1 + exits) * dim], fp32: the model's end first, then the exits in their order.
    """
    decoder = decoder_of(model)
    seen: dict[int, torch.Tensor] = {}

    def keep(depth: int) -> Callable[..., None]:
        def hook(_layer: Any, _inputs: Any, output: Any) -> None:
            seen[depth] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [decoder.layers[depth - 1].register_forward_hook(keep(depth)) for depth in exits]
    try:
        states = [last_token_state(forward(), attention_mask)]
    finally:
        for hook in hooks:
            hook.remove()
    states += [decoder.norm(last_token_state(seen[depth], attention_mask)) for depth in exits]
    return torch.cat([state.float() for state in states], 1)
