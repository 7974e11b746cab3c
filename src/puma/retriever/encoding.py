"""From items to hidden states and unit vectors: :func:`encode_batches`, the one loop of forward passes over items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import functional

from puma.errors import ImageError, InputError
from puma.items.item import Item
from puma.retriever.batches import CPU_PASS_CHARACTERS, length_sorted_groups, prefetched, preparing_threads
from puma.retriever.folding import fast_tower
from puma.retriever.inputs import Inputs, for_threads, why_unusable
from puma.retriever.pooling import last_token_state
from puma.retriever.stored_vision import VisionFeatures, stored_vision
from puma.retriever.writing import one_an_item

Features = dict[str, torch.Tensor]
Output = TypeVar("Output")


def token_states(model: Any, features: Features) -> torch.Tensor:
    """The states after the final norm of all tokens, [n, length, dim]."""
    kind = model.dtype
    if kind in (torch.bfloat16, torch.float16):  # not every family casts its pixels to its weights' type
        features = {key: value.to(kind) if value.is_floating_point() else value for key, value in features.items()}
    return model(**features, use_cache=False).last_hidden_state


def forward_states(model: Any, features: Features) -> torch.Tensor:
    """The raw (not normalised) states at ``[RET]`` after the final norm, [n, dim], in fp32."""
    return last_token_state(token_states(model, features), features["attention_mask"]).float()


def encode_batches(
    model: Any,
    inputs: Inputs,
    items: Sequence[Item],
    instructions: Sequence[str | None] | str | None = None,
    *,
    batch_size: int,
    forward: Callable[[Any, Features], Output],
    vision: VisionFeatures | None = None,
    autocast: torch.dtype | None = None,
    on_unreadable: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[list[int], Features, Output]]:
    """Run a model over items in batches of like length, prepared ahead on other threads.

    Args:
        model: in eval mode; no gradient is recorded.
        inputs: its input maker.
        items: n items.
        instructions: one for all, or one an item.
        batch_size: items a forward pass.
        forward: what is computed of a batch, from the model and its input tensors, on the model's device:
            :func:`forward_states`, :func:`token_states`.
        vision: stored outputs of the vision tower.
        autocast: the type to compute in; None for the weights' own.
        on_unreadable: called with (row, reason) for an item whose image cannot be used, which is left out; None: the
            first such image ends it.

    Yields:
        (rows, the input tensors on the CPU, what ``forward`` returned) of each batch; every row that can be read comes
        once, longest first.

    Raises:
        InputError: the batch size, or the number of instructions, is wrong.
        ImageError: an image cannot be used, where ``on_unreadable`` is None.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give a whole number of at least 1")
    instructions = one_an_item(instructions, items)
    device = next(model.parameters()).device
    cost = CPU_PASS_CHARACTERS if device.type == "cpu" else None
    groups = length_sorted_groups(items, batch_size, instructions, cost)
    threads = preparing_threads(device) if any(item.image is not None for item in items) else 1
    if threads > 1:
        inputs = for_threads(inputs)

    def features_of(rows: Sequence[int]) -> Features:
        features = inputs.features([items[i] for i in rows], [instructions[i] for i in rows], vision)
        # Out of pinned memory a copy to the device does not hold up what feeds it.
        return {key: value.pin_memory() for key, value in features.items()} if device.type == "cuda" else features

    def prepare(rows: list[int]) -> tuple[list[int], Features, dict[int, str]]:
        try:
            return rows, features_of(rows), {}
        except ImageError:
            faults = {i: reason for i in rows if (reason := why_unusable(inputs, items[i]))}
            if on_unreadable is None or not faults:
                raise
            readable = [i for i in rows if i not in faults]
            return readable, features_of(readable) if readable else {}, faults

    for _, (rows, features, faults) in prefetched(groups, prepare, threads):
        for row, reason in faults.items():
            if on_unreadable is not None:
                on_unreadable(row, reason)
        if not rows:
            continue
        moved = {key: value.to(device, non_blocking=True) for key, value in features.items()}
        # Not around the loop: what is entered here would be in force where the caller works on a batch.
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
            _tower_for(model, moved, vision),
        ):
            output = forward(model, moved)
        yield rows, features, output


def _tower_for(model: Any, features: Features, vision: VisionFeatures | None) -> AbstractContextManager[None]:
    """How a batch goes through the vision tower. A batch of texts does not, and needs no preparation of it."""
    if vision is not None:
        return stored_vision(model)
    return fast_tower(model) if "pixel_values" in features else nullcontext()


def encode_items(
    model: Any,
    inputs: Inputs,
    items: Sequence[Item],
    *,
    instruction: str | Sequence[str | None] | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
    vision: VisionFeatures | None = None,
    autocast: torch.dtype | None = None,
    tokens: np.ndarray | None = None,
) -> np.ndarray:
    """Embed items: float32 [n, dim], unit rows, in the order given. The loop under ``Retriever.encode``. Into
    ``tokens`` (integers [n]) goes how many the model read of each."""
    from tqdm import tqdm

    out = np.empty((len(items), model.get_input_embeddings().weight.shape[1]), dtype=np.float32)
    batches = encode_batches(
        model,
        inputs,
        items,
        instruction,
        batch_size=batch_size,
        forward=forward_states,
        vision=vision,
        autocast=autocast,
    )
    with tqdm(total=len(items), unit="item", desc="embedding", disable=not show_progress) as bar:
        for rows, features, states in batches:
            if tokens is not None:
                tokens[rows] = features["attention_mask"].sum(1).cpu().numpy()
            out[rows] = functional.normalize(states, dim=-1).cpu().numpy()
            bar.update(len(rows))
    return out


def has_fast_bf16() -> bool:
    """Whether bf16 is faster than fp32 here: on CUDA, and on CPUs with bf16 instructions. On others it is emulated, and
    slower."""
    if torch.cuda.is_available():
        return True
    tell = getattr(torch.cpu, "get_capabilities", None)  # an older torch cannot tell
    capabilities: dict[str, Any] = dict(tell()) if tell else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
