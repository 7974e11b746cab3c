"""What a stage trains, the type that everything else is held in meanwhile, and the merge of adapters at its end.

What is trained is fp32, always. A base that is frozen under LoRA adapters may be held in bf16 or, its decoder layers'
linear weights, in four bits (bitsandbytes' nf4). Batch norms stay fp32, and so do buffers: rotary frequencies in bf16
would turn positions by whole degrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from puma.errors import InputError, install_command
from puma.pruning import decoder_of
from puma.pruning.loading import cast_weights
from puma.retriever.model import Retriever
from puma.training.config import TrainConfig
from puma.training.teacher.dual_depth import DualDepth

LORA_TARGETS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
BLOCK = 64
"""Weights that share one fp32 scale in four bits."""


def choose_trainable(retriever: Retriever, st: Any, config: TrainConfig) -> None:
    """Train the decoder's layers, in full or by adapters, and the projector and the vision tower if they have a rate;
    token embeddings stay frozen."""
    model = retriever.model
    model.requires_grad_(False)
    decoder = decoder_of(model)
    if config.lora_rank:
        from peft import LoraConfig, get_peft_model

        path = "".join(f"{name}." for name, module in model.named_modules() if module is decoder and name)
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            # On the decoder's own path: a bare layer pattern would also hit LLaVA's and Gemma3's vision towers.
            target_modules=rf"{path}layers\.\d+\..*({LORA_TARGETS})",
        )
        st[0].model = get_peft_model(model, lora)
    else:
        decoder.layers.requires_grad_(True)
        decoder.norm.requires_grad_(True)
    projector = getattr(model, "multi_modal_projector", None)
    if config.projector_rate:
        if projector is None:
            raise InputError("projector_rate: this family has no 'multi_modal_projector' of its own; set it to 0")
        projector.requires_grad_(True)
    if config.tower_rate:
        model.get_encoder("image").requires_grad_(True)
    if config.gradient_checkpointing:
        checkpoint_activations(model, "enable")


def checkpoint_activations(model: Any, switch: str) -> None:
    """``enable`` or ``disable`` it in the decoder, which alone has a backward pass worth it. Not by the trainer's own
    setting, which asks sentence-transformers for a method that it lacks (6.2)."""
    decoder = decoder_of(model)
    # transformers renamed it in version 5.20 or so, and warns of the old name
    named = "activation" if hasattr(decoder, "activation_checkpointing_enable") else "gradient"
    options = ({"use_reentrant": False},) if switch == "enable" else ()
    getattr(decoder, f"{named}_checkpointing_{switch}")(*options)


def check_four_bits() -> None:
    """Raise InputError unless a base can be held in four bits here."""
    if not torch.cuda.is_available():
        raise InputError("base_precision='4bit': needs a CUDA GPU, and there is none here; give bf16 or fp32")
    if find_spec("bitsandbytes") is None:
        raise InputError(f"base_precision='4bit': needs bitsandbytes: {install_command('quantised')}; or give bf16")


def hold(model: Any, kind: str) -> None:
    """Put every weight into the type it is held in while a stage runs: what is trained into fp32, the rest into
    ``kind``.

    Args:
        model: with its trainable weights chosen; in place. On the GPU already, if ``kind`` is ``4bit``.
        kind: ``fp32``, ``bf16`` or ``4bit`` (then what is not cut to four bits is bf16).

    Raises:
        InputError: four bits without a GPU or without bitsandbytes.
    """
    if kind == "4bit":
        check_four_bits()
        for owner, name, linear in list(_frozen_linears(model)):
            setattr(owner, name, _quantised(linear))
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if weight.is_floating_point():
                weight.data = weight.data.to(_type(module, weight, kind))


def held_bytes(model: Any, kind: str) -> int:
    """Bytes of a model's weights once :func:`hold` has them, without doing it: what a dry run counts.

    Args:
        model: with its trainable weights chosen, on any device.
    """
    four = {id(linear.weight) for _, _, linear in _frozen_linears(model)} if kind == "4bit" else set()
    counted: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            size = weight.numel() * _type(module, weight, kind).itemsize
            if id(weight) in four:
                size = weight.numel() // 2 + 4 * -(-weight.numel() // BLOCK)
            counted[id(weight)] = size
    return sum(counted.values())


def merge_adapters(model: Any, target: torch.dtype) -> Any:
    """Add the adapters to the weights below them, each sum in fp32, and return the model without peft's wrapper.

    Args:
        model: peft's wrapper, as :func:`choose_trainable` and :func:`hold` left it.
        target: the type that all weights have afterwards.
    """
    from peft.tuners.lora import LoraLayer

    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        layer.base_layer = _plain(layer.get_base_layer())
        layer.base_layer.weight.data = layer.base_layer.weight.data.float()
        layer.merge()
        layer.base_layer.weight.data = layer.base_layer.weight.data.to(target)
    merged = model.unload()
    for owner in list(merged.modules()):
        for name, child in owner.named_children():
            setattr(owner, name, _plain(child))
    cast_weights(merged, target)
    return merged


def _type(module: nn.Module, weight: torch.Tensor, kind: str) -> torch.dtype:
    plain = kind == "fp32" or weight.requires_grad or isinstance(module, nn.modules.batchnorm._BatchNorm)
    return torch.float32 if plain else torch.bfloat16


def _frozen_linears(model: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(owner, name, layer) of the decoder layers' linear layers, adapters' own left out."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for owner in decoder_of(inner).layers.modules():
        for name, child in owner.named_children():
            if type(child) is nn.Linear and not child.weight.requires_grad:
                yield owner, name, child


def _quantised(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    device = linear.weight.device
    with torch.device("meta"):
        new = Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=False,
            quant_type="nf4",
        )
    new.weight = Params4bit(
        linear.weight.data.to("cpu", torch.bfloat16),
        requires_grad=False,
        compress_statistics=False,
        quant_type="nf4",
        module=new,
    )
    new.bias = linear.bias
    return new.to(device)  # what cuts the weights to four bits


def _plain(layer: nn.Module) -> nn.Module:
    """A linear layer in four bits as an ordinary one; any other as it is."""
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    if state is None:
        return layer
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, state)
    with torch.device("meta"):
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = layer.bias
    return plain


def finish_model(
    retriever: Retriever, pipeline: Any, config: TrainConfig, shared: DualDepth | None, frozen_type: str
) -> None:
    """Leave the retriever a plain model: adapters merged, a shared teacher's deep layers gone, frozen, in eval mode."""
    if config.lora_rank:
        target = torch.float32 if frozen_type == "fp32" else retriever.saved_dtype
        retriever.model = merge_adapters(pipeline[0].model, target)
    if shared is not None:
        shared.cut(retriever.model)
    if config.gradient_checkpointing:
        checkpoint_activations(retriever.model, "disable")
    retriever.model.requires_grad_(False).eval()
