"""Loading a model's processor, with the image backend that its folder is bound to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from puma.pruning.loading_errors import loading_errors


def load_processor(path: str | os.PathLike[str], *, backend: str | None = None) -> Any:
    """A model's processor, its image processor in the backend that plain sentence-transformers can be given as well.

    Args:
        path: the model's folder.
        backend: ``pil`` or ``torchvision``; None for :func:`image_backend`'s choice.

    Raises:
        ModelError: it cannot be loaded, or a package that it needs is missing.
    """
    from transformers import AutoImageProcessor, AutoProcessor

    with loading_errors("processor", path):
        if backend is None:
            backend = image_backend(path)
        processor = AutoProcessor.from_pretrained(os.fspath(path), **backend_options(backend))
        if not hasattr(processor, "image_processor"):
            raise ValueError("it has no image processor: this is no multimodal model")
        if not backend_options(backend) and type(processor.image_processor).__name__.endswith("Pil"):
            processor.image_processor = AutoImageProcessor.from_pretrained(os.fspath(path), backend=backend)
        return processor


def save_processor(processor: Any, folder: Path) -> None:
    """Write a processor's files. A tokenizer that was used would save the limits and the padding of its last call."""
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    processor.save_pretrained(folder)


def backend_options(backend: str) -> dict[str, str]:
    """The options that get AutoProcessor to a backend: none for ``torchvision`` in older transformers (5.17), whose
    video processors refuse even their own. There it is the default for most."""
    from transformers.models.auto import video_processing_auto

    selectable = hasattr(video_processing_auto, "_load_backend_class")  # since then video processors ignore the choice
    return {} if backend == "torchvision" and not selectable else {"backend": backend}


def image_backend(path: str | os.PathLike[str]) -> str:
    """The image processor's backend for a folder: ``pil``, or ``torchvision`` where the processor also takes videos.

    The backends' pixels differ by up to 0.03, so a folder is bound to one. transformers hands the backend on to the
    video processor as well, and those exist for torchvision only: with ``pil`` a processor that takes videos (Qwen-VL,
    SmolVLM) does not load at all.
    """
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    folder = Path(path)
    settings = folder / "sentence_bert_config.json"
    if settings.is_file():  # a retriever's folder says which backend it was trained with
        pinned = json.loads(settings.read_text(encoding="utf-8")).get("processor_kwargs", {})
        if pinned.get("backend"):
            return str(pinned["backend"])
    config = AutoConfig.from_pretrained(os.fspath(folder))
    if type(config) not in PROCESSOR_MAPPING:
        return "pil"
    taken = PROCESSOR_MAPPING[type(config)].get_attributes()
    return "torchvision" if any("video_processor" in name for name in taken) else "pil"
