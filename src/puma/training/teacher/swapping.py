"""What a shared teacher swaps inside a live model for the length of one forward pass, and puts back.

Each function is a context manager that restores what it found, also after an exception. They go around torch's and
peft's public ways, which are too slow for every chunk of every step or change more than they should:

- ``forward`` set on an instance hides the class's (:func:`swapped_forward`). Were torch to call the class's forward
  directly, the teacher would never run: :class:`~puma.training.teacher.dual_depth.DualDepth` counts and raises.
- A decoder's layers are exchanged in ``Module._modules`` (:func:`swapped_layers`). Were torch to keep modules
  elsewhere, this raises a KeyError.
- ``training`` is set past ``Module.__setattr__`` (:func:`eval_mode`), which looks for parameters first.
- ``_disable_adapters`` is the private switch of peft's layers (:func:`adapters_off`); its public one flips
  ``requires_grad``, of what its user froze as well. Were peft to rename it, adapters would stay on in the teacher:
  :func:`adapted_modules` refuses such layers with a ModelError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from puma.errors import ModelError

SWITCH = "_disable_adapters"
"""peft's private switch, on every layer that carries adapters."""
PARTS = "adapter_layer_names"
"""peft's list of what it added to a layer, by which its layers are known."""


def adapted_modules(module: nn.Module) -> list[Any]:
    """The modules within that carry adapters.

    Raises:
        ModelError: peft no longer has the switch that turns them off.
    """
    found: list[Any] = []
    for part in module.modules():
        if hasattr(part, SWITCH):
            found.append(part)
        elif getattr(part, PARTS, None):
            raise ModelError(
                f"{type(part).__name__}: peft's layer has no {SWITCH}, by which teacher='shared' turns its adapters "
                "off; install the peft that this version of PUMA names, or take teacher='store'"
            )
    return found


def adapter_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that peft's layers added to a module: without effect when adapters are off."""
    for layer in module.modules():
        for name in getattr(layer, PARTS, ()):
            part = getattr(layer, name, None)
            if isinstance(part, nn.Module):
                yield from part.parameters()


@contextlib.contextmanager
def adapters_off(modules: Sequence[Any]) -> Iterator[None]:
    """Run these modules (:func:`adapted_modules`) without their adapters."""
    changed = [module for module in modules if not module._disable_adapters]
    try:
        for module in changed:
            object.__setattr__(module, SWITCH, True)
        yield
    finally:
        for module in changed:
            object.__setattr__(module, SWITCH, False)


@contextlib.contextmanager
def eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put these very modules, not what is in them, into eval mode."""
    changed = [module for module in modules if module.training]
    try:
        for module in changed:
            object.__setattr__(module, "training", False)
        yield
    finally:
        for module in changed:
            object.__setattr__(module, "training", True)


@contextlib.contextmanager
def swapped_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call ``forward`` in place of the module's own."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = before


@contextlib.contextmanager
def swapped_layers(decoder: nn.Module, layers: nn.ModuleList, fields: Mapping[str, Any]) -> Iterator[None]:
    """Give a decoder other layers, and its configuration the fields that go with them."""
    kept, settings = decoder._modules["layers"], decoder.config.__dict__
    before = {name: settings[name] for name in fields}
    try:
        decoder._modules["layers"] = layers
        settings.update(fields)
        yield
    finally:
        settings.update(before)
        decoder._modules["layers"] = kept


def at_last_token(mlp: Callable[[torch.Tensor], torch.Tensor], mask: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A forward of the last layer's MLP that computes the last attended token alone: nothing reads its other rows."""
    rows = torch.arange(mask.shape[0], device=mask.device)
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)

    def forward(hidden: torch.Tensor) -> torch.Tensor:  # [n, length, dim]
        state = mlp(hidden[rows, last].unsqueeze(1))
        if not isinstance(state, torch.Tensor):  # a mixture of experts may return its routing too
            return mlp(hidden)
        out = torch.zeros_like(hidden, dtype=state.dtype)
        out[rows, last] = state.squeeze(1)
        return out

    return forward


def remember_deepstack(model: Any) -> Callable[[], None]:
    """Remembers Qwen3-VL's DeepStack parts; the function returned puts them back after a cut."""
    found: list[tuple[Any, str, Any]] = []
    for module in model.modules():
        if isinstance(getattr(module, "deepstack_merger_list", None), nn.ModuleList):
            found.append((module, "deepstack_merger_list", module.deepstack_merger_list))
            for owner in (getattr(module, "config", None), module):
                indexes = getattr(owner, "deepstack_visual_indexes", None)
                if indexes is not None:
                    found.append((owner, "deepstack_visual_indexes", list(indexes)))

    def restore() -> None:
        for owner, name, value in found:
            setattr(owner, name, value)

    return restore
