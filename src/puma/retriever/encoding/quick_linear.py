"""Matrix products by oneDNN where it is faster than MKL, which torch takes for fp32 on a CPU.

On processors that are not Intel's, MKL leaves half of them unused: on an AMD EPYC with AVX-512 it reaches 110 GFLOP/s
on one thread, oneDNN, which comes with torch too, 250. On older ones both are alike. Which one is faster here is
measured once, in some twenty milliseconds.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FEWEST_ROWS = 8
"""Of a product: with fewer, oneDNN takes as long to lay out the weights as it saves."""
WORTH = 1.3
"""How many times faster it must be, so that processes of one machine decide alike."""
SAME = 1e-5
"""How far outcomes may be apart, in parts of the largest."""
TRIAL, TRIES = (128, 768, 768), 5


def quick_linears(model: Any, autocast: torch.dtype | None = None) -> AbstractContextManager[Any]:
    """A block in which this thread's linear layers are computed by the faster library: of a model in fp32 on a CPU, the
    vectors within 1e-6. Nothing of the model is changed; gradients cannot be taken.

    Args:
        model: a torch model.
        autocast: the type to compute in; None for the weights' own.
    """
    first = next(model.parameters())
    if first.device.type != "cpu" or first.dtype != torch.float32 or autocast is not None:
        return contextlib.nullcontext()
    return OneDnnLinears() if onednn_pays() else contextlib.nullcontext()


def onednn_pays() -> bool:
    """Whether oneDNN is the faster one on the threads that torch has now; the first call measures it."""
    return _pays(torch.get_num_threads())


class OneDnnLinears(TorchFunctionMode):
    """Within it ``torch.nn.functional.linear`` of fp32 tensors on the CPU goes to oneDNN, all else its usual way."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        # Subclasses of tensors, as quantised weights are, come with their types.
        if func is functional.linear and not kwargs and all(kind in _PLAIN for kind in types) and _fits(*args[:2]):
            return _product(args[0], args[1], args[2] if len(args) > 2 else None)
        return func(*args, **(kwargs or {}))


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _fits(given: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        given.dtype is torch.float32
        and weight.dtype is torch.float32
        and given.device.type == "cpu"
        and given.numel() >= FEWEST_ROWS * given.shape[-1] > 0
        and weight.is_contiguous()
    )


def _product(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # What torch's own compiler puts into frozen models; the weights may also be as they are.
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return made


@functools.cache
def _pays(threads: int) -> bool:
    """Whether oneDNN is there, gives the same, and is faster on so many threads."""
    if not torch.backends.mkldnn.is_available():
        return False
    rows, width, out = TRIAL
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            given, weight = torch.randn(rows, width, generator=generator), torch.randn(out, width, generator=generator)
            plain, quick = functional.linear(given, weight), _product(given, weight, None)
            if not bool((plain - quick).abs().max() <= SAME * plain.abs().max()):
                return False
            times: list[list[float]] = [[], []]
            for turn in range(2 * TRIES):
                begun = time.perf_counter()
                _product(given, weight, None) if turn % 2 else functional.linear(given, weight)
                times[turn % 2].append(time.perf_counter() - begun)
    except (AttributeError, RuntimeError):  # a torch that is built without it, or has another one
        return False
    return min(times[0]) > WORTH * min(times[1])
