"""Keys and values of what a batch's sequences begin with, kept from one pass to the next. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from puma.retriever.encoding.beginnings import shared_length


@dataclass(frozen=True)
class Prefix:
    """The decoder's keys and values of the first tokens of a sequence, each float32 [layers, heads, tokens, size]."""

    keys: np.ndarray
    values: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> Prefix:
        """That of no tokens; ``shape`` has layers, heads and size."""
        layers, heads, size = shape
        none = np.zeros((layers, heads, 0, size), np.float32)
        return cls(none, none)

    def __len__(self) -> int:
        return int(self.keys.shape[2])

    @property
    def size(self) -> int:
        """What it takes in memory."""
        return self.keys.nbytes + self.values.nbytes

    def first(self, count: int) -> Prefix:
        """That of its first tokens, a copy."""
        return Prefix(self.keys[:, :, :count].copy(), self.values[:, :, :count].copy())


def common_length(head: Sequence[int], sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens of ``head`` all sequences begin with, not counting the last of any."""
    return min(min(shared_length(head, sequence), len(sequence) - 1) for sequence in sequences)
