"""The retriever: a pruned multimodal LLM with ``[RET]``, its prompt and its processor, in a folder that
sentence-transformers loads too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma.errors import InputError
from puma.items.item import Item, as_item
from puma.pruning.cards import inherited_metadata, own_metadata
from puma.pruning.hub import model_folder
from puma.pruning.loading import cast_weights, load_model, saved_type, weight_type
from puma.pruning.processors import load_processor
from puma.retriever.adapters import base_of, is_adapter_folder, with_adapter
from puma.retriever.devices import default_device
from puma.retriever.encoding import encode_items
from puma.retriever.image_tokens import limit_image_tokens
from puma.retriever.inputs import Inputs
from puma.retriever.prompts import (
    PROMPT_FILE,
    PROMPTS,
    PromptFormat,
    from_chat_template,
    with_special_tokens,
)
from puma.retriever.publishing import push_retriever
from puma.retriever.ret_token import add_ret_token
from puma.retriever.sentence_transformers import image_backend_of, write_model_card, write_sentence_transformers_files
from puma.retriever.stored_vision import VisionFeatures
from puma.retriever.text_tokens import TextTokens
from puma.retriever.trained_with import (
    Instructions,
    check_layers,
    exits_below,
    read_instructions,
    write_exits,
    write_instructions,
)
from puma.retriever.weight_samples import weight_samples
from puma.storage.folders import write_json, written_folder


class Retriever:
    """Embeds texts, images, and both together, into one space.

    Examples:
        >>> retriever = Retriever.from_pretrained("runs/quickstart/model")  # doctest: +SKIP
        >>> retriever.encode(["a red fox", Path("fox.png")]).shape          # doctest: +SKIP
        (2, 576)

    Args:
        model: a transformers base model (no LM head needed).
        processor: its processor; the tokenizer knows ``[RET]``.
        prompt: how items are written out.
    """

    mixed_instructions = counts_tokens = True
    """Whether :meth:`encode` takes an instruction an item, as a service does, and tells how many tokens it read."""

    def __init__(self, model: Any, processor: Any, prompt: PromptFormat) -> None:
        self.model, self.processor, self.prompt = model.eval(), processor, prompt
        self.inputs = Inputs(processor, prompt)
        self.vision: VisionFeatures | None = None
        self.autocast: torch.dtype | None = None
        self.saved_dtype: torch.dtype = next(model.parameters()).dtype
        """The type that the folder it was loaded from keeps its weights in: what a trained model is saved in again."""
        self.instructions: Instructions = {}
        """The instructions it was trained with; search uses the same."""
        self.exits: tuple[int, ...] = ()
        """Depths below its own that it was trained to be cut to (elastic depth, :mod:`puma.training.exits`)."""
        self.about: dict[str, Any] = {}
        """What its model card says of its origin, where known: ``base_model`` (hub name), ``license``, ``language``."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: torch.dtype | str = "auto",
        attn: str | None = None,
        layers: int | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Retriever:
        """Load a retriever folder, or the folder's name on the hub.

        Args:
            path: the folder, or a hub name. A folder that holds a LoRA adapter only (peft's ``adapter_config.json``) is
                merged into the retriever that it names as its base.
            device: where to put it; by default CUDA if there is one.
            dtype: the weights' type: ``auto`` for the one they were saved in, a torch type, or ``fp32``, ``bf16``,
                ``fp16``.
            attn: ``sdpa``, ``eager`` or ``flash_attention_2``; None leaves it to transformers.
            layers: load only so many decoder layers, of a retriever that was trained with an exit there.
            revision: branch, tag or commit on the hub.
            token: of the hub; None takes the one that ``hf auth login`` or ``HF_TOKEN`` gave. With ``HF_HUB_OFFLINE=1``
                only the hub's cache is read.

        Raises:
            InputError: there is no such folder, or it is a base model that is no retriever yet; a wrong ``dtype``,
                ``attn`` or ``layers``; a revision of a folder here.
            ModelError: transformers cannot load it, or weights are missing.
        """
        folder = Path(path) if is_adapter_folder(path) else model_folder(path, revision=revision, token=token)
        if is_adapter_folder(folder):
            check_layers(layers, (), path)
            retriever = cls.from_pretrained(base_of(folder), device=device, dtype=dtype, attn=attn, token=token)
            retriever.model = with_adapter(retriever.model, folder)
            return retriever
        if not (folder / PROMPT_FILE).is_file():
            raise InputError(
                f"model {str(path)!r}: a base model, not a retriever (no {PROMPT_FILE} in it); "
                "make one of it with `puma train` or Retriever.from_base"
            )
        prompt = PromptFormat.from_dict(json.loads((folder / PROMPT_FILE).read_text(encoding="utf-8")))
        processor = load_processor(folder)
        exits = exits_below(layers, folder, path)
        model = load_model(folder, layers=layers, dtype=dtype, attn=attn, head=False, device=device or default_device())
        retriever = cls(model, processor, prompt)
        retriever.saved_dtype = saved_type(folder)
        retriever.instructions, retriever.exits = read_instructions(folder), exits
        retriever.about = own_metadata(folder)
        return retriever

    @classmethod
    def from_base(
        cls,
        path: str | os.PathLike[str],
        *,
        layers: int | None = None,
        keep_last: bool = False,
        prompt: str | PromptFormat = "chat",
        image_tokens: tuple[int, int] | None = None,
        dtype: torch.dtype | str = "auto",
        attn: str | None = None,
        quantise: str | None = None,
        device: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Retriever:
        """Make an untrained retriever of a base: load it without its LM head, only ``layers`` of its decoder, and add
        ``[RET]``.

        Args:
            path: a base model's folder or hub name.
            layers: decoder layers kept; None keeps all (the teacher).
            keep_last: keep the first ``layers - 1`` and the last.
            prompt: ``open-quote``, ``short``, ``chat`` for the base's own chat template, or a format.
            image_tokens: fewest and most tokens of an image (the paper: 4 and 300), see
                :func:`puma.retriever.image_tokens.limit_image_tokens`; None leaves it to the base's processor.
            dtype, attn, device, revision, token: as :meth:`from_pretrained`.
            quantise: ``4bit`` holds the frozen weights in four bits (CUDA and bitsandbytes); None as they are.

        Raises:
            InputError: on a wrong name or number.
            ModelError: the base cannot be used.
        """
        if isinstance(prompt, str) and prompt != "chat" and prompt not in PROMPTS:
            raise InputError(f"prompt={prompt!r}: give one of {sorted([*PROMPTS, 'chat'])} or a PromptFormat")
        folder = model_folder(path, what="base", revision=revision, token=token)
        processor = load_processor(folder)
        if isinstance(prompt, str):
            prompt = from_chat_template(processor) if prompt == "chat" else PROMPTS[prompt]
        if image_tokens is not None:
            limit_image_tokens(processor, *image_tokens)
        kept: dict[str, Any] = {"layers": layers, "keep_last": keep_last, "quantise": quantise}
        model = load_model(folder, dtype=dtype, attn=attn, head=False, device=device or default_device(), **kept)
        prompt = with_special_tokens(processor.tokenizer, prompt)
        add_ret_token(model, processor, prompt)
        retriever = cls(model, processor, prompt)
        retriever.saved_dtype = saved_type(folder)
        retriever.about = inherited_metadata(folder)
        return retriever

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would: a hash of the prompt, the image processor and a sample of every
        weight."""
        digest = hashlib.sha256(json.dumps(self.prompt.to_dict(), sort_keys=True).encode())
        digest.update(self.processor.image_processor.to_json_string().encode())
        for sample in weight_samples(self.model.state_dict()):
            digest.update(sample)
        return digest.hexdigest()[:16]

    def encode(
        self,
        items: Sequence[Any] | Any,
        instruction: str | Sequence[str | None] | None = None,
        batch_size: int = 64,
        show_progress: bool = False,
        tokens: np.ndarray | None = None,
    ) -> np.ndarray:
        """Embed items.

        Args:
            items: a list of what :func:`puma.items.as_item` takes (Items, strings, images, Paths, dicts), or one of
                them.
            instruction: one line that says what is wanted, for queries; candidates take none. A sequence gives each
                item its own.
            batch_size: items a forward pass.
            show_progress: a bar with rate and time left.
            tokens: integers [n], filled with how many tokens the model read of each item, prompt included.

        Returns:
            float32 [n, dim], rows of unit length.

        Raises:
            InputError: something is no item; ImageError: an image cannot be opened.
        """
        if isinstance(items, (str, dict, Item)) or not isinstance(items, (list, tuple)):
            items = list(items) if isinstance(items, Iterator) else [items]
        return encode_items(
            self.model,
            self.inputs,
            [as_item(item) for item in items],
            instruction=instruction,
            batch_size=batch_size,
            show_progress=show_progress,
            vision=self.vision,
            autocast=self.autocast,
            tokens=tokens,
        )

    @functools.cached_property
    def text_tokens(self) -> TextTokens:
        """Its tokenizer by itself: how long texts are, what is cut off them."""
        return TextTokens(self.inputs)

    def save_pretrained(
        self, path: str | os.PathLike[str], *, replace: bool = False, dtype: torch.dtype | str | None = None
    ) -> Path:
        """Write the folder: weights, processor, chat template, prompt, and what sentence-transformers needs to load it.

        It appears only when whole.

        Args:
            path: the folder.
            replace: whether an existing folder may be exchanged.
            dtype: converts the weights, here and in the folder, so that both give the same vectors; None leaves them as
                they are. ``retriever.saved_dtype`` is the base's own.
        """
        kind = weight_type(dtype)
        if isinstance(kind, torch.dtype):
            cast_weights(self.model, kind)
        tokenizer = self.processor.tokenizer
        if getattr(tokenizer, "backend_tokenizer", None) is not None:  # a used tokenizer would save its last limits
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        with written_folder(path, replace=replace) as work:
            self.model.save_pretrained(work)
            self.processor.save_pretrained(work)
            write_json(work / PROMPT_FILE, self.prompt.to_dict())
            write_instructions(work, self.instructions)
            write_exits(work, self.exits)
            write_sentence_transformers_files(
                work, self.dim, image_backend_of(self.processor), self.model.config.model_type
            )
            write_model_card(work, self)
        return Path(path)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, revision: str | None = None
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the hub; :meth:`from_pretrained` reads it there by its name.

        Args:
            repo_id: ``org/name``; made if it is not there. Its README.md and its weights are replaced.
            private: whether a new repository is private; None leaves it to the account's setting.
            token: with the right to write; None takes the one that ``hf auth login`` or ``HF_TOKEN`` gave.
            revision: the branch to upload to; made if it is not there.

        Returns:
            The repository's address.

        Raises:
            InputError: no such name, no token, ``HF_HUB_OFFLINE`` is set, or a private upload to a public repository.
            ModelError: the hub refuses it, or cannot be reached.
        """
        return push_retriever(self, repo_id, private=private, token=token, revision=revision)

    def to(self, device: str) -> Retriever:
        """Move the weights; returns self."""
        self.model.to(device)
        return self
