"""float16 to float32, exactly and fast. Loads no torch."""

from __future__ import annotations

import numpy as np

_WIDEN_FLOATS = 2**16
_LIFT = np.float32(2.0**112)
_KEPT_BITS = np.int32(-0x70002000)  # the sign, and exponent and mantissa where float32 has them


def widen(half: np.ndarray, out: np.ndarray) -> None:
    """float16 to float32, exactly, some five times as fast as numpy's own cast.

    The bits are moved to where float32 has them and the exponent's offset is made good by a multiplication. Infinity
    and NaN come out as finite numbers of 65536 and more.

    Args:
        half: float16 [n, dim], C-contiguous.
        out: float32 of the same shape, C-contiguous, overwritten.
    """
    bits, widened = half.view(np.int16), out.view(np.int32)
    rows = max(1, _WIDEN_FLOATS // max(1, half.shape[1]))  # a piece stays in the cache for all four steps
    for start in range(0, len(half), rows):
        piece, numbers = widened[start : start + rows], out[start : start + rows]
        piece[...] = bits[start : start + rows]
        np.left_shift(piece, 13, out=piece)
        np.bitwise_and(piece, _KEPT_BITS, out=piece)
        np.multiply(numbers, _LIFT, out=numbers)


def keeps_small_numbers() -> bool:
    """False where a library has switched subnormal numbers off in this thread: then only numpy's cast is exact."""
    out = np.empty((1, 1), dtype=np.float32)
    widen(np.full((1, 1), 2.0**-24, dtype=np.float16), out)
    return float(out[0, 0]) == 2.0**-24
