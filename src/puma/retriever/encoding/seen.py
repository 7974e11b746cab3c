"""One image, as a model has seen it, in memory and as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save


@dataclass(frozen=True)
class Seen:
    """One image, as the model has seen it.

    Args:
        ids: the tokens that stand for it.
        per_token: the processor's other values for these tokens, [tokens] each.
        per_image: the processor's values for the image that the model itself needs (``image_grid_thw``), [1, ...] each.
        states: the tower's outputs, projected, [image tokens, dim].
        deeper: those that go into later layers (Qwen3-VL), [image tokens, dim] each.
        stacked: whether the model takes the states of a batch as one tensor, and not as a list.
    """

    ids: tuple[int, ...]
    per_token: Mapping[str, torch.Tensor]
    per_image: Mapping[str, torch.Tensor]
    states: torch.Tensor
    deeper: tuple[torch.Tensor, ...]
    stacked: bool

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(part.nbytes for part in (self.states, *self.deeper))


def to_bytes(seen: Seen) -> bytes:
    """What :func:`from_bytes` reads: a safetensors file, exact to the last bit."""
    tensors = {"states": seen.states, "ids": torch.tensor(seen.ids), "stacked": torch.tensor([seen.stacked])}
    tensors |= {f"deeper.{n}": part for n, part in enumerate(seen.deeper)}
    tensors |= {f"token.{name}": value for name, value in seen.per_token.items()}
    tensors |= {f"image.{name}": value for name, value in seen.per_image.items()}
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def from_bytes(data: bytes, device: torch.device) -> Seen | None:
    """The image of :func:`to_bytes`, its states on a device; None of bytes that are something else."""
    try:
        tensors = load(data)
        deeper = sum(name.startswith("deeper.") for name in tensors)
        return Seen(
            tuple(tensors["ids"].tolist()),
            _beginning(tensors, "token."),
            _beginning(tensors, "image."),
            tensors["states"].to(device),
            tuple(tensors[f"deeper.{n}"].to(device) for n in range(deeper)),
            bool(tensors["stacked"]),
        )
    except (SafetensorError, KeyError, ValueError):
        return None


def _beginning(tensors: Mapping[str, torch.Tensor], beginning: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}
