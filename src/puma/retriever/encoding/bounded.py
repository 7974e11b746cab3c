"""A memory of values up to a number of bytes: those used longest ago make room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

IMAGE_BYTES = 128 * 1024 * 1024
"""Kept of what one model saw in images: puma-mini's are 20 KB each, one of 300 tokens of Qwen2-VL-2B in bf16 is 1 MB.
"""


class Sized(Protocol):
    """Something that knows its bytes."""

    @property
    def size(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class BoundedMemory(Generic[Value]):
    """Values by a key. Threads may share it.

    Args:
        most_bytes: of all values together; a larger one is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value, in the place of an earlier one of this key."""
        with self._lock:
            before = self._kept.pop(key, None)
            self._kept[key] = value
            self.bytes += value.size - (0 if before is None else before.size)
            while self.bytes > self.most_bytes:
                self.bytes -= self._kept.popitem(last=False)[1].size

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)
