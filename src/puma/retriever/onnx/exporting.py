"""``puma export --format onnx``: a retriever's folder written as two ONNX graphs, and checked against the model."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import puma
from puma.errors import InputError, ModelError, require
from puma.items.item import Item
from puma.pruning.cards import CARD, TAG, front_matter
from puma.retriever.images.patches import Patches, patches
from puma.retriever.images.pixels import Preprocessing, preprocessing
from puma.retriever.images.tiles import Tiles, tiles
from puma.retriever.onnx.graphs import prefix_shape, write_photo_graph, write_text_graph, write_vision_graph
from puma.retriever.onnx.layout import (
    EXPORT_FILE,
    FP32,
    INT8,
    TEXT_GRAPH,
    TOKENIZER,
    VISION_GRAPH,
    Export,
    Images,
)
from puma.retriever.onnx.loading import load_exported
from puma.retriever.onnx.photo_classifier import GRAPH as PHOTO_GRAPH
from puma.retriever.onnx.photo_classifier import write_classifier
from puma.retriever.onnx.quantising import QUANTISATION, quantise
from puma.retriever.onnx.vision_graphs import SIDES, PatchSide, TileSide
from puma.retriever.prompts import PROMPT_FILE, control_tokens
from puma.retriever.trained_with import write_instructions
from puma.storage.folders import write_json, written_folder

LEAST_COSINE = 0.9999
"""Of an fp32 export's vectors to the model's, over :func:`samples`; below it the export is refused."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the folder.
        precision: ``fp32`` or ``int8``.
        images: whether it takes images.
        text_cosine, image_cosine: the least cosine to the model's own vectors over :func:`samples`; None where it takes
            no images.
        bytes: of the graphs.
    """

    path: Path
    precision: str
    images: bool
    text_cosine: float
    image_cosine: float | None
    bytes: int


def export_onnx(
    retriever: Any,
    out: str | os.PathLike[str],
    *,
    source: str,
    int8: bool = False,
    text_only: bool = False,
    replace: bool = False,
) -> Exported:
    """Write a retriever as two ONNX graphs that :meth:`puma.retriever.model.Retriever.from_pretrained` takes, with
    onnxruntime in the place of torch and transformers.

    Args:
        retriever: a Retriever in fp32 on the CPU.
        out: the folder; it appears when it is whole and its vectors are those of the model.
        source: what the retriever was loaded from, for messages of the export.
        int8: quantise the text side (:mod:`puma.retriever.onnx.quantising`): smaller, faster, other vectors.
        text_only: leave out the vision side.
        replace: whether an existing folder may be exchanged.

    Raises:
        InputError: the model is not in fp32 on the CPU, or ``out`` is there already.
        ModelError: this family, or its image processor, cannot be exported.
        DependencyError: onnx, onnxscript or onnxruntime is not installed.
    """
    require("exporting to ONNX", "onnx")
    weight = next(retriever.model.parameters())
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise InputError(
            f"retriever: its weights are {weight.dtype} on {weight.device}; for an export load it with dtype='fp32' "
            "and device='cpu'"
        )
    family = str(retriever.model.config.model_type)
    if not text_only and family not in SIDES:
        raise ModelError(
            f"base {family}: its vision side cannot be exported to ONNX (that of {', '.join(SIDES)} can be); "
            "text_only=True (--text-only) exports the text side, or use the model's folder itself"
        )
    images = None if text_only else images_of(retriever.processor, retriever.model.config)
    export = _described(retriever, source, images, INT8 if int8 else FP32)
    with written_folder(out, replace=replace) as work:
        image_id = retriever.processor.tokenizer.convert_tokens_to_ids(export.image_token)
        plane = isinstance(images, Patches)
        write_text_graph(retriever.model, None if images is None else image_id, work / TEXT_GRAPH, plane=plane)
        if images is not None:
            write_vision_graph(retriever.model, _example(images), work / VISION_GRAPH)
            if retriever.photo_classifier is not None:
                write_photo_graph(retriever.photo_classifier, work / PHOTO_GRAPH, retriever.model)
                write_classifier(retriever.photo_classifier, work)
        if int8:
            quantise(work / TEXT_GRAPH, retriever.model.config.get_text_config(decoder=True).intermediate_size)
        _write_tokenizer(retriever.processor.tokenizer, work / TOKENIZER)
        retriever.model.config.save_pretrained(work)
        write_json(work / PROMPT_FILE, retriever.prompt.to_dict())
        write_instructions(work, retriever.instructions)
        write_json(work / EXPORT_FILE, export.to_dict())
        text, image = least_cosines(retriever, load_exported(work, name=str(out)), with_images=images is not None)
        least = text if image is None else min(text, image)
        if not int8 and least < LEAST_COSINE:
            raise ModelError(
                f"base {family}: the exported graphs' vectors are not the model's (cosine {least:.6f}); use the "
                "model's folder itself"
            )
        size = sum(file.stat().st_size for file in work.glob("*.onnx*"))
        _write_card(work, retriever, export)
    return Exported(Path(out), export.precision, images is not None, text, image, size)


def samples(with_images: bool) -> list[Item]:
    """What an export is compared on: texts of unlike lengths and letters; images of several shapes, with and without a
    text."""
    texts = ["x", "a red fox in the snow", "Ein Fuchs, 狐, 🦊 & [RET] <image>", "many words and more " * 40]
    items = [Item(text=text) for text in texts]
    if with_images:
        drawn = np.random.default_rng(0)
        for height, width in ((40, 60), (300, 200), (3, 500)):
            # Coarse colour blocks: unlike noise, they are still there when the image is made small.
            blocks = Image.fromarray(drawn.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            image = blocks.resize((width, height), Image.Resampling.BILINEAR)
            items += [Item(image=image), Item(text="at night", image=image)]
    return items


def least_cosines(retriever: Any, other: Any, *, with_images: bool) -> tuple[float, float | None]:
    """The least cosine between two encoders' vectors over :func:`samples`: of texts, and of what has an image."""
    items = samples(with_images)
    cosines = (retriever.encode(items) * other.encode(items)).sum(1)
    texts = [cosine for item, cosine in zip(items, cosines, strict=True) if item.image is None]
    rest = [cosine for item, cosine in zip(items, cosines, strict=True) if item.image is not None]
    return float(min(texts)), float(min(rest)) if rest else None


def images_of(processor: Any, config: Any) -> Images:
    """What a multimodal processor does with images, as Pillow and numpy can do it.

    Args:
        processor: the model's.
        config: the model's, whose vision tower the images must fit.

    Raises:
        ModelError: it does something else, or goes through torchvision, whose pixels are others.
    """
    kind = SIDES[config.model_type]
    found: Images | None
    if kind is PatchSide:
        found = patches(processor.image_processor, config.vision_config)
    elif kind is TileSide:
        found = tiles(processor, config.vision_config)
    else:
        found = preprocessing(processor.image_processor)
    if found is None:
        raise ModelError(
            f"image processor {type(processor.image_processor).__name__}: its pixels cannot be made without "
            "transformers (only those of Pillow-backed ones that resize, rescale and normalise, to one size, or in "
            "patches or tiles of the model's size); text_only=True (--text-only) exports the text side, or use the "
            "model's folder itself"
        )
    return found


def _example(images: Images) -> dict[str, np.ndarray]:
    """Inputs of a vision graph for two images alike, of a shape in which no number that may vary is 1: the exporter
    would take it for fixed."""
    if not isinstance(images, Patches):
        return {"pixel_values": images([Image.new("RGB", (8, 8))] * 2)}
    cell, columns = images.patch * images.merge, 2 * images.window + 3
    anything = replace(images, fewest=1, most=columns * 2 * cell**2)
    return anything.inputs([Image.new("RGB", (columns * cell, 2 * cell))] * 2)


def _described(retriever: Any, source: str, images: Images | None, precision: str) -> Export:
    tokenizer = retriever.processor.tokenizer
    fingerprint = retriever.fingerprint
    if precision == INT8:
        fingerprint = hashlib.sha256(f"{fingerprint} {precision} {QUANTISATION}".encode()).hexdigest()[:16]
    token = str(getattr(retriever.processor, "image_token", None) or "<image>")
    rows = int(retriever.processor.image_seq_len) if isinstance(images, Tiles) else 0
    if isinstance(images, Preprocessing):
        ids = retriever.inputs.features([Item(image=Image.new("RGB", (8, 8)))])["input_ids"]
        rows = int((ids == tokenizer.convert_tokens_to_ids(token)).sum())
    return Export(
        puma=puma.__version__,
        base=str(retriever.model.config.model_type),
        precision=precision,
        fingerprint=fingerprint,
        dim=retriever.dim,
        source=source,
        pad_id=int(tokenizer.pad_token_id or 0),
        ret_id=int(retriever.inputs.ret_id),
        control=tuple(control_tokens(retriever.processor)),
        special_ids=tuple(sorted({*tokenizer.all_special_ids, retriever.inputs.ret_id})),
        image_token=token,
        image_rows=rows,
        images=images,
        prefix=prefix_shape(retriever.model),
        photo_classifier=images is not None and retriever.photo_classifier is not None,
        dimensions=tuple(retriever.dimensions),
    )


def _write_tokenizer(tokenizer: Any, file: Path) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__}: it runs in Python only, so it cannot be exported; use the model's "
            "folder itself"
        )
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.save(str(file))


def _write_card(folder: Path, retriever: Any, export: Export) -> None:
    head = front_matter(
        {
            **retriever.about,
            "base_model_relation": "quantized" if "base_model" in retriever.about else None,
            "library_name": "onnxruntime",
            "pipeline_tag": "sentence-similarity",
            "tags": ["onnx", "feature-extraction", "multimodal-retrieval", TAG],
        }
    )
    takes = "texts, images, and both together" if export.images is not None else "texts"
    (folder / CARD).write_text(
        f"""{head}
# A multimodal retriever, as ONNX

Embeds {takes} into a space of {export.dim} dimensions; graphs in {export.precision} of a {export.base} model. With
onnxruntime installed:

```python
import puma
retriever = puma.Retriever.from_pretrained("this-folder")
vectors = retriever.encode(["a red fox"], instruction="Find an image.")
```
""",
        encoding="utf-8",
    )
