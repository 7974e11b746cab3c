"""Folders that hold an adapter only (peft's ``adapter_config.json`` and ``adapter_model.safetensors``): their base, and
the model with the adapter merged into it.

peft does the merging; this module finds the modules: one adapter is written under
``model.language_model.layers`` by a trainer of the whole multimodal class, under ``language_model.layers`` by one of
the bare model, under ``0.auto_model...`` around a SentenceTransformer, and under ``model.layers`` by older releases.
"""

from __future__ import annotations

import copy
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from puma.errors import InputError, ModelError, first_line, require
from puma.pruning.hub import ADAPTER_CONFIG
from puma.retriever.dimensions import note_dimensions

CONFIG = ADAPTER_CONFIG
WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_SAVED_UNDER = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.(?P<part>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?P<end>\.\w+)?")
_TOKENS = re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta(?:\.\w+)?")
_INSERTED = ("", "language_model.", "model.", "model.language_model.")
"""What a module's name may lack at its front, in the order in which it is tried."""
_HEADS = ("lm_head", "score", "classifier")
"""Modules that a retriever has not: an adapter's weights for them are left out."""


def base_of(path: str | os.PathLike[str]) -> str:
    """The folder or hub name of the model that an adapter was trained on. A relative folder may lie beside the adapter.

    Raises:
        ModelError: the adapter's configuration cannot be read, or names none.
        InputError: it names a folder that is not here.
    """
    folder = Path(path)
    name = _config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(f"adapter {str(folder)!r}: {CONFIG} names no base; put one into base_model_name_or_path")
    for place in (Path(name).expanduser(), folder / name, folder.parent / name):
        if place.is_dir():
            return str(place)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return name
    raise InputError(
        f"adapter {str(folder)!r}: its base {name!r} is not here; put it there, or correct base_model_name_or_path in "
        f"{folder / CONFIG}"
    )


def with_adapter(model: Any, path: str | os.PathLike[str]) -> Any:
    """Merge an adapter's weights into a model, in fp32; the model's own types stay.

    Args:
        model: a transformers model, with or without its LM head, not quantised. It is changed.
        path: the adapter's folder.

    Returns:
        The model, without any trace of peft.

    Raises:
        ModelError: the adapter is of another kind than LoRA, its files are damaged, or it does not fit: names the first
            module that is not there or of another shape.
        DependencyError: peft is not installed.
    """
    require("merging a LoRA adapter", "train", "peft")
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    folder = Path(path)
    about = _config(folder)
    if about.get("peft_type") != "LORA":
        raise ModelError(
            f"adapter {str(folder)!r}: of the kind {about.get('peft_type')!r}, and only LoRA can be merged"
        )
    if about.get("target_parameters"):
        raise ModelError(f"adapter {str(folder)!r}: its target_parameters (experts) cannot be merged here")
    weights = _weights(folder)
    modules = _Modules(model, folder)
    lora: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if modules.is_head(name):
            continue
        if match := _LORA.fullmatch(name):
            target = modules.module(match["module"])
            _check_shape(modules, target, match["part"], name, tensor)
            lora[f"{target}.{match['part']}{match['end'] or ''}"] = tensor
        elif match := _TOKENS.fullmatch(name):
            _load_rows(modules, match["module"], about.get("trainable_token_indices"), tensor)
        else:
            _load_tensor(modules, name, tensor)
    targets = sorted({_LORA.fullmatch(name)["module"] for name in lora})  # type: ignore[index]
    if not targets:
        raise ModelError(f"adapter {str(folder)!r}: {WEIGHTS} holds no LoRA weights for this model")
    config = copy.deepcopy(PeftConfig.from_pretrained(os.fspath(folder)))
    for field in ("task_type", "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern"):
        setattr(config, field, None)
    if hasattr(config, "trainable_token_indices"):
        config.trainable_token_indices = None
    config.bias, config.inference_mode, config.target_modules = "none", True, targets
    config.rank_pattern = _patterns(config.rank_pattern, modules)
    config.alpha_pattern = _patterns(config.alpha_pattern, modules)
    types = {name: model.get_submodule(name).weight.dtype for name in targets}
    training = model.training
    for name in targets:
        model.get_submodule(name).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a configuration that has no task, and about tied weights
        try:
            wrapped = get_peft_model(model, config)
            result = set_peft_model_state_dict(wrapped, {_SAVED_UNDER + name: row for name, row in lora.items()})
            lost = [name for name in result.unexpected_keys if "lora" in name]
            lacking = [name for name in result.missing_keys if "lora_" in name]
            if lost or lacking:
                raise ValueError(f"{'no place for ' + lost[0] if lost else 'nothing for ' + lacking[0]}")
            model = wrapped.merge_and_unload()
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ModelError(f"adapter {str(folder)!r} cannot be merged: {first_line(error)}") from None
    for name, kind in types.items():
        model.get_submodule(name).to(kind)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    note_dimensions(model.config, (), 0)  # no adapter says that it was trained for the base's
    return model.train(training)


class _Modules:
    """The model's modules by the names that adapters give them."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.modules = dict(model.named_modules())
        self._taken: dict[str, str] = {}

    def module(self, name: str) -> str:
        """The name that this module has in the model."""
        found = self.locate(name)
        if found is None:
            layers = {int(n) for own in self.modules for n in re.findall(r"language_model\.layers\.(\d+)$", own)}
            depth = f"; its decoder has {len(layers)} layers" if layers else ""
            raise ModelError(
                f"adapter {str(self.folder)!r}: {name} is not in the model {type(self.model).__name__}{depth}. "
                "Is this the base that it was trained on?"
            )
        if self._taken.setdefault(found, name) != name:
            raise ModelError(f"adapter {str(self.folder)!r}: {name} and {self._taken[found]} are one module here")
        return found

    def locate(self, name: str) -> str | None:
        words = name.split(".")
        for inserted in _INSERTED:
            for cut in range(len(words)):
                candidate = inserted + ".".join(words[cut:])
                if candidate in self.modules and hasattr(self.modules[candidate], "weight"):
                    return candidate
        return None

    def is_head(self, name: str) -> bool:
        return any(f".{head}." in f".{name}" and not any(head in own for own in self.modules) for head in _HEADS)

    def fail(self, name: str, tensor: torch.Tensor, expected: str) -> ModelError:
        return ModelError(
            f"adapter {str(self.folder)!r}: {name} is {list(tensor.shape)}, and the model's module takes {expected}; "
            "it was trained on another base"
        )


def _check_shape(modules: _Modules, target: str, part: str, name: str, tensor: torch.Tensor) -> None:
    weight = modules.modules[target].weight
    if weight.ndim != 2 or tensor.ndim != 2:
        return
    side, own = {
        "lora_A": (1, 1),
        "lora_B": (0, 0),
        "lora_embedding_A": (1, 0),
        "lora_embedding_B": (0, 1),
    }.get(part, (None, None))
    if side is not None and own is not None and tensor.shape[side] != weight.shape[own]:
        raise modules.fail(name, tensor, f"{weight.shape[own]} at dimension {side}")


def _load_tensor(modules: _Modules, name: str, tensor: torch.Tensor) -> None:
    """A tensor that the adapter holds as it is: of modules_to_save, a bias, a grown embedding."""
    plain = name.replace(".modules_to_save", "").replace(".base_layer", "")
    module, _, parameter = plain.rpartition(".")
    owner = modules.modules[modules.module(module)]
    if getattr(owner, parameter, None) is None:
        raise ModelError(f"adapter {str(modules.folder)!r}: the model's {module} has no {parameter}")
    if owner is modules.model.get_input_embeddings() and tensor.shape[0] > owner.weight.shape[0]:
        modules.model.resize_token_embeddings(tensor.shape[0], mean_resizing=False)
        modules.modules = dict(modules.model.named_modules())
        owner = modules.model.get_input_embeddings()
    own = getattr(owner, parameter)
    if own.shape != tensor.shape:
        raise modules.fail(name, tensor, str(list(own.shape)))
    with torch.no_grad():
        own.copy_(tensor)


def _load_rows(modules: _Modules, module: str, indices: Any, tensor: torch.Tensor) -> None:
    """Rows of an embedding that were trained alone."""
    if isinstance(indices, Mapping):
        indices = next((rows for key, rows in indices.items() if module.endswith(key)), None)
    weight = modules.modules[modules.module(module)].weight
    if not indices or len(indices) != len(tensor) or max(indices) >= len(weight) or weight.shape[1] != tensor.shape[1]:
        raise modules.fail(f"{module} (trainable tokens)", tensor, f"rows below {len(weight)} of {weight.shape[1]}")
    with torch.no_grad():
        weight[torch.tensor(list(indices), device=weight.device)] = tensor.to(weight)


def _patterns(patterns: Mapping[str, int] | None, modules: _Modules) -> dict[str, Any]:
    """Ranks or alphas by module: where a full name is given, by the name that it has here."""
    return {modules.locate(name.removeprefix(_SAVED_UNDER)) or name: value for name, value in (patterns or {}).items()}


def _config(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise ModelError(f"adapter {str(folder)!r}: {CONFIG} cannot be read ({error})") from None
    return about


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        pickled = f"; {_PICKLED} is a pickle, which could run code: save it as safetensors"
        raise ModelError(
            f"adapter {str(folder)!r}: no {WEIGHTS} in it{pickled if (folder / _PICKLED).is_file() else ''}"
        )
    try:
        loaded = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); fetch it anew") from None
    return {name.removeprefix(_SAVED_UNDER): tensor for name, tensor in loaded.items()}
