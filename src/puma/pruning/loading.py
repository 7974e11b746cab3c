"""Loading a model's weights from a folder or hub name, of its decoder only the layers that stay.

Every load of PUMA goes through here, so that one place knows types, attention and quantisation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from puma.errors import InputError, ModelError, install_command
from puma.pruning.hub import model_folder
from puma.pruning.layers import cut, cut_config, decoder_of, kept_layers
from puma.pruning.loading_errors import loading_errors

DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}
"""Names of weight types; ``auto`` is the type that the weights were saved in."""

ATTENTION = ("sdpa", "eager", "flash_attention_2")
"""Implementations of attention that may be chosen; None leaves it to transformers."""

QUANTISATION = ("4bit",)
"""How frozen weights may be held in fewer bits than they were saved in (bitsandbytes' NF4, on CUDA only)."""


def weight_type(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """``auto`` or a torch type, of a name in :data:`DTYPES`.

    Raises:
        InputError: no such name.
    """
    if dtype is None or dtype == "auto":
        return "auto"
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}: give auto, fp32, bf16 or fp16")
    return DTYPES[dtype]


def load_model(
    path: str | os.PathLike[str],
    *,
    layers: int | None = None,
    keep_last: bool = False,
    dtype: torch.dtype | str | None = "auto",
    attn: str | None = None,
    quantise: str | None = None,
    head: bool = True,
    device: str | None = None,
) -> Any:
    """Load a model by the Auto classes; of its decoder, only the layers that stay are read and held.

    Args:
        path: a folder or a hub name.
        layers, keep_last: as :func:`puma.prune`; None keeps all layers.
        dtype: the weights' type: ``auto`` for the one they were saved in, a torch type, or a name in :data:`DTYPES`.
        attn: one of :data:`ATTENTION`, or None for transformers' choice.
        quantise: one of :data:`QUANTISATION`, or None.
        head: the whole multimodal class with its LM head where there is one (what ``puma prune`` writes); else the bare
            model, which is all that a retriever needs.
        device: where to put it; None leaves it on the CPU.

    Raises:
        InputError: no such folder; ``layers``, ``dtype``, ``attn`` or ``quantise`` out of range, or not usable here.
        ModelError: it cannot be loaded, or weights are missing: transformers would fill those at random.
    """
    kind = weight_type(dtype)
    folder = model_folder(path)
    options: dict[str, Any] = {"dtype": kind}
    if attn is not None:
        if attn not in ATTENTION:
            raise InputError(f"attn={attn!r}: give one of {', '.join(ATTENTION)}")
        options["attn_implementation"] = attn
    if quantise is not None:
        options |= _quantised(quantise, device)
    with loading_errors("model", path):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(os.fspath(folder))
        total = _depth(config)
    keep = None if layers is None else kept_layers(total, layers, keep_last=keep_last)
    if keep is not None and len(keep) < total:
        cut_config(config, keep, total)
    with loading_errors("model", path, attn=attn):
        model, report = _from_folder(folder, config, head, options)
        if keep is not None and len(keep) < total and keep[-1] == total - 1 and not _read_last(folder, model, total):
            # The last layer's tensors are not stored one to one under their own names: read all, then cut.
            config = AutoConfig.from_pretrained(os.fspath(folder))
            model, report = _from_folder(folder, config, head, options)
            cut(model, len(keep), keep_last=True)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"model {os.fspath(path)!r}: {len(missing)} weights are missing ({_some(missing)}), and would be random "
            "numbers; the files are incomplete or of another model: fetch them anew"
        )
    return model if device is None or quantise is not None else model.to(device)


def cast_weights(model: Any, target: torch.dtype) -> None:
    """Put all weights of a model into one type; its buffers keep theirs, as they do when a folder is loaded."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(target)


def saved_type(path: str | os.PathLike[str]) -> torch.dtype:
    """The type that a folder's weights are kept in, by its config.json, else by its first tensor of numbers."""
    from safetensors import safe_open
    from transformers import AutoConfig

    with loading_errors("model", path):
        config = AutoConfig.from_pretrained(os.fspath(path))
        named = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
        if isinstance(named, torch.dtype):
            return named
        for file in sorted(Path(path).glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - a safe_open is no mapping
                    kind = tensors.get_slice(name).get_dtype()
                    if kind in _HEADER_TYPES:
                        return _HEADER_TYPES[kind]
    return torch.float32


_HEADER_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def _from_folder(folder: Path, config: Any, head: bool, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModel, AutoModelForImageTextToText

    name = os.fspath(folder)
    for auto in (AutoModelForImageTextToText, AutoModel) if head else (AutoModel,):
        try:
            return auto.from_pretrained(name, config=config, output_loading_info=True, **options)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
    raise ValueError("it is of no family that the Auto classes load")


def _depth(config: Any) -> int:
    total = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(total, int):
        raise ValueError("its configuration names no number of decoder layers")
    return total


def _read_last(folder: Path, model: Any, total: int) -> bool:
    """Put the whole base's last layer into the model's last layer, from the files; False if its tensors are not stored
    one to one under a name that ends in ``layers.<last>.<weight>``."""
    from safetensors import safe_open

    layer = decoder_of(model).layers[-1]
    wanted = {name: weight for name, weight in layer.state_dict().items()}
    found: dict[str, tuple[Path, str]] = {}
    files = sorted(folder.glob("*.safetensors"))
    end = re.compile(rf"(?:^|\.)layers\.{total - 1}\.(.+)$")
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safe_open is no mapping
                match = end.search(name)
                if match is None or "vis" in name or match.group(1) not in wanted:
                    continue
                shape = tuple(tensors.get_slice(name).get_shape())
                if shape == tuple(wanted[match.group(1)].shape):
                    if match.group(1) in found:
                        return False
                    found[match.group(1)] = (file, name)
    if found.keys() != wanted.keys():
        return False
    with torch.no_grad():
        for name, (file, key) in found.items():
            with safe_open(file, "pt") as tensors:
                wanted[name].copy_(tensors.get_tensor(key))
    return True


def _quantised(quantise: str, device: str | None) -> dict[str, Any]:
    if quantise not in QUANTISATION:
        raise InputError(f"quantise={quantise!r}: give one of {', '.join(QUANTISATION)}, or None")
    if not torch.cuda.is_available():
        raise InputError(f"quantise={quantise!r} needs a CUDA device, and there is none here; leave it out")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise InputError(
            f"quantise={quantise!r} needs the package bitsandbytes: {install_command('quantised')}"
        ) from None
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": device or f"cuda:{torch.cuda.current_device()}"}}


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
