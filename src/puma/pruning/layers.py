"""Which decoder layers stay, and cutting a model and its configuration to them.

The vision tower, the token embeddings and the final norm stay. It works on what every transformers family shares
(``get_decoder()``, ``get_text_config()``), so no family is named here but Qwen3-VL's DeepStack, whose features enter at
given layers.

Source: method.md "Structure" (paper section 3.1); a trap of transformers 5: ``layer_types`` must be cut with the
layers, or saving raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from puma.errors import InputError, ModelError


def kept_layers(total: int, layers: int, *, keep_last: bool = False) -> list[int]:
    """Which of ``total`` decoder layers stay: the first ``layers``, or the first ``layers - 1`` and the very last.

    Raises:
        InputError: if ``layers`` is not within 1..total.

    Examples:
        >>> kept_layers(28, 4)
        [0, 1, 2, 3]
        >>> kept_layers(28, 4, keep_last=True)
        [0, 1, 2, 27]
    """
    if not isinstance(layers, int) or isinstance(layers, bool) or not 1 <= layers <= total:
        raise InputError(f"layers={layers!r}: give a whole number from 1 to {total}, the decoder layers of this model")
    if not keep_last:
        return list(range(layers))
    return [*range(layers - 1), total - 1]


def cut(model: Any, layers: int, *, keep_last: bool = False) -> Any:
    """Keep the shallow decoder layers of a loaded model, in place: what :func:`puma.prune` does to a model.

    Args:
        model: a transformers model of any multimodal (or text) family.
        layers: how many decoder layers stay, 1..L.
        keep_last: keep the first ``layers - 1`` and the very last, instead of the first ``layers``.

    Returns:
        The model. Its hidden states up to the kept layers equal the full model's, and it saves and loads as an ordinary
        model of its family.

    Raises:
        InputError: ``layers`` out of range.
        ModelError: the model has no decoder layers that can be cut.
    """
    decoder = decoder_of(model)
    total = len(decoder.layers)
    keep = kept_layers(total, layers, keep_last=keep_last)
    decoder.layers = nn.ModuleList([decoder.layers[i] for i in keep])
    _renumber(decoder.layers)
    for config in _text_configs(model, decoder):
        _cut_config(config, keep, total)
    _cut_deepstack(model, len(keep))
    return model


def cut_config(config: Any, keep: Sequence[int], total: int) -> None:
    """Shorten a base's configuration, in place, to the layers ``keep`` of ``total``: a model built of it has no others.

    Args:
        config: of the whole base, vision included.
        keep: positions of the layers that stay, ascending.
        total: how many there were.
    """
    _cut_config(config.get_text_config(decoder=True), list(keep), total)
    vision = getattr(config, "vision_config", None)
    indexes = getattr(vision, "deepstack_visual_indexes", None)
    if vision is not None and indexes is not None:
        vision.deepstack_visual_indexes = list(indexes)[: len(keep)]


def decoder_of(model: Any) -> Any:
    """The text decoder of a model: the module that holds ``layers`` and the final ``norm``.

    Raises:
        ModelError: if there is none.
    """
    decoder = model.get_decoder()
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList) or not hasattr(decoder, "norm"):
        raise ModelError(f"{type(model).__name__} has no decoder with 'layers' and a final 'norm': it cannot be pruned")
    return decoder


def count_parameters(model: Any) -> dict[str, int]:
    """Parameters counted once each, by rule: ``total``, ``without_embeddings`` (no token embedding, no LM head),
    ``decoder_layers``."""
    seen: dict[int, nn.Parameter] = {id(p): p for p in model.parameters()}
    total = sum(p.numel() for p in seen.values())
    tables = {
        id(p) for table in (model.get_input_embeddings(), _head(model)) if table is not None for p in table.parameters()
    }
    layers = sum(p.numel() for p in decoder_of(model).layers.parameters())
    return {
        "total": total,
        "without_embeddings": total - sum(seen[i].numel() for i in tables if i in seen),
        "decoder_layers": layers,
    }


def _head(model: Any) -> nn.Module | None:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _renumber(layers: Sequence[nn.Module]) -> None:
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index


def _text_configs(model: Any, decoder: Any) -> list[Any]:
    """The text configuration wherever it is held: usually one object, but a copy must not keep the old depth."""
    found = [decoder.config, model.config.get_text_config(decoder=True)]
    return list({id(config): config for config in found}.values())


def _cut_config(config: Any, keep: list[int], total: int) -> None:
    config.num_hidden_layers = len(keep)
    for name in ("layer_types", "mlp_layer_types", "no_rope_layers"):  # one entry a layer, where a family has them
        values = getattr(config, name, None)
        if isinstance(values, (list, tuple)) and len(values) == total:
            setattr(config, name, [values[i] for i in keep])
    window = getattr(config, "max_window_layers", None)
    if isinstance(window, int):
        config.max_window_layers = min(window, len(keep))


def _cut_deepstack(model: Any, depth: int) -> None:
    """DeepStack (Qwen3-VL) adds one set of visual features after each of the first decoder layers; sets beyond the kept
    depth would be computed and never used."""
    for module in model.modules():
        mergers, config = getattr(module, "deepstack_merger_list", None), getattr(module, "config", None)
        indexes = getattr(config, "deepstack_visual_indexes", None)
        if config is not None and isinstance(mergers, nn.ModuleList) and indexes is not None and len(mergers) > depth:
            module.deepstack_merger_list = mergers[:depth]
            config.deepstack_visual_indexes = list(indexes)[:depth]
            if hasattr(module, "deepstack_visual_indexes"):
                module.deepstack_visual_indexes = list(indexes)[:depth]


def first_layers_difference(pruned: Any, full: Any, inputs: dict[str, torch.Tensor]) -> float:
    """Largest difference between what enters the pruned model's final norm and what leaves the same layer of the full
    model.

    Zero to rounding for the first-k variant: the check for a new family. Read off by hooks, since
    ``output_hidden_states`` of Qwen3-VL records a layer's output before DeepStack's features are added to it.
    """
    depth = len(decoder_of(pruned).layers)
    whole = decoder_of(full)
    after = whole.layers[depth] if depth < len(whole.layers) else whole.norm
    ours, theirs = _input_of(pruned, decoder_of(pruned).norm, inputs), _input_of(full, after, inputs)
    return float((ours - theirs).abs().max())


def _input_of(model: Any, module: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return seen[0]
