"""Making retrievers of folders: a retriever's own, an adapter's, and an unprepared base's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import torch

from puma.errors import InputError
from puma.pruning.cards import inherited_metadata, own_metadata
from puma.pruning.hub import is_adapter_folder, model_folder
from puma.pruning.loading import load_model, saved_type
from puma.pruning.processors import load_processor
from puma.retriever.adapters import base_of, with_adapter
from puma.retriever.devices import default_device
from puma.retriever.images.image_tokens import limit_image_tokens
from puma.retriever.photographs.network import read_classifier
from puma.retriever.prompts import (
    PROMPT_FILE,
    PROMPTS,
    PromptFormat,
    from_chat_template,
    with_special_tokens,
)
from puma.retriever.ret_token import add_ret_token
from puma.retriever.trained_with import check_layers, exits_below, read_instructions

Made = TypeVar("Made", bound=Any)


def load_retriever(
    kind: type[Made],
    folder: Path,
    *,
    name: str,
    device: str | None,
    dtype: torch.dtype | str,
    attn: str | None,
    layers: int | None,
    token: str | None,
) -> Made:
    """What :meth:`puma.retriever.model.Retriever.from_pretrained` does with a folder of weights or of an adapter.

    Args:
        kind: the class of the retriever.
        folder: where the files are.
        name: what the caller called it, for messages.
        device, dtype, attn, layers, token: as there.
    """
    if is_adapter_folder(folder):
        check_layers(layers, (), name)
        retriever = kind.from_pretrained(base_of(folder), device=device, dtype=dtype, attn=attn, token=token)
        retriever.model = with_adapter(retriever.model, folder)
        return retriever
    if not (folder / PROMPT_FILE).is_file():
        raise InputError(
            f"model {name!r}: a base model, not a retriever (no {PROMPT_FILE} in it); "
            "make one of it with `puma train` or Retriever.from_base"
        )
    prompt = PromptFormat.read(folder)
    processor = load_processor(folder)
    exits = exits_below(layers, folder, name)
    model = load_model(folder, layers=layers, dtype=dtype, attn=attn, head=False, device=device or default_device())
    retriever = kind(model, processor, prompt)
    retriever.saved_dtype = saved_type(folder)
    retriever.instructions, retriever.exits = read_instructions(folder), exits
    retriever.about = own_metadata(folder)
    retriever.photo_classifier = read_classifier(folder)
    return retriever


def new_retriever(
    kind: type[Made],
    path: str | os.PathLike[str],
    *,
    prompt: str | PromptFormat,
    image_tokens: tuple[int, int] | None,
    device: str | None,
    revision: str | None,
    token: str | None,
    **options: Any,
) -> Made:
    """What :meth:`puma.retriever.model.Retriever.from_base` does; ``options`` go to
    :func:`puma.pruning.loading.load_model`."""
    if isinstance(prompt, str) and prompt != "chat" and prompt not in PROMPTS:
        raise InputError(f"prompt={prompt!r}: give one of {sorted([*PROMPTS, 'chat'])} or a PromptFormat")
    folder = model_folder(path, what="base", revision=revision, token=token)
    processor = load_processor(folder)
    if isinstance(prompt, str):
        prompt = from_chat_template(processor) if prompt == "chat" else PROMPTS[prompt]
    if image_tokens is not None:
        limit_image_tokens(processor, *image_tokens)
    model = load_model(folder, head=False, device=device or default_device(), **options)
    prompt = with_special_tokens(processor.tokenizer, prompt)
    add_ret_token(model, processor, prompt)
    retriever = kind(model, processor, prompt)
    retriever.saved_dtype = saved_type(folder)
    retriever.about = inherited_metadata(folder)
    return retriever
