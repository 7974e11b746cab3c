"""Small encoders for tests: deterministic, no model file, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from puma.items import Item


class ToyEncoder:
    """Hashed words and a colour histogram. They share dimensions, so that the text "red" is near a red image. ``calls``
    counts items."""

    COLOURS: ClassVar = {"red": 0, "green": 1, "blue": 2}

    def __init__(self, dim: int = 32, fingerprint: str = "toy-1") -> None:
        self.dim, self.fingerprint = dim, fingerprint
        self.calls = 0
        self.seen_instructions: list[str | None] = []

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        self.seen_instructions.append(instruction)
        rows = np.stack([self._one(item) for item in items]) if items else np.zeros((0, self.dim))
        self.calls += len(items)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def _one(self, item: Item) -> np.ndarray:
        row = np.full(self.dim, 1e-3)
        for word in (item.text or "").lower().split():
            if word in self.COLOURS:
                row[self.COLOURS[word]] += 1
            else:
                row[4 + int(hashlib.sha256(word.encode()).hexdigest(), 16) % (self.dim - 4)] += 0.5
        image = item.open_image()
        if image is not None:
            row[3] += 0.05  # an image is not quite its name
            row[:3] += np.asarray(image.resize((4, 4)), dtype=np.float64).mean(axis=(0, 1)) / 255
        return row


class NamedEncoder(ToyEncoder):
    """A random unit vector for each text, image name and instruction, always the same one; with ``decimals`` the random
    numbers are rounded, so that many vectors are equal."""

    def __init__(self, dim: int = 16, decimals: int | None = None) -> None:
        super().__init__(dim, f"named-{dim}")
        self.decimals = decimals
        self._instruction: str | None = None

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        self._instruction = instruction
        return super().encode(items, instruction=instruction)

    def _one(self, item: Item) -> np.ndarray:
        name = f"{item.text}|{_image_name(item)}|{self._instruction}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        row = np.random.default_rng(seed).normal(size=self.dim)
        if self.decimals is not None:
            row = np.round(row, self.decimals) + np.eye(self.dim)[0] * 0.1  # none is zero
        return row


def _image_name(item: Item) -> str | None:
    return item.image.name if isinstance(item.image, Path) else None
