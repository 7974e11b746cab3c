"""Gradient caching: a contrastive batch of any size in the memory of one small part of it.

The states of all items are computed part by part without a graph; the loss is computed on them; in the backward pass
each part is run again, with a graph this time, and sends its gradient on at once. Costs one more forward pass. Source:
GradCache (Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from puma.errors import InputError
from puma.losses.batch_keys import ROWS, WITH_IMAGE

Part = dict[str, Any]
"""The model's input tensors for some items, and under :data:`puma.losses.batch_keys.PART_KEYS` which those are."""

PATCHES = "image_grid_thw"
"""Where it is there (Qwen-VL), an image's patches lie one after the other in ``pixel_values``."""


def split_part(part: Part, size: int) -> list[Part]:
    """Cut a batch of features into parts of at most ``size`` items.

    Tensors with a row an item are cut by items; those with a row an *image* by the images of these items; those with
    a row a patch by the patches of these images. Counting an image's rows as items would hand items the images of
    others.

    Args:
        part: input tensors; :data:`puma.losses.batch_keys.WITH_IMAGE` tells which items have an image (one each).
        size: >= 1.

    Raises:
        InputError: the size, or a tensor that has a row neither an item, nor an image, nor a patch.
    """
    if size < 1:
        raise InputError(f"grad_cache={size}: give the number of items to run at once, at least 1")
    n = len(part[ROWS])
    if n <= size:
        return [part]
    if WITH_IMAGE not in part:
        raise InputError(f"a batch to be cut for grad_cache needs {WITH_IMAGE}, as puma.training.collating makes it")
    images = [0, *part[WITH_IMAGE].long().cumsum(0).tolist()]
    grid = part.get(PATCHES)
    patches = [0, *grid.prod(1).cumsum(0).tolist()] if grid is not None else []
    cut: list[Part] = []
    for start in range(0, n, size):
        stop = min(start + size, n)
        first, last = images[start], images[stop]
        piece: Part = {}
        for key, value in part.items():
            if not isinstance(value, torch.Tensor):
                piece[key] = value
            elif first == last and key.startswith(("pixel", "image")):
                continue  # no image among these: the model is given none, as for a batch of texts
            elif grid is not None and key == "pixel_values":
                piece[key] = value[patches[first] : patches[last]]
            elif value.shape[0] == n:
                piece[key] = value[start:stop]
            elif value.shape[0] == images[-1]:
                piece[key] = value[first:last]
            else:
                raise InputError(
                    f"{key} {list(value.shape)}: has a row neither for each of {n} items nor {images[-1]} images; "
                    "grad_cache cannot cut it, set it to 0"
                )
        cut.append(piece)
    return cut


def cached_states(
    run: Callable[[Part], torch.Tensor],
    again: Callable[[Part], torch.Tensor],
    parts: Sequence[Part],
    model: Any,
) -> torch.Tensor:
    """States of all parts, [n, d] in the parts' order, whose backward runs each part a second time.

    Args:
        run: a part's states [n, d]; called without a graph, once a part.
        again: the same states, called with a graph in the backward pass, after random numbers and autocast were set
            back to what ``run`` saw.
        parts: what to run, each small enough for memory.
        model: the trained module; if it is a ``DistributedDataParallel``, gradients are exchanged with the last part
            only.
    """
    trigger = torch.empty(0, requires_grad=True)  # autograd calls backward only where an input wants a gradient
    return _Cached.apply(trigger, run, again, list(parts), model)


class _Cached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        trigger: torch.Tensor,
        run: Callable[..., Any],
        again: Callable[..., Any],
        parts: list[Part],
        model: Any,
    ) -> torch.Tensor:
        states, ctx.replays = [], []
        for part in parts:
            ctx.replays.append(_Replay(part))
            states.append(run(part))
        ctx.again, ctx.parts, ctx.model = again, parts, model
        ctx.lengths = [len(part) for part in states]
        return torch.cat(states)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, ...]:
        pieces = gradients[0].split(ctx.lengths)
        for number, (part, replay, piece) in enumerate(zip(ctx.parts, ctx.replays, pieces, strict=True)):
            last = number + 1 == len(pieces)
            quiet = getattr(ctx.model, "no_sync", None)
            silence = quiet() if quiet is not None and not last else contextlib.nullcontext()
            with silence, torch.enable_grad():
                with replay():
                    states = ctx.again(part)
                torch.autograd.backward(states, piece.to(states.dtype))
        return (None,) * 5


class _Replay:
    """The random numbers and the autocast setting of a moment, to be had again."""

    def __init__(self, part: Part) -> None:
        self.device = next(v.device for v in part.values() if isinstance(v, torch.Tensor))
        self.cpu = torch.get_rng_state()
        self.gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        kind = self.device.type
        self.autocast: dict[str, Any] = {
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
        }

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        devices = [self.device] if self.gpu is not None else []
        with torch.random.fork_rng(devices=devices), torch.autocast(self.device.type, **self.autocast):
            torch.set_rng_state(self.cpu)
            if self.gpu is not None:
                torch.cuda.set_rng_state(self.gpu, self.device)
            yield
