"""States that a model pruned to any depth would give, for all depths from one forward pass of the full model.

Hooks, not ``output_hidden_states``: Qwen3-VL records a layer's output before DeepStack's features are added to it,
and no family records what its last layer would make of a shallow state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from puma.errors import ModelError
from puma.pruning import decoder_of
from puma.retriever.pooling import last_token_state

FIRST, KEEP_LAST = "first", "keep_last"
VARIANTS = (FIRST, KEEP_LAST)
"""The two ways of pruning to k layers: the first k, or the first k - 1 and the last."""

Read = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class _Seen:
    """What one forward pass showed: per layer its input, what was added to its output before the next one took it, and
    the arguments that the last layer was called with."""

    inputs: list[torch.Tensor]
    added: list[torch.Tensor]
    arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    output: torch.Tensor | None = None


def depth_states(
    model: Any, features: Mapping[str, torch.Tensor], *, variants: Sequence[str] = VARIANTS, read: Read | None = None
) -> dict[str, torch.Tensor]:
    """The states that the model, pruned to each of its depths, would give: after the final norm, in fp32.

    ``keep_last`` costs one more run of the last layer for each depth, in the same pass: it is called on every earlier
    layer's input with the very arguments (mask of its own kind, positions) that the model gave it. What the model adds
    between two layers (DeepStack) is added at the same place there. Until that is done the inputs of all layers are
    held: layers x rows x length x dim values more than an ordinary pass needs.

    Args:
        model: a transformers model with L decoder layers, unpruned; put it in eval mode and inference mode around this.
        features: one batch of its inputs.
        variants: of :data:`VARIANTS`.
        read: takes what is wanted from a hidden state [n, length, dim]; by default the last attended position,
            ``[RET]``.

    Returns:
        By variant [L, ...]: row k - 1 holds depth k, in the shape that ``read`` gives ([n, dim]). At k = L both
        variants are the full model.

    Raises:
        ModelError: the model has no decoder layers, or does not run each of them once in a pass.
    """
    decoder = decoder_of(model)
    layers = list(decoder.layers)
    if read is None:
        mask = features["attention_mask"]

        def read(hidden: torch.Tensor) -> torch.Tensor:
            return last_token_state(hidden, mask)

    with _watched(decoder, read) as seen:
        model(**features, use_cache=False)
    if len(seen.inputs) != len(layers) + 1 or seen.arguments is None:
        raise ModelError(
            f"{type(model).__name__} ran {max(len(seen.inputs) - 1, 0)} decoder layers of {len(layers)} in one pass: "
            "its depths cannot be told apart"
        )
    raw: dict[str, list[torch.Tensor]] = {FIRST: [read(hidden) for hidden in seen.inputs[1:]]}
    if KEEP_LAST in variants:
        args, kwargs = seen.arguments
        alone = [
            read(_first(layers[-1](hidden, *args, **kwargs))) + added
            for hidden, added in zip(seen.inputs[:-2], seen.added, strict=False)
        ]
        raw[KEEP_LAST] = [*alone, raw[FIRST][-1]]
    return {variant: torch.stack([decoder.norm(state) for state in raw[variant]]).float() for variant in variants}


@contextlib.contextmanager
def _watched(decoder: nn.Module, read: Read) -> Iterator[_Seen]:
    """Hooks on every layer and the final norm, for the time of the block."""
    seen, last = _Seen([], []), decoder.layers[-1]

    def enters(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if seen.output is not None:
            seen.added.append(read(hidden) - read(seen.output))
        seen.inputs.append(hidden)
        if module is last:
            seen.arguments = args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}

    def leaves(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.output = _first(output)

    handles = [layer.register_forward_hook(leaves) for layer in decoder.layers]
    handles += [
        module.register_forward_pre_hook(enters, with_kwargs=True) for module in (*decoder.layers, decoder.norm)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def depth_flops(model: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> list[float]:
    """Floating-point operations of embedding the batches at depth 1..L: the vision tower, the projector and the first k
    decoder layers, as PyTorch counts them while the model runs (matrix products, convolutions, attention).

    Either variant of pruning costs the same: the layers of a decoder have one shape.
    """
    from torch.utils.flop_counter import FlopCounterMode

    decoder = decoder_of(model)
    total = [0.0] * len(decoder.layers)
    for features in batches:
        marks: list[float] = []
        counter = FlopCounterMode(display=False)

        def mark(*_: Any, counter: FlopCounterMode = counter, marks: list[float] = marks) -> None:
            marks.append(float(counter.get_total_flops()))

        handles = [module.register_forward_pre_hook(mark) for module in (*decoder.layers, decoder.norm)]
        try:
            with torch.no_grad(), counter:
                model(**features, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        total = [so_far + here for so_far, here in zip(total, marks[1:], strict=True)]
    return total
