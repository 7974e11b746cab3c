"""Symmetric quantisation in groups, bit packing, and low-rank factors. Pure functions of numpy arrays.

Symmetric uniform quantisation with one scale a group is the common scheme for weights (e.g. Dettmers and Zettlemoyer,
arXiv 2212.09720, who find groups of 64 worth their scales at four bits); low-rank factors of a *difference* of weights
are those of LoRA (arXiv 2106.09685) found afterwards, by a singular value decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from puma.errors import InputError

BITS = range(2, 9)
"""Widths that can be written. Eight takes a byte a number; any other is packed without gaps."""
GROUP = 64
"""Neighbours of a row that share a scale: at fp16, a quarter of a bit more a number."""


@dataclass(frozen=True)
class Quantised:
    """A matrix [rows, columns] as whole numbers and scales; the number at (i, j) is
    ``code[i, j] * (top * scales[i, j // group])``.

    Args:
        codes: uint8, packed: ``code + limit(bits)`` at ``bits`` bits each, rows one after another.
        scales: float16 [rows, ceil(columns / group)], within [0, 1]: steps as shares of the largest one.
        top: the largest step. Relative scales keep tiny differences (1e-6) out of float16's underflow.
        shape: rows and columns.
    """

    codes: np.ndarray
    scales: np.ndarray
    top: float
    shape: tuple[int, int]
    bits: int
    group: int


def limit(bits: int) -> int:
    """The largest code: codes are -limit..limit.

    Examples:
        >>> limit(4), limit(8)
        (7, 127)
    """
    return 2 ** (bits - 1) - 1


def quantise(values: np.ndarray, bits: int, group: int = GROUP) -> Quantised:
    """The nearest codes; no number is off by more than half its group's step, and a group of zeros stays zeros.

    Args:
        values: float [rows, columns], finite.
        bits: one of :data:`BITS`.
        group: neighbours that share a step; a row's last group may be shorter.

    Raises:
        InputError: another number of bits, a group below 1, or values that are no finite matrix.
    """
    if bits not in BITS:
        raise InputError(f"bits={bits!r}: give a whole number from {BITS[0]} to {BITS[-1]}")
    if group < 1:
        raise InputError(f"group={group!r}: give a whole number from 1 up")
    values = np.asarray(values, np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"values of shape {values.shape} must be a matrix of finite numbers")
    rows, columns = values.shape
    groups = -(-columns // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :columns] = np.abs(values)
    steps = padded.reshape(rows, groups, group).max(2, initial=0.0) / np.float32(limit(bits))
    top = np.float32(steps.max(initial=0.0))
    scales = _rounded_up(steps / top if top > 0 else np.zeros_like(steps))
    step = _steps(scales, top, columns, group)
    codes = np.rint(np.divide(values, step, out=np.zeros_like(values), where=step > 0))
    codes = np.clip(codes, -limit(bits), limit(bits)) + limit(bits)
    return Quantised(pack(codes.astype(np.uint8), bits), scales, float(top), (rows, columns), bits, group)


def dequantised(found: Quantised) -> np.ndarray:
    """The numbers, float32 [rows, columns]. Element by element, so that every machine gets the same ones."""
    rows, columns = found.shape
    codes = unpack(found.codes, rows * columns, found.bits).astype(np.float32) - np.float32(limit(found.bits))
    return codes.reshape(rows, columns) * _steps(found.scales, np.float32(found.top), columns, found.group)


def _steps(scales: np.ndarray, top: np.float32, columns: int, group: int) -> np.ndarray:
    return np.repeat(scales.astype(np.float32) * top, group, axis=1)[:, :columns]


def _rounded_up(steps: np.ndarray) -> np.ndarray:
    """As float16, never smaller: the largest number of a group stays within the largest code."""
    near = steps.astype(np.float16)
    return np.where(near.astype(np.float32) < steps, np.nextafter(near, np.float16(np.inf)), near)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Numbers below ``2**bits`` as one stream of bits, uint8 [ceil(n * bits / 8)].

    Examples:
        >>> pack(np.array([1, 2, 15], np.uint8), 4).tolist()
        [18, 240]
    """
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1, 1)
    return np.packbits(np.unpackbits(flat, axis=1)[:, 8 - bits :])


def unpack(stream: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The inverse of :func:`pack`: uint8 [count].

    Examples:
        >>> unpack(np.array([18, 240], np.uint8), 3, 4).tolist()
        [1, 2, 15]
    """
    found = np.zeros((count, 8), np.uint8)
    found[:, 8 - bits :] = np.unpackbits(stream, count=count * bits).reshape(count, bits)
    return np.packbits(found, axis=1).reshape(count)


def low_rank(matrix: np.ndarray, rank: int, *, tolerance: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """The best factors of a rank up to ``rank``, each carrying the root of the singular values.

    Fewer than ``rank`` where fewer leave a relative error (Frobenius) below ``tolerance``: a difference that LoRA
    trained gets its own rank. The sign of each pair is fixed, that of the decomposition is not.

    Args:
        matrix: [m, n].
        rank: 1 or more.

    Returns:
        ``left`` [r, m] and ``right`` [r, n], float32, with ``left.T @ right`` near the matrix.

    Raises:
        InputError: a rank below 1.
    """
    if rank < 1:
        raise InputError(f"rank={rank!r}: give a whole number from 1 up")
    u, s, v = np.linalg.svd(np.asarray(matrix, np.float32).astype(np.float64), full_matrices=False)
    missing = np.sqrt(np.maximum(np.cumsum((s**2)[::-1])[::-1], 0.0))  # missing[r]: error with r values kept
    enough = int((missing > tolerance * missing[0]).sum()) if len(s) and missing[0] > 0 else 0
    kept = max(1, min(rank, enough))
    u, s, v = u[:, :kept], s[:kept], v[:kept]
    signs = np.where(np.take_along_axis(u, np.abs(u).argmax(0)[None], 0)[0] < 0, -1.0, 1.0)
    left, right = (u * (signs * np.sqrt(s))).T, v * (signs * np.sqrt(s))[:, None]
    return np.ascontiguousarray(left, np.float32), np.ascontiguousarray(right, np.float32)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``left.T @ right`` as float32, summed in float64: machines sum in different orders, and the result must round to
    the same numbers (an index knows its model by them)."""
    return (left.astype(np.float64).T @ right.astype(np.float64)).astype(np.float32)
