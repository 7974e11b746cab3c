"""Keys and values of what a batch's sequences begin with, kept from one pass to the next. Loads no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHORTEST = 4
"""Tokens; fewer are not worth the copies of their keys and values."""
MEMORY_BYTES = 64 * 1024 * 1024
"""Of all prefixes together: of puma-mini about 7,000 tokens."""


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
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.keys.nbytes + self.values.nbytes

    def first(self, count: int) -> Prefix:
        """That of its first tokens, a copy."""
        return Prefix(self.keys[:, :, :count].copy(), self.values[:, :, :count].copy())


class PrefixMemory:
    """Prefixes by their tokens; those used longest ago make room. Threads may share it."""

    def __init__(self, most_bytes: int = MEMORY_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, tokens: Sequence[int]) -> Prefix | None:
        """The prefix of exactly these tokens, or None."""
        with self._lock:
            found = self._kept.get(tuple(tokens))
            if found is not None:
                self._kept.move_to_end(tuple(tokens))
            return found

    def put(self, tokens: Sequence[int], prefix: Prefix) -> None:
        """Keep one."""
        with self._lock:
            before = self._kept.pop(tuple(tokens), None)
            self._kept[tuple(tokens)] = prefix
            self._bytes += prefix.bytes - (0 if before is None else before.bytes)
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1].bytes


def common_length(head: Sequence[int], sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens of ``head`` all sequences begin with, not counting the last of any."""
    length = min(len(head), *(len(sequence) - 1 for sequence in sequences))
    for sequence in sequences:
        length = next((i for i in range(length) if sequence[i] != head[i]), length)
    return length
