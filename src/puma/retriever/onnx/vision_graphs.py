"""The modules that become vision graphs, one for each kind of vision side: images of one size, images in patches,
tiles.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from puma.retriever.encoding.folding import fast_copy


class OneSizeSide(torch.nn.Module):
    """``pixel_values`` [images, 3, height, width] to image features [rows, dim], those of one image after the other.

    Args:
        model: a transformers model whose features are what its projector gives (FastVLM, LLaVA).
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


class TileSide(torch.nn.Module):
    """``pixel_values`` [tiles, 3, side, side] to image features [rows, dim], those of one tile after the other.

    Args:
        model: a transformers model of Idefics3's kind.
    """

    position_rows: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        tower = model.vision_model
        self.embeddings, self.encoder, self.norm = tower.embeddings, tower.encoder, tower.post_layernorm
        self.connector = model.connector
        # A tile is always whole and square, so its patches' positions are always the same: taken from the tower, whose
        # own arithmetic of them no graph can hold.
        side = self.embeddings.num_patches_per_side
        rows: list[torch.Tensor] = []
        hook = self.embeddings.position_embedding.register_forward_hook(lambda *found: rows.append(found[2]))
        weight = self.embeddings.patch_embedding.weight
        pixels = torch.zeros(1, weight.shape[1], side * tower.patch_size, side * tower.patch_size, dtype=weight.dtype)
        with torch.no_grad():
            self.embeddings(pixel_values=pixels, patch_attention_mask=torch.ones(1, side, side, dtype=torch.bool))
        hook.remove()
        self.register_buffer("position_rows", rows[0])  # [1, patches, width]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The rows of all tiles."""
        states = self.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2) + self.position_rows
        states = self.encoder(inputs_embeds=states, attention_mask=None).last_hidden_state
        return self.connector(self.norm(states)).flatten(0, 1)


class PatchSide(torch.nn.Module):
    """Images of one grid of patches to image features [images * cells, width], those of one image after the other:
    what the tower's merger gives and, beside it, what it gives for deeper layers of the decoder (Qwen3-VL).

    The towers cut a batch into images, and Qwen2.5-VL's an image into windows, by numbers that must be known when a
    graph is made. Here images are a dimension of their own, and so are windows, filled up to one size.

    Args:
        model: a transformers model of the Qwen-VL families.
    """

    weight: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower = tower = model.visual
        convolution = tower.patch_embed.proj
        # Both moments of a still image are the same: one product with the sum of their weights.
        self.register_buffer("weight", convolution.weight.detach().sum(2).flatten(1), persistent=False)
        self.bias = convolution.bias
        windowed = getattr(tower, "fullatt_block_indexes", None)
        self.free = set(range(len(tower.blocks)) if windowed is None else windowed)
        self.deeper = list(getattr(tower, "deepstack_visual_indexes", ()))

    def forward(
        self,
        pixel_values: torch.Tensor,
        positions: torch.Tensor,
        windows: torch.Tensor | None = None,
        window_places: torch.Tensor | None = None,
        table_entries: torch.Tensor | None = None,
        table_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The rows of all images; inputs are those of :class:`puma.retriever.images.patches.Patches`."""
        tower = self.tower
        states = functional.linear(pixel_values.flatten(1, 2), self.weight, self.bias)  # [images, patches, width]
        if table_entries is not None:
            assert table_weights is not None
            learned = tower.pos_embed(table_entries.flatten(0, 1)) * table_weights.flatten(0, 1)[..., None]
            states = states + learned.sum(1)
        turns = tower.rotary_pos_emb(states, positions.flatten(0, 1))  # cosines, sines: [patches, size of a head]
        levels = []
        for place, block in enumerate(tower.blocks):
            queries, keys, values = _turned(block.attn, block.norm1(states), turns)
            if windows is None or place in self.free:
                found = _everywhere(block.attn, queries, keys, values)
            else:
                assert window_places is not None
                found = _within(block.attn, queries, keys, values, windows, window_places)
            states = states + block.attn.proj(found)
            states = states + block.mlp(block.norm2(states))
            if place in self.deeper:
                levels.append(tower.deepstack_merger_list[self.deeper.index(place)](states))
        return torch.cat([tower.merger(states), *levels], dim=-1)


def _turned(
    attention: Any, states: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A tower's queries, keys and values of states [images, patches, width], turned by their positions: each [images,
    patches, heads, size]."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    queries, keys, values = attention.qkv(states).unflatten(-1, (3, attention.num_heads, -1)).unbind(2)
    queries, keys = apply_rotary_pos_emb_vision(queries, keys, *turns)
    return queries, keys, values


def _everywhere(attention: Any, *parts: torch.Tensor) -> torch.Tensor:
    """Attention among all patches of an image, [images, patches, width], by onnxruntime's own operator, which never
    holds the scores of all pairs: those of a large image are gigabytes."""
    queries, keys, values = (part.flatten(2) for part in parts)
    found: torch.Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (queries, keys, values),
        {"num_heads": attention.num_heads, "scale": float(attention.scaling)},
        dtype=queries.dtype,
        shape=queries.shape,
        version=1,
    )
    return found


def _within(
    attention: Any,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    windows: torch.Tensor,
    places: torch.Tensor,
) -> torch.Tensor:
    """Attention among the patches of each window, [images, patches, width]; see
    :meth:`puma.retriever.images.patches.Patches.windows`."""
    images, (count, most) = queries.shape[0], windows.shape
    size = queries.shape[1] // places.shape[0]  # patches of a cell
    taken = windows.clamp(min=0).flatten()

    def cut(part: torch.Tensor) -> torch.Tensor:
        # [images, patches, heads, size] -> [images * windows, heads, patches of one, size]
        cells = part.unflatten(1, (-1, size))[:, taken]
        return cells.reshape(images * count, most * size, *part.shape[2:]).transpose(1, 2)

    there = (windows >= 0)[None, :, None, None, :, None].expand(images, count, 1, 1, most, size)
    found = functional.scaled_dot_product_attention(
        cut(queries),
        cut(keys),
        cut(values),
        attn_mask=there.reshape(images * count, 1, 1, most * size),
        scale=attention.scaling,
    )
    cells = found.transpose(1, 2).reshape(images, count * most, size, -1)
    return cells[:, places].flatten(1, 2)


SIDES: dict[str, Callable[[Any], torch.nn.Module]] = {
    "fast_vlm": OneSizeSide,
    "llava": OneSizeSide,
    "qwen2_vl": PatchSide,
    "qwen2_5_vl": PatchSide,
    "qwen3_vl": PatchSide,
    "smolvlm": TileSide,
    "idefics3": TileSide,
}
"""By family (transformers' ``model_type``). Gemma 3 has none: its decoder lets an image's tokens see each other in both
directions."""


def deeper_levels(model: Any) -> int:
    """How many layers of the decoder get image features of their own added (Qwen3-VL)."""
    return len(getattr(getattr(model, "visual", None), "deepstack_visual_indexes", None) or ())
