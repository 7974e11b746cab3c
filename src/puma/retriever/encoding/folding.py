"""Vision towers folded for inference: batch norms go into the convolutions before them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

_COPIES: WeakKeyDictionary[torch.nn.Module, tuple[Any, torch.nn.Module]] = WeakKeyDictionary()
"""A tower's folded copy, with what its weights were when it was made."""


@contextlib.contextmanager
def fast_tower(model: Any) -> Iterator[None]:
    """Within the block, images go through a folded copy of the vision tower, where there is anything to fold: an
    EfficientNet in float32 on the CPU. The copy is made once, and anew when the tower's weights have changed.

    Measured on puma-mini at 192 pixels, one thread: 30 images a second instead of 14, vectors within 7e-7.
    """
    tower = getattr(model, "vision_tower", None)
    if tower is None or not _foldable(tower):
        yield
        return
    # Another thread may be inside already: it then finds the copy, which has nothing left to fold.
    model.vision_tower = _copy_of(tower)
    try:
        yield
    finally:
        model.vision_tower = tower


def _foldable(tower: torch.nn.Module) -> bool:
    if type(tower).__name__ != "EfficientNetModel":  # without the import, which takes a second
        return False
    if not isinstance(getattr(tower.embeddings, "batchnorm", None), torch.nn.BatchNorm2d):
        return False  # folded already
    weight = next(tower.parameters())
    return not tower.training and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _copy_of(tower: torch.nn.Module) -> torch.nn.Module:
    state = tuple((t.data_ptr(), t._version) for t in (*tower.parameters(), *tower.buffers()))
    found = _COPIES.get(tower)
    if found is None or found[0] != state:
        with torch.inference_mode(False), torch.no_grad():
            found = state, fast_copy(tower).to(memory_format=torch.channels_last)
        _COPIES[tower] = found
    return found[1]


def fast_copy(model: Any) -> Any:
    """A copy for inference that gives the same to rounding, about twice as fast: in an EfficientNet, batch norms are
    folded into the convolutions before them and squeeze-and-excite layers that multiply by one are dropped."""
    model = copy.deepcopy(model).eval()
    if type(model).__name__ != "EfficientNetModel":
        return model
    pairs = [(model.embeddings, "convolution", "batchnorm"), (model.encoder, "top_conv", "top_bn")]
    for block in model.encoder.blocks:
        if block.expand:
            pairs.append((block.expansion, "expand_conv", "expand_bn"))
        pairs.append((block.depthwise_conv, "depthwise_conv", "depthwise_norm"))
        pairs.append((block.projection, "project_conv", "project_bn"))
        last = block.squeeze_excite.expand
        if not last.weight.any() and bool((torch.sigmoid(last.bias) == 1).all()):
            block.squeeze_excite = torch.nn.Identity()
    for owner, convolution, norm in pairs:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, torch.nn.Identity())
    for module in model.modules():
        if isinstance(module, torch.nn.Hardtanh):  # ReLU6 too; what a convolution has made is read by nobody else
            module.inplace = True
    return model
