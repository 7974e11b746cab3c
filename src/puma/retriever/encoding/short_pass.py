"""A forward pass that computes only what the state at ``[RET]`` needs, from the family's own code.

In the last layer the other positions matter by their keys and values alone, so query, attention, output projection and
MLP run for one row an item; and positions before which all items read the same tokens take their keys and values from a
:class:`~puma.retriever.encoding.prefixes.Prefix`. The decoder's own ``forward`` runs in both cases: it is given other
layers, by shallow copies of the modules that hold them. The model itself is never changed, so threads may share it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn import Module, ModuleList

from puma.retriever.encoding.prefixes import Prefix, Recording

PASSED_ON = frozenset({"use_cache", "return_dict", "output_attentions", "output_hidden_states", "past_key_values"})
"""What a family's model may tell its decoder beside what is cut to the shorter sequence here."""


class NotShortenedError(Exception):
    """This decoder is called in a way that is not known here: the plain forward pass must do."""


def ret_rows(
    model: Module, features: dict[str, torch.Tensor], prefix: Prefix | Recording, last: torch.Tensor
) -> torch.Tensor:
    """The states after the final norm at one position an item, [n, dim].

    Args:
        model: a multimodal transformers model without its head.
        features: its input tensors, padded on the right.
        prefix: of tokens that all rows begin with, which may be none, or what records one.
        last: [n], the position in each row.

    Raises:
        NotShortenedError: the model hands its decoder something that cannot be cut.
    """
    decoder = model.get_decoder()

    def forward(
        *,
        inputs_embeds: torch.Tensor,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        visual_pos_masks: torch.Tensor | None = None,
        deepstack_visual_embeds: list[torch.Tensor] | None = None,
        **options: Any,
    ) -> Any:
        unknown = [name for name, value in options.items() if value is not None and name not in PASSED_ON]
        if unknown or options.get("past_key_values") is not None:
            raise NotShortenedError(f"{type(decoder).__name__} is given {unknown or ['past_key_values']}")
        skipped = prefix.length
        if visual_pos_masks is not None:
            options["visual_pos_masks"] = visual_pos_masks[:, skipped:]
        if deepstack_visual_embeds is not None:  # what is added after the last layer is not added at [RET]
            options["deepstack_visual_embeds"] = deepstack_visual_embeds[: len(decoder.layers) - 1]
        if isinstance(attention_mask, dict) and not _has_images(features):
            attention_mask = features["attention_mask"]  # the decoder makes the same masks of it, for its own length
        cache = prefix.cache()
        body = _with_last_layer(decoder, last - skipped)
        options.update(past_key_values=cache, use_cache=cache is not None)
        return body(
            inputs_embeds=inputs_embeds[:, skipped:],
            attention_mask=_of_queries(attention_mask, skipped),
            position_ids=None if position_ids is None else position_ids[..., skipped:],
            **options,
        )

    stand_in = copy.copy(decoder)
    stand_in.forward = forward
    return _exchanged(model, decoder, stand_in)(**features, use_cache=False).last_hidden_state[:, 0]


def _has_images(features: dict[str, Any]) -> bool:
    return any(name.startswith(("pixel_", "image_", "mm_encoder")) for name in features)


def _of_queries(mask: Any, skipped: int) -> Any:
    """A decoder's mask without the rows of the skipped positions: those of [n, length] stay, they are keys."""
    if mask is None:
        return None
    if isinstance(mask, dict):
        if skipped and any(one is None for one in mask.values()):
            raise NotShortenedError("a causal mask that is left out cannot be cut")
        return {name: _of_queries(one, skipped) for name, one in mask.items()}
    if not isinstance(mask, torch.Tensor):
        raise NotShortenedError(f"a mask of type {type(mask).__name__}")
    return mask[:, :, skipped:] if mask.ndim == 4 else mask


def _exchanged(model: Module, part: Module, other: Module) -> Any:
    """A shallow copy of the model that has ``other`` in the place of one of its modules."""
    for name, child in model._modules.items():
        if child is part:
            return _with(model, name, other)
    path = next(name for name, module in model.named_modules() if module is part)
    while path:
        path, _, name = path.rpartition(".")
        other = _with(model.get_submodule(path), name, other)
    return other


def _with(module: Module, name: str, child: Module) -> Module:
    made = copy.copy(module)
    made._modules = {**module._modules, name: child}
    return made


def _with_last_layer(decoder: Module, last: torch.Tensor) -> Module:
    *before, layer = decoder.layers
    return _with(decoder, "layers", ModuleList([*before, LastLayer(layer, last)]))


class LastLayer(Module):
    """A decoder layer for one position an item: all positions give keys and values, that one alone asks.

    Args:
        layer: the family's decoder layer.
        last: [n], the position in each row.
    """

    def __init__(self, layer: Module, last: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.last = layer, last

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)  # decoders ask layers for their kind of attention

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, ...] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        recorder = _Recorder(past_key_values)
        try:
            _without_queries(self.layer)(
                hidden_states,
                attention_mask=None,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=recorder,
                **options,
            )
        except _RecordedError:
            pass
        else:
            raise NotShortenedError(f"{type(self.layer).__name__} gives no keys and values to a cache")
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = attention_mask.expand(len(rows), -1, -1, -1)[rows, :, self.last].unsqueeze(2)
        return self.layer(
            hidden_states[rows, self.last].unsqueeze(1),
            attention_mask=attention_mask,
            position_embeddings=None
            if position_embeddings is None
            else tuple(self._at_last(part, rows, 1) for part in position_embeddings),
            position_ids=None if position_ids is None else self._at_last(position_ids, rows, 0),
            past_key_values=recorder,
            **options,
        )

    def _at_last(self, values: torch.Tensor, rows: torch.Tensor, trailing: int) -> torch.Tensor:
        """[..., n or 1, length] and ``trailing`` more dimensions, at one position a row."""
        shape = list(values.shape)
        shape[-2 - trailing] = len(rows)
        values = values.expand(shape)
        return (values[..., rows, self.last, :] if trailing else values[..., rows, self.last]).unsqueeze(-1 - trailing)


class _RecordedError(Exception):
    """The keys and values are known; what would follow is not needed."""


class _Recorder:
    """Stands for a layer's cache twice: it keeps the keys and values of all positions and ends the pass there, then
    gives them to the pass of the one position."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.kept: Any = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **options: Any) -> Any:
        if self.kept is not None:
            return self.kept
        self.kept = (keys, values) if self.cache is None else self.cache.update(keys, values, layer)
        raise _RecordedError


class _NoQueries(Module):
    """In the place of a query projection whose result nobody reads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.new_zeros(1).expand(*hidden.shape[:-1], self.size)


def _without_queries(layer: Module) -> Module:
    attention = layer._modules.get("self_attn")
    queries = None if attention is None else attention._modules.get("q_proj")
    size = getattr(queries, "out_features", None)
    if attention is None or not isinstance(size, int):
        return layer
    return _with(layer, "self_attn", _with(attention, "q_proj", _NoQueries(size)))
