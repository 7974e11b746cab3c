"""A sample of every weight of a model: enough to tell models apart, and quick to read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

SAMPLES = 64
"""Numbers read of a tensor, and one more."""


def weight_samples(
    state: Mapping[str, torch.Tensor], part: Callable[[torch.Tensor], torch.Tensor] = lambda weight: weight
) -> Iterator[bytes]:
    """Each tensor's name, shape, and evenly spaced numbers of it in float32, in the order of the names.

    Args:
        state: a model's ``state_dict()``.
        part: what of a tensor is sampled, in the place of the whole.
    """
    for name, weight in sorted(state.items()):
        flat = part(weight).detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // SAMPLES)][: SAMPLES + 1].float().cpu().numpy()
        yield f"{name}{tuple(weight.shape)}".encode() + sample.tobytes()


def digest_of(texts: Iterable[str], state: Mapping[str, torch.Tensor]) -> str:
    """Sixteen hexadecimal digits of texts and a sample of every weight."""
    digest = hashlib.sha256("".join(texts).encode())
    for sample in weight_samples(state):
        digest.update(sample)
    return digest.hexdigest()[:16]
