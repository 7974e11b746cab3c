"""What is kept of the tokens that many items begin with, whatever computes them. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST_PREFIX = 4
"""Tokens; fewer are not worth the copies of their keys and values."""
PREFIX_BYTES = 64 * 1024 * 1024
"""Kept of one model's prefixes: of puma-mini about 7,000 tokens, of twelve layers of Qwen2-VL-7B about 2,700."""


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many numbers two sequences have in common from the first on."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
