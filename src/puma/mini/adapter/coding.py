"""Encoding of one tensor of a trained model as its difference from the base's, and decoding.

Kinds:

- ``same``: nothing is written.
- ``value``: the tensor itself. Vectors (norms, biases, batch statistics) as they are; matrices of which the base says
  nothing (the projector: random in the plain base) in float16.
- ``rows``: a table of which few rows changed (token embeddings): those, as they are.
- ``delta``: the difference, quantised in groups along the rows [first dimension, all others].
- ``low-rank``: the difference as two quantised factors.

Any kind but ``same`` and ``value`` may carry rows in full beside it, which are exact whatever the base holds there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from puma.mini.adapter.quantised import GROUP, Quantised, dequantised, low_rank, product, quantise

NOTHING_IN_COMMON = 0.5
"""From this share of the tensor's own norm on, the difference is not worth taking: the tensor itself is written. A
difference's error is a share of the difference; the projector's, whose hidden units stand at 8 with a spread near 1,
would then be one of a number far larger than what varies."""
FEW_ROWS = 0.25
"""Up to this share of changed rows, rows are written instead of differences."""
HALF_ERROR = 1e-3
"""Largest relative error (Frobenius) with which float16 is good enough for a matrix; else float32."""


@dataclass(frozen=True)
class Plan:
    """How exactly differences are written.

    Args:
        bits: per number, 2 to 8.
        rank: largest rank of low-rank differences; None writes them in full.
        group: numbers that share a scale.
    """

    bits: int = 8
    rank: int | None = None
    group: int = GROUP


@dataclass(frozen=True)
class Coded:
    """A tensor as written: ``entry`` (plain values, for the file's header) and its arrays by short names."""

    entry: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


def encoded(value: np.ndarray, base: np.ndarray, plan: Plan, keep_rows: Sequence[int] = ()) -> Coded:
    """Write a tensor down.

    Args:
        value, base: of one shape, float32 or whole numbers.
        plan: how exactly.
        keep_rows: rows of a table to carry in full whether they changed or not.
    """
    if value.ndim < 2 or value.dtype.kind != "f":
        if not keep_rows and _same(value, base):
            return Coded({"kind": "same", "base": digest(base)})
        return Coded({"kind": "value"}, {"value": np.array(value, order="C")})
    changed = np.flatnonzero((_matrix(value) != _matrix(base)).any(1))
    if not len(changed) and not keep_rows:
        return Coded({"kind": "same", "base": digest(base)})
    few = value.ndim == 2 and len(changed) <= FEW_ROWS * len(value)
    carried = np.union1d(np.asarray(keep_rows, np.int64), changed if few else np.zeros(0, np.int64)).astype(np.int32)
    arrays = {"rows": carried, "row_values": value[carried]} if len(carried) else {}
    entry: dict[str, Any] = {"base": digest(base, carried)}
    if few:
        return Coded({"kind": "rows", **entry}, arrays)
    if np.linalg.norm(value - base) > NOTHING_IN_COMMON * np.linalg.norm(value):
        return Coded({"kind": "value"}, {"value": _halved(value)})
    delta = _matrix(value - base).copy()
    delta[carried] = 0
    if value.ndim == 2 and plan.rank is not None and min(delta.shape) > 1:
        factors = low_rank(delta, plan.rank)
        if len(factors[0]) * sum(delta.shape) < delta.size:
            for side, factor in zip(("left", "right"), factors, strict=True):
                _add(entry, arrays, side, quantise(factor, plan.bits, plan.group))
            return Coded({"kind": "low-rank", **entry}, arrays)
    _add(entry, arrays, "delta", quantise(delta, plan.bits, plan.group))
    return Coded({"kind": "delta", **entry}, arrays)


def decoded(coded: Coded, base: np.ndarray) -> np.ndarray:
    """The inverse of :func:`encoded`, of the base's shape; float32 or whole numbers.

    Raises:
        ValueError, KeyError: the entry or its arrays do not fit the base's tensor.
    """
    entry, arrays = coded.entry, coded.arrays
    if entry["kind"] == "value":
        value = arrays["value"].astype(np.float32) if arrays["value"].dtype.kind == "f" else arrays["value"]
        if value.shape != base.shape:
            raise ValueError(f"holds {value.shape}, the base {base.shape}")
        return value
    if entry["kind"] in ("same", "rows"):
        value = base
    elif entry["kind"] == "delta":
        value = base + _get(entry, arrays, "delta").reshape(base.shape)
    elif entry["kind"] == "low-rank":
        value = base + product(_get(entry, arrays, "left"), _get(entry, arrays, "right")).reshape(base.shape)
    else:
        raise ValueError(f"is written in an unknown way, {entry['kind']!r}")
    if "rows" in arrays:
        value = value.copy()
        value[arrays["rows"]] = arrays["row_values"]
    return value


def digest(base: np.ndarray, without: Sequence[int] | np.ndarray = ()) -> str:
    """16 hexadecimal digits of a base's tensor, left out the rows that the adapter carries itself."""
    kept = np.delete(base, without, axis=0) if len(without) else base
    kind = f"{kept.dtype.str}{kept.shape}".encode()
    return hashlib.sha256(kind + np.ascontiguousarray(kept).tobytes()).hexdigest()[:16]


def relative_error(found: np.ndarray, value: np.ndarray, base: np.ndarray) -> float:
    """Norm of what was lost over the norm of the difference from the base; 0 where nothing differed."""
    lost = float(np.linalg.norm((found - value).astype(np.float64)))
    return lost / float(np.linalg.norm((value - base).astype(np.float64))) if lost else 0.0


def _same(value: np.ndarray, base: np.ndarray) -> bool:
    return value.dtype == base.dtype and np.array_equal(value, base)


def _matrix(value: np.ndarray) -> np.ndarray:
    return value.reshape(len(value), -1)


def _halved(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    back = half.astype(np.float32)
    good = np.isfinite(back).all() and np.linalg.norm(back - value) <= HALF_ERROR * np.linalg.norm(value)
    return half if good else np.array(value, order="C")


def _add(entry: dict[str, Any], arrays: dict[str, np.ndarray], name: str, found: Quantised) -> None:
    entry[name] = {"shape": list(found.shape), "bits": found.bits, "group": found.group, "top": found.top}
    arrays[f"{name}_codes"], arrays[f"{name}_scales"] = found.codes, found.scales


def _get(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    facts = entry[name]
    rows, columns = facts["shape"]
    return dequantised(
        Quantised(
            arrays[f"{name}_codes"],
            arrays[f"{name}_scales"],
            facts["top"],
            (rows, columns),
            facts["bits"],
            facts["group"],
        )
    )
