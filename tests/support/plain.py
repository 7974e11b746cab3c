"""Pictures of noise, and vectors the slow and obvious way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from puma.items import Item
from puma.retriever.encoding.states import forward_states


def image(seed: int, size: tuple[int, int] = (40, 60)) -> Image.Image:
    """Noise of a height and width."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))


def plain_vectors(retriever: Any, items: Sequence[Item], instruction: str | None = None) -> np.ndarray:
    """Item by item, by the plain forward pass."""
    rows = []
    with torch.inference_mode():
        for item in items:
            states = forward_states(retriever.model, retriever.inputs.features([item], instruction))
            rows.append(torch.nn.functional.normalize(states, dim=-1)[0])
    return torch.stack(rows).numpy()
