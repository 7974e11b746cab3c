"""Pruning from a model or a folder: :func:`prune` and :func:`prune_folder`, the public functions of this package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from puma.errors import InputError
from puma.pruning.cards import write_pruned_card
from puma.pruning.hub import model_folder
from puma.pruning.layers import cut, decoder_of, kept_layers
from puma.pruning.loading import load_model
from puma.pruning.processors import load_processor
from puma.storage.folders import write_json, written_folder

RECORD = "puma_pruning.json"
"""The file in a pruned folder that says which of the base's layers it kept."""


def prune(model_or_path: Any, layers: int, *, keep_last: bool = False) -> Any:
    """Keep the shallow decoder layers of a model.

    Args:
        model_or_path: a transformers model of any multimodal (or text) family, cut in place; or a folder or hub name,
            of which only the layers that stay are loaded.
        layers: how many decoder layers stay, 1..L.
        keep_last: keep the first ``layers - 1`` and the very last, instead of the first ``layers``.

    Returns:
        The model. Its hidden states up to the kept layers equal the full model's, and it saves and loads as an ordinary
        model of its family.

    Raises:
        InputError: ``layers`` out of range, or the path is no model folder.
        ModelError: the model has no decoder layers that can be cut, or cannot be loaded.
    """
    if isinstance(model_or_path, (str, os.PathLike)):
        return load_model(model_or_path, layers=_checked_layers(layers), keep_last=keep_last)
    return cut(model_or_path, layers, keep_last=keep_last)


def prune_folder(
    path: str | os.PathLike[str], out: str | os.PathLike[str], layers: int, *, keep_last: bool = False
) -> Path:
    """Prune a model folder into a new folder, processor included, weights in the type they were saved in.

    The result appears at ``out`` only when whole: it is written beside and renamed.

    Raises:
        InputError: ``path`` is no model folder, or ``out`` exists and is not empty, or ``layers`` is out of range.
        ModelError: the model or its processor cannot be loaded.
    """
    from transformers import AutoConfig

    folder = model_folder(path)
    processor = load_processor(folder)
    model = load_model(folder, layers=_checked_layers(layers), keep_last=keep_last)
    total = AutoConfig.from_pretrained(os.fspath(folder)).get_text_config(decoder=True).num_hidden_layers
    with written_folder(out) as work:
        model.save_pretrained(work)
        processor.save_pretrained(work)
        keep = kept_layers(total, len(decoder_of(model).layers), keep_last=keep_last)
        write_pruned_card(work, folder, kept=len(keep), total=total)
        write_json(work / RECORD, {"base": Path(path).name, "base_layers": total, "kept_layers": keep})
    return Path(out)


def _checked_layers(layers: Any) -> Any:
    if layers is None:  # to the loader None means all of them
        raise InputError("layers=None: give a whole number of at least 1, the decoder layers that stay")
    return layers
