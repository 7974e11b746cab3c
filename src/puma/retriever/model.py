"""The retriever: a pruned multimodal LLM with ``[RET]``, its prompt and its processor, in a folder that
sentence-transformers loads too.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma.items.dimensions import checked_dimensions, shortened
from puma.items.item import as_items
from puma.pruning.hub import is_adapter_folder, model_folder
from puma.retriever.dimensions import nested_dimensions, note_dimensions
from puma.retriever.encoding.image_cache import ImageCache, opened_cache
from puma.retriever.images.pixels import preprocessing
from puma.retriever.onnx.layout import is_exported
from puma.retriever.onnx.loading import load_exported
from puma.retriever.photographs.classifier import PhotoClassifier
from puma.retriever.prompts import PROMPT_FILE, PromptFormat
from puma.retriever.publishing import push_retriever
from puma.retriever.sentence_transformers import image_backend_of, write_model_card, write_sentence_transformers_files
from puma.retriever.text_tokens import TextTokens
from puma.retriever.trained_with import Instructions, write_exits, write_instructions
from puma.storage.folders import write_json, written_folder

if TYPE_CHECKING:
    import torch

    from puma.retriever.stored_vision import VisionFeatures


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
        from puma.retriever.inputs import Inputs

        self.model, self.processor, self.prompt = model.eval(), processor, prompt
        self.inputs = Inputs(processor, prompt)
        self.vision: VisionFeatures | None = None
        self.image_cache: ImageCache | None = None
        """Where what it sees in images is looked up, and kept for later runs."""
        self.photo_classifier: PhotoClassifier | None = None
        """Adds to photographs' vectors what it recognises in them (:mod:`puma.retriever.photographs`)."""
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
        image_cache: str | os.PathLike[str] | ImageCache | None = None,
    ) -> Retriever:
        """Load a retriever folder, or the folder's name on the hub.

        Args:
            path: the folder, or a hub name. A folder that holds a LoRA adapter only (peft's ``adapter_config.json``) is
                merged into the retriever that it names as its base. Of one that was exported to ONNX an
                :class:`puma.retriever.onnx.runtime.OnnxRetriever` is returned, and torch is not loaded.
            device: where to put it; by default CUDA if there is one.
            dtype: the weights' type: ``auto`` for the one they were saved in, a torch type, or ``fp32``, ``bf16``,
                ``fp16``.
            attn: ``sdpa``, ``eager`` or ``flash_attention_2``; None leaves it to transformers.
            layers: load only so many decoder layers, of a retriever that was trained with an exit there.
            revision: branch, tag or commit on the hub.
            token: of the hub; None takes the one that ``hf auth login`` or ``HF_TOKEN`` gave. With ``HF_HUB_OFFLINE=1``
                only the hub's cache is read.
            image_cache: a folder (of 4 GiB at most), or an :class:`puma.retriever.encoding.image_cache.ImageCache` of
                another size: images that were embedded before need neither decoder nor tower. None keeps nothing.

        Raises:
            InputError: there is no such folder, or it is a base model that is no retriever yet; a wrong ``dtype``,
                ``attn`` or ``layers``; a revision of a folder here; an image cache for an export of the
                text side alone.
            StorageError: the image cache cannot be written. DependencyError: an export, and onnxruntime is missing.
            ModelError: transformers cannot load it, or weights are missing.
        """
        folder = Path(path) if is_adapter_folder(path) else model_folder(path, revision=revision, token=token)
        if is_exported(folder):
            return load_exported(
                folder, name=str(path), device=device, dtype=dtype, attn=attn, layers=layers, image_cache=image_cache
            )
        from puma.retriever.loading import load_retriever

        cache = opened_cache(image_cache)  # before the model loads, which may take minutes
        made: Retriever = load_retriever(
            cls, folder, name=str(path), device=device, dtype=dtype, attn=attn, layers=layers, token=token
        )
        made.image_cache = cache
        return made

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
            layers, keep_last: decoder layers kept, None for all (the teacher); the first ``layers - 1`` and the last.
            prompt: ``open-quote``, ``short``, ``chat`` for the base's own chat template, or a format.
            image_tokens: fewest and most tokens of an image (the paper: 4 and 300), see
                :func:`puma.retriever.images.image_tokens.limit_image_tokens`; None leaves it to the base's processor.
            dtype, attn, device, revision, token: as :meth:`from_pretrained`.
            quantise: ``4bit`` holds the frozen weights in four bits (CUDA and bitsandbytes); None as they are.

        Raises:
            InputError: on a wrong name or number. ModelError: the base cannot be used.
        """
        from puma.retriever.loading import new_retriever

        return new_retriever(
            cls,
            path,
            layers=layers,
            keep_last=keep_last,
            prompt=prompt,
            image_tokens=image_tokens,
            dtype=dtype,
            attn=attn,
            quantise=quantise,
            device=device,
            revision=revision,
            token=token,
        )

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Lengths below :attr:`dim` that its vectors may be cut to, as it was trained; rising."""
        return nested_dimensions(self.model.config, self.dim)

    @dimensions.setter
    def dimensions(self, trained: Sequence[int]) -> None:
        note_dimensions(self.model.config, trained, self.dim)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would: of prompt, image processor, photo classifier, and some of each weight."""
        from puma.retriever.weight_samples import digest_of

        read = [json.dumps(self.prompt.to_dict(), sort_keys=True), self.processor.image_processor.to_json_string()]
        read += [self.photo_classifier.fingerprint] if self.photo_classifier else []
        return digest_of(read, self.model.state_dict())

    def encode(
        self,
        items: Sequence[Any] | Any,
        instruction: str | Sequence[str | None] | None = None,
        batch_size: int = 64,
        show_progress: bool = False,
        tokens: np.ndarray | None = None,
        dimensions: int | None = None,
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
            dimensions: cut the vectors to this length, one of :attr:`dimensions`; None leaves them whole.

        Returns:
            float32 [n, dim] (or ``dimensions``), rows of unit length.

        Raises:
            InputError: something is no item, or ``dimensions`` not trained; ImageError: an image cannot be opened.
        """
        from puma.retriever.encoding.loop import encode_items

        length = checked_dimensions(self, self.dim if dimensions is None else dimensions)
        vectors = encode_items(
            self.model,
            self.inputs,
            as_items(items),
            instruction=instruction,
            batch_size=batch_size,
            show_progress=show_progress,
            vision=self.vision,
            autocast=self.autocast,
            tokens=tokens,
            image_cache=self.image_cache,
            photo_classifier=self.photo_classifier,
            steps=preprocessing(self.processor.image_processor) if self.photo_classifier else None,
        )
        return shortened(vectors, length)

    @functools.cached_property
    def text_tokens(self) -> TextTokens:
        """Its tokenizer by itself: how long texts are, what is cut off them."""
        return TextTokens(self.inputs)

    def save_pretrained(
        self, path: str | os.PathLike[str], *, replace: bool = False, dtype: torch.dtype | str | None = None
    ) -> Path:
        """Write the folder: weights, processor, chat template, prompt, and what sentence-transformers needs to load it.

        Args:
            path: the folder; it appears only when whole.
            replace: whether an existing folder may be exchanged.
            dtype: converts the weights, here and in the folder, so that both give the same vectors; None leaves them as
                they are. ``retriever.saved_dtype`` is the base's own.
        """
        from puma.pruning.loading import cast_weights, weight_type
        from puma.pruning.processors import save_processor
        from puma.retriever.photographs.network import save_classifier

        kind = weight_type(dtype)
        if not isinstance(kind, str):
            cast_weights(self.model, kind)
        with written_folder(path, replace=replace) as work:
            self.model.save_pretrained(work)
            save_processor(self.processor, work)
            write_json(work / PROMPT_FILE, self.prompt.to_dict())
            write_instructions(work, self.instructions)
            write_exits(work, self.exits)
            if self.photo_classifier is not None:
                save_classifier(self.photo_classifier, work)
            write_sentence_transformers_files(
                work, self.dim, image_backend_of(self.processor), self.model.config.model_type
            )
            write_model_card(work, self)
        return Path(path)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, revision: str | None = None
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the hub; returns the repository's address.

        Args:
            repo_id: ``org/name``; made if it is not there. Its README.md and its weights are replaced.
            private: whether a new repository is; None leaves it to the account's setting.
            token: with the right to write; None takes the one that ``hf auth login`` or ``HF_TOKEN`` gave.
            revision: the branch to upload to; made if it is not there.

        Raises:
            InputError: no such name, no token, ``HF_HUB_OFFLINE`` is set, or a private upload to a public repository.
            ModelError: the hub refuses it, or cannot be reached.
        """
        return push_retriever(self, repo_id, private=private, token=token, revision=revision)

    def to(self, device: str) -> Retriever:
        """Move the weights; returns self."""
        self.model.to(device)
        return self
