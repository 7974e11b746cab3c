"""A training step's work, measured without doing it: a few layers of the real decoder on fake tensors.

One and two layers, with the adapters that training would give them, run forward and backward on tensors of the step's
true sizes and without contents; what the second layer adds is added for every further one, since the layers of all the
families are of one kind. On fake tensors of the CPU, not on the meta device: only there does autocast take hold.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from puma.pruning import decoder_of
from puma.pruning.shapes import counted_model, empty_model
from puma.training.config import TrainConfig
from puma.training.trainable import choose_trainable, held_bytes, hold

PROJECTORS = ("merger", "projector", "connector", "modality_projection")
"""In the names of modules that work on an image's tokens, not on its patches."""


def trainable_parameters(config: Any, train: TrainConfig, layers: int | None = None) -> tuple[int, int]:
    """How many parameters move in a stage at a depth (None: all layers), and how many of them are added adapters."""
    whole = int(config.get_text_config().num_hidden_layers)
    depth = whole if layers is None else layers
    if depth <= 2:
        return _probe(*_key(config, train, depth)).counts[:2]
    moved, added, _ = _counts(config, train, depth)
    return moved, added


def weight_bytes(config: Any, train: TrainConfig, layers: int | None = None) -> int:
    """Bytes of all weights, adapters included, as a stage holds them at a depth (None: all layers)."""
    whole = int(config.get_text_config().num_hidden_layers)
    depth = whole if layers is None else layers
    return _probe(*_key(config, train, depth)).counts[2] if depth <= 2 else _counts(config, train, depth)[2]


def _counts(config: Any, train: TrainConfig, depth: int) -> tuple[int, int, int]:
    one, two = (_probe(*_key(config, train, d)).counts for d in (1, 2))
    moved, added, size = (b + (depth - 2) * (b - a) for a, b in zip(one, two, strict=True))
    return moved, added, size


def decoder_work(config: Any, train: TrainConfig, items: int, length: int, depth: int) -> tuple[int, int, int]:
    """Bytes kept for backward, FLOPs forward, FLOPs of both, of ``items`` sequences: layers beyond the second cost what
    the second did. (The first costs less: what comes before it needs no gradient.)"""
    if depth <= 2:
        return _measured(config, train, items, length, depth)
    one, two = (_measured(config, train, items, length, d) for d in (1, 2))
    saved, forward, both = (b + (depth - 2) * (b - a) for a, b in zip(one, two, strict=True))
    return saved, forward, both


def vision_flops(config: Any, tokens: int, patches: int) -> dict[str, int]:
    """FLOPs of one image up to the decoder: ``total``, and the ``projector``'s part.

    Transformers' towers by their linear layers and attention; convolutional ones by the counter, on the meta device.
    """
    model = counted_model(config)
    decoder = decoder_of(model)
    tower = model.get_encoder("image")
    inside = {id(m) for m in decoder.modules()}
    convolutional = sum(isinstance(m, nn.Conv2d) for m in tower.modules()) > 1
    skipped = inside | ({id(m) for m in tower.modules()} if convolutional else set())
    work = {"total": 0, "projector": 0}
    for name, module in model.named_modules():
        if id(module) in skipped or not isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            continue
        late = any(word in name for word in PROJECTORS)
        flops = 2 * module.weight.numel() * (tokens if late else patches)
        work["total"] += flops
        work["projector"] += flops if late else 0
    if convolutional:
        work["total"] += _counted(tower, int(config.vision_config.image_size))
    else:
        vision = config.vision_config
        depth, width = _depth_and_width(vision)
        window = getattr(vision, "window_size", None)
        wide = len(getattr(vision, "fullatt_block_indexes", ())) if window else depth
        seen = wide * patches + (depth - wide) * min(patches, (window // vision.patch_size) ** 2 if window else patches)
        work["total"] += 4 * width * patches * seen
    return work


def vision_bytes(config: Any, train: TrainConfig, patches: int) -> int:
    """The frozen tower's largest block while it runs: its stream, queries, keys, values and the MLP's inside."""
    vision = config.vision_config
    if not patches or getattr(vision, "patch_size", None) is None:  # a convolutional tower's maps are small
        return 0
    _, width = _depth_and_width(vision)
    inside = getattr(vision, "intermediate_size", None) or width * int(getattr(vision, "mlp_ratio", 4))
    return patches * (5 * width + 2 * int(inside)) * (2 if train.precision == "bf16" else 4)


def _measured(config: Any, train: TrainConfig, items: int, length: int, depth: int) -> tuple[int, int, int]:
    return _fake_step(
        *_key(config, train, depth),
        items,
        length,
        train.precision == "bf16",
        train.projector_rate + train.tower_rate > 0,
    )


@dataclass(frozen=True)
class _Shape:
    """Carries what the cached functions need; equal to every other, since the key beside it tells them apart."""

    config: Any = field(compare=False)
    train: TrainConfig = field(compare=False)


def _key(config: Any, train: TrainConfig, depth: int) -> tuple[_Shape, str, tuple[Any, ...], int]:
    plain = replace(train, gradient_checkpointing=False)  # checkpointing is reckoned from what it would have kept
    decides = (
        train.lora_rank,
        train.lora_dropout > 0,
        train.projector_rate > 0,
        train.tower_rate > 0,
        train.frozen_type,
    )
    return _Shape(config, plain), config.to_json_string(), decides, depth


@dataclass(frozen=True)
class _Probe:
    """A few layers of a decoder on fake tensors; and of the model around it the parameters that move, those added, and
    the bytes of all."""

    decoder: Any
    mode: Any
    counts: tuple[int, int, int]


@functools.lru_cache(maxsize=64)
def _probe(shape: _Shape, config: str, decides: tuple[Any, ...], depth: int) -> _Probe:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = empty_model(shape.config, depth).train()
    before = sum(p.numel() for p in model.parameters())
    decoder, holder = decoder_of(model), [SimpleNamespace(model=model)]
    choose_trainable(SimpleNamespace(model=model), holder, shape.train)  # type: ignore[arg-type]
    trained = holder[0].model
    moved = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    added = sum(p.numel() for p in trained.parameters()) - before
    kind = shape.train.frozen_type
    size = held_bytes(trained, kind)
    # Four bits: a layer keeps for the backward pass what it does in bf16, of which it is made afresh each time.
    hold(trained, "bf16" if kind == "4bit" else kind)
    mode = FakeTensorMode()
    with mode:
        _fill(decoder)
    return _Probe(decoder, mode, (moved, added, size))


@functools.lru_cache(maxsize=256)
def _fake_step(
    shape: _Shape,
    config: str,
    decides: tuple[Any, ...],
    depth: int,
    items: int,
    length: int,
    autocast: bool,
    wants_gradient: bool,
) -> tuple[int, int, int]:
    probe = _probe(shape, config, decides, depth)
    with probe.mode:
        kind = torch.float32 if shape.train.frozen_type == "fp32" else torch.bfloat16  # as token embeddings come
        width = shape.config.get_text_config().hidden_size
        hidden = torch.empty(items, length, width, dtype=kind, requires_grad=wants_gradient)
        return step_work(probe.decoder, hidden, autocast)


def step_work(decoder: Any, hidden: torch.Tensor, autocast: bool) -> tuple[int, int, int]:
    """Run a decoder forward and backward and account for it.

    Args:
        decoder: on the device of ``hidden``, its parameters set to train or not.
        hidden: embedded tokens, [items, length, dim].
        autocast: to bf16.

    Returns:
        Bytes kept for the backward pass (parameters apart), FLOPs forward, FLOPs forward and backward.
    """
    from torch.utils.flop_counter import FlopCounterMode

    own = {p.untyped_storage()._cdata for p in decoder.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=autocast),
        FlopCounterMode(display=False) as counter,
    ):
        state = decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
        forward = counter.get_total_flops()
        state.float().sum().backward()
        both = counter.get_total_flops()
    return sum(storage.nbytes() for storage in kept.values()), int(forward), int(both)


def _fill(module: nn.Module) -> None:
    """Exchange meta parameters and buffers for fake ones of the CPU: only there does autocast take hold."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(
                    torch.empty(value.shape, dtype=value.dtype), requires_grad=value.requires_grad
                )
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _depth_and_width(vision: Any) -> tuple[int, int]:
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    return int(depth), int(getattr(vision, "embed_dim", None) or vision.hidden_size)


def _counted(tower: Any, size: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower.eval()(pixel_values=torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops())
