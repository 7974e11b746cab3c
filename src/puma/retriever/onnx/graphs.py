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

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicLayer

from puma.errors import ModelError, first_line
from puma.pruning.layers import decoder_of
from puma.retriever.onnx.vision_graphs import SIDES, deeper_levels
from puma.retriever.pooling import last_token_state

OPSET = 18


def prefix_shape(model: Any) -> tuple[int, int, int] | None:
    """Layers, heads of keys, and length of a key: what the keys of a prefix are like; None for a family whose graph
    takes none, because a mask of its own says what a token sees."""
    text = model.config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if model.config.model_type not in SIDES or kinds != {"full_attention"} or getattr(text, "sliding_window", None):
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
        self.embeddings, self.decoder = model.get_input_embeddings(), copy.copy(decoder_of(model))
        self.image_id, self.prefixed = image_id, prefixed
        if deeper_levels(model):
            # The rows of a deeper layer come with a row of zeros for each token that is no placeholder.
            self.decoder._deepstack_process = lambda states, _, rows: states + rows

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        prefix_keys: torch.Tensor | None = None,
        prefix_values: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``vectors`` [n, dim] of ``input_ids`` and ``attention_mask`` [n, length] and ``image_features`` [rows, dim],
        or [rows, (1 + levels) * dim] for a decoder whose first layers get rows of their own added; ``position_ids``
        [3, n, length] where tokens have positions in an image's plane.

        With prefixes: ``prefix_keys`` and ``prefix_values`` [layers, heads, known, size] of the tokens that stand
        before all n sequences; returned behind the vectors are those of the first sequence, [layers, heads, known +
        length, size].
        """
        embedded, deeper = self._embedded(input_ids, image_features)
        if not self.prefixed:
            own = {} if position_ids is None else {"position_ids": position_ids}
            states = self.decoder(inputs_embeds=embedded, use_cache=False, **own, **deeper).last_hidden_state
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
            position_ids=positions[None] if position_ids is None else position_ids,
            past_key_values=Cache(layers=layers),
            use_cache=True,
            **deeper,
        ).last_hidden_state
        vectors = functional.normalize(last_token_state(states, attention_mask), dim=-1)
        return vectors, torch.stack([one.keys[0] for one in layers]), torch.stack([one.values[0] for one in layers])

    def _embedded(self, ids: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """What goes into the decoder's first layer, [n, length, dim], and what is added behind layers."""
        embedded = self.embeddings(ids)
        if self.image_id is None:
            # Read and dropped, so that the graph has the same inputs for every family.
            return embedded + features.sum() * 0, {}
        held = ids == self.image_id
        count = held.long().flatten()
        row = (count.cumsum(0) * count).view(ids.shape)  # the first is 1; 0 is for all that is no placeholder
        rows = torch.cat([features.new_zeros(1, features.shape[1]), features])
        first, *levels = rows.split(embedded.shape[-1], dim=-1)
        embedded = torch.where(held[..., None], first[row], embedded)
        if not levels:
            return embedded, {}
        return embedded, {"visual_pos_masks": held, "deepstack_visual_embeds": [level[row] for level in levels]}


class _Known(DynamicLayer):
    """A layer's cache that begins with one prefix, [heads, known, size], for n sequences."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, n: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = (part[None].expand(n, -1, -1, -1) for part in (keys, values))


def write_text_graph(model: Any, image_id: int | None, file: Path, *, plane: bool = False) -> None:
    """Write the text side; its weights go beside it, to ``<name>.data``, where they can be mapped into memory.

    Args:
        model: a transformers model without LM head.
        image_id: the placeholder's number; None for a graph that ignores images.
        file: the graph's.
        plane: whether tokens have positions in an image's plane, to be given with them.

    Raises:
        ModelError: torch cannot export this family.
    """
    dim = model.get_input_embeddings().weight.shape[1]
    ids = torch.arange(12).view(2, 6) % 8
    if image_id is not None:
        ids[1, 1:4] = image_id
    width = dim if image_id is None else dim * (1 + deeper_levels(model))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_features": torch.zeros(3, width)}
    n, length = torch.export.Dim("n"), torch.export.Dim("length", min=2)
    shapes: dict[str, Any] = {name: {0: n, 1: length} for name in ("input_ids", "attention_mask")}
    shapes["image_features"] = {0: torch.export.Dim("rows", min=0)}
    if plane:
        inputs["position_ids"] = torch.arange(6).expand(3, 2, 6).contiguous()
        shapes["position_ids"] = {1: n, 2: length}
    outputs, prefix = ["vectors"], prefix_shape(model)
    if prefix is not None:
        layers, heads, size = prefix
        for name in ("prefix_keys", "prefix_values"):
            inputs[name], shapes[name] = torch.zeros(layers, heads, 3, size), {2: torch.export.Dim("known", min=0)}
        shapes["prefix_values"] = shapes["prefix_keys"]
        outputs += ["keys", "values"]
    _write(TextSide(model, image_id, prefix is not None), inputs, shapes, outputs, file, model)


def write_vision_graph(model: Any, inputs: dict[str, np.ndarray], file: Path) -> None:
    """Write the vision side.

    Args:
        model: a transformers model of a family in :data:`puma.retriever.onnx.vision_graphs.SIDES`.
        inputs: of two images alike, and of more than one cell where they are in patches.
        file: the graph's.

    Raises:
        ModelError: torch cannot export this family.
    """
    shapes: dict[str, Any] = {"pixel_values": {0: torch.export.Dim("images")}}
    if "positions" in inputs:
        cells = torch.export.Dim("cells")
        shapes = {name: {0: cells} for name in inputs} | {"pixel_values": {**shapes["pixel_values"], 1: cells}}
        shapes["windows"] = {0: torch.export.Dim("windows"), 1: torch.export.Dim("cells_a_window")}
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    side = SIDES[model.config.model_type](model)
    _write(side, tensors, {name: shapes[name] for name in inputs}, ["image_features"], file, model)


def write_photo_graph(classifier: Any, file: Path, model: Any) -> None:
    """Write the network of a photo classifier.

    Raises:
        ModelError: torch cannot export it.
    """
    pixels = torch.from_numpy(classifier.images([Image.new("RGB", (8, 8))] * 2))
    shapes = {"pixel_values": {0: torch.export.Dim("images")}}
    _write(classifier.module, {"pixel_values": pixels}, shapes, ["logits", "photo"], file, model)


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
