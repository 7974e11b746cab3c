"""An exported folder as a retriever. Loads neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puma.errors import InputError
from puma.retriever.encoding.image_cache import opened_cache
from puma.retriever.onnx.layout import read_export
from puma.retriever.onnx.runtime import OnnxRetriever
from puma.retriever.prompts import PromptFormat


def load_exported(
    folder: Path,
    *,
    name: str,
    device: str | None = None,
    dtype: Any = "auto",
    attn: str | None = None,
    layers: int | None = None,
    image_cache: Any = None,
) -> Any:
    """The retriever of an exported folder.

    Args:
        folder: where the files are.
        name: what the caller called it, for messages.
        device, dtype, attn, layers: must be left to their defaults (or ``cpu``): the graphs are what they are.
        image_cache: as :meth:`puma.retriever.model.Retriever.from_pretrained` takes it.

    Raises:
        InputError: one of the first four was given, or an image cache where only the text side was exported.
        StorageError: the image cache cannot be written. ModelError: a newer PUMA exported it, or it is damaged.
        DependencyError: onnxruntime is not installed.
    """
    export = read_export(folder)
    given = (
        ("dtype", dtype, "auto"),
        ("attn", attn, None),
        ("layers", layers, None),
        ("device", device, None),
    )
    for argument, value, plain in given:
        if value != plain and (argument, value) != ("device", "cpu"):
            raise InputError(
                f"{argument}={value!r}: model {name!r} is an ONNX export in {export.precision}, for the CPU; leave it "
                f"out, or name the model that it was made of ({export.source})"
            )
    if image_cache is not None and export.images is None:
        raise InputError(
            f"image_cache={image_cache!r}: model {name!r} is an ONNX export of the text side alone, which takes no "
            f"images; leave it out"
        )
    cache = opened_cache(image_cache)
    made = OnnxRetriever(export, PromptFormat.read(folder), folder)
    made.image_cache = cache
    return made
