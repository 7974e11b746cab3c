"""A model's two graphs, written by torch's ONNX exporter: one for the vision side, one for the text side.

The cut lies where image features replace the placeholders' embeddings, so that an image's features could be kept, and
texts never touch the vision side. Sequences are padded on the right: under causal attention no token sees the padding
behind it, so the decoder needs no mask, and the mask only tells where ``[RET]`` stands.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from puma.errors import ModelError, first_line
from puma.pruning.layers import decoder_of
from puma.retriever.folding import fast_copy
from puma.retriever.pooling import last_token_state

WHOLE = ("fast_vlm", "llava")
"""Families (transformers' ``model_type``) whose images are of one size and become a fixed number of rows, each in the
place of one placeholder, at plain positions. Others have positions in the image's plane (Qwen-VL), attention in both
directions among an image's tokens (Gemma 3), or cut images into tiles (SmolVLM, Idefics3)."""
OPSET = 18


class TextSide(torch.nn.Module):
    """Token numbers, and rows for the placeholders among them, to unit vectors.

    Args:
        model: a transformers model without LM head.
        image_id: the placeholder's number; None for a graph that ignores the rows.
    """

    def __init__(self, model: Any, image_id: int | None) -> None:
        super().__init__()
        self.embeddings, self.decoder, self.image_id = model.get_input_embeddings(), decoder_of(model), image_id

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """``vectors`` [n, dim] of ``input_ids`` and ``attention_mask`` [n, length] and ``image_features`` [rows,
        dim]."""
        embedded = self.embeddings(input_ids)
        if self.image_id is None:
            # Read and dropped, so that the graph has the same inputs for every family.
            embedded = embedded + image_features.sum() * 0
        else:
            held = input_ids == self.image_id
            count = held.long().flatten()
            row = (count.cumsum(0) * count).view(input_ids.shape)  # the first is 1; 0 is for all that is no placeholder
            rows = torch.cat([image_features.new_zeros(1, image_features.shape[1]), image_features])
            embedded = torch.where(held[..., None], rows[row], embedded)
        states = self.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return functional.normalize(last_token_state(states, attention_mask), dim=-1)


class VisionSide(torch.nn.Module):
    """``pixel_values`` [images, 3, height, width] to image features [rows, dim]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.copy(model)  # whose tower is exchanged; its weights are shared
        self.model._modules = {**model._modules}
        if hasattr(model, "vision_tower"):
            self.model.vision_tower = fast_copy(model.vision_tower)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The rows of all images, one image after the other."""
        found = self.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        return torch.cat(list(found)) if isinstance(found, (list, tuple)) else found.flatten(0, 1)


def write_text_graph(model: Any, image_id: int | None, file: Path) -> None:
    """Write the text side; its weights go beside it, to ``<name>.data``, where they can be mapped into memory.

    Raises:
        ModelError: torch cannot export this family.
    """
    dim = model.get_input_embeddings().weight.shape[1]
    ids = torch.arange(12).view(2, 6) % 8
    if image_id is not None:
        ids[1, 1:4] = image_id
    rows, length = torch.export.Dim("n"), torch.export.Dim("length", min=2)
    _write(
        TextSide(model, image_id),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_features": torch.zeros(3, dim)},
        {
            "input_ids": {0: rows, 1: length},
            "attention_mask": {0: rows, 1: length},
            "image_features": {0: torch.export.Dim("rows", min=0)},
        },
        "vectors",
        file,
        model,
    )


def write_vision_graph(model: Any, size: tuple[int, int], file: Path) -> None:
    """Write the vision side, for images of one size (height, width).

    Raises:
        ModelError: torch cannot export this family.
    """
    shape = {"pixel_values": {0: torch.export.Dim("images")}}
    _write(VisionSide(model), {"pixel_values": torch.zeros(2, 3, *size)}, shape, "image_features", file, model)


def _write(
    side: torch.nn.Module, inputs: dict[str, torch.Tensor], shapes: dict[str, Any], output: str, file: Path, model: Any
) -> None:
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                side.eval(),
                (),
                str(file),
                kwargs=inputs,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises almost anything on code that it cannot follow
        raise ModelError(
            f"a {model.config.model_type} model cannot be exported to ONNX by torch {torch.__version__} "
            f"({type(error).__name__}: {first_line(error)}); use the model's folder itself"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its own workings, in warnings and in its log."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
