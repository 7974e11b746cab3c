"""A model's two graphs, written by torch's ONNX exporter: one for the vision side, one for the text side.

The cut lies where image features replace the placeholders' embeddings, so that an image's features could be kept, and
texts never touch the vision side. Sequences are padded on the right: under causal attention no token sees the padding
behind it, and the mask only tells where ``[RET]`` stands. What all sequences of a batch begin with, an instruction,
need not be computed again: its keys and values of an earlier pass go in with the tokens that follow it.
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
from transformers.cache_utils import Cache, DynamicLayer

from puma.errors import ModelError, first_line
from puma.pruning.layers import decoder_of
from puma.retriever.encoding.folding import fast_copy
from puma.retriever.pooling import last_token_state

WHOLE = ("fast_vlm", "llava")
"""Families (transformers' ``model_type``) whose images are of one size and become a fixed number of rows, each in the
place of one placeholder, at plain positions. Others have positions in the image's plane (Qwen-VL), attention in both
directions among an image's tokens (Gemma 3), or cut images into tiles (SmolVLM, Idefics3)."""
OPSET = 18


def prefix_shape(model: Any) -> tuple[int, int, int] | None:
    """Layers, heads of keys, and length of a key: what the keys of a prefix are like; None for a family whose graph
    takes none, because a mask or positions of its own say what a token sees."""
    text = model.config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if model.config.model_type not in WHOLE or kinds != {"full_attention"} or getattr(text, "sliding_window", None):
        return None
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers), int(text.num_key_value_heads), int(size)


class TextSide(torch.nn.Module):
    """Token numbers, and rows for the placeholders among them, to unit vectors.

    Args:
        model: a transformers model without LM head.
        image_id: the placeholder's number; None for a graph that ignores the rows.
        prefixed: whether it takes the keys and values of a prefix, and gives those of its first sequence.
    """

    def __init__(self, model: Any, image_id: int | None, prefixed: bool) -> None:
        super().__init__()
        self.embeddings, self.decoder = model.get_input_embeddings(), decoder_of(model)
        self.image_id, self.prefixed = image_id, prefixed

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor,
        prefix_keys: torch.Tensor | None = None,
        prefix_values: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``vectors`` [n, dim] of ``input_ids`` and ``attention_mask`` [n, length] and ``image_features`` [rows, dim].

        With prefixes: ``prefix_keys`` and ``prefix_values`` [layers, heads, known, size] of the tokens that stand
        before all n sequences; returned behind the vectors are those of the first sequence, [layers, heads, known +
        length, size].
        """
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
        if not self.prefixed:
            states = self.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
            return functional.normalize(last_token_state(states, attention_mask), dim=-1)
        assert prefix_keys is not None
        assert prefix_values is not None
        known, length = prefix_keys.shape[2], input_ids.shape[1]
        positions = torch.arange(length, device=input_ids.device) + known
        seen = torch.arange(known + length, device=input_ids.device) <= positions[:, None]
        layers = [
            _Known(keys, values, input_ids.shape[0]) for keys, values in zip(prefix_keys, prefix_values, strict=True)
        ]
        states = self.decoder(
            inputs_embeds=embedded,
            attention_mask=seen[None, None],
            position_ids=positions[None],
            past_key_values=Cache(layers=layers),
            use_cache=True,
        ).last_hidden_state
        vectors = functional.normalize(last_token_state(states, attention_mask), dim=-1)
        return vectors, torch.stack([one.keys[0] for one in layers]), torch.stack([one.values[0] for one in layers])


class _Known(DynamicLayer):
    """A layer's cache that begins with one prefix, [heads, known, size], for n sequences."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, n: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = (part[None].expand(n, -1, -1, -1) for part in (keys, values))


class VisionSide(torch.nn.Module):
    """``pixel_values`` [images, 3, height, width] to image features [rows, dim], those of one image after the other.

    Args:
        model: a transformers model of a family in :data:`WHOLE`, whose features are what its projector gives.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.copy(model)  # whose parts are exchanged; its weights are shared
        self.model._modules = {**model._modules}
        self.model.vision_tower = fast_copy(model.vision_tower)
        self.projector = self.model.multi_modal_projector = _Kept(model.multi_modal_projector)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The rows of all images."""
        self.model.get_image_features(pixel_values=pixel_values, return_dict=True)
        return self.projector.output.flatten(0, 1)


class _Kept(torch.nn.Module):
    """Keeps what a module gives and passes on the first row alone: LLaVA makes a list of the rows, whose length would
    be fixed in the graph."""

    output: torch.Tensor

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.output = self.module(values)
        return self.output[:1]


def write_text_graph(model: Any, image_id: int | None, file: Path) -> None:
    """Write the text side; its weights go beside it, to ``<name>.data``, where they can be mapped into memory.

    Raises:
        ModelError: torch cannot export this family.
    """
    dim = model.get_input_embeddings().weight.shape[1]
    ids = torch.arange(12).view(2, 6) % 8
    if image_id is not None:
        ids[1, 1:4] = image_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_features": torch.zeros(3, dim)}
    n, length = torch.export.Dim("n"), torch.export.Dim("length", min=2)
    shapes: dict[str, Any] = {name: {0: n, 1: length} for name in ("input_ids", "attention_mask")}
    shapes["image_features"] = {0: torch.export.Dim("rows", min=0)}
    outputs, prefix = ["vectors"], prefix_shape(model)
    if prefix is not None:
        layers, heads, size = prefix
        for name in ("prefix_keys", "prefix_values"):
            inputs[name], shapes[name] = torch.zeros(layers, heads, 3, size), {2: torch.export.Dim("known", min=0)}
        shapes["prefix_values"] = shapes["prefix_keys"]
        outputs += ["keys", "values"]
    _write(TextSide(model, image_id, prefix is not None), inputs, shapes, outputs, file, model)


def write_vision_graph(model: Any, size: tuple[int, int], file: Path) -> None:
    """Write the vision side, for images of one size (height, width).

    Raises:
        ModelError: torch cannot export this family.
    """
    shape = {"pixel_values": {0: torch.export.Dim("images")}}
    _write(VisionSide(model), {"pixel_values": torch.zeros(2, 3, *size)}, shape, ["image_features"], file, model)


def _write(
    side: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    shapes: dict[str, Any],
    outputs: list[str],
    file: Path,
    model: Any,
) -> None:
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                side.eval(),
                (),
                str(file),
                kwargs=inputs,
                input_names=list(inputs),
                output_names=outputs,
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
