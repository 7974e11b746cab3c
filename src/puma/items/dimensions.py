"""Shortened vectors: the first numbers of each, of unit length again, for models that were trained for it. Loads no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.items.encoder import Encoder
from puma.items.item import Item


def trained_dimensions(encoder: Any) -> tuple[int, ...]:
    """Lengths that an encoder's vectors may have, rising: those it was trained for (its ``dimensions``, where it has
    such), and its own ``dim`` last."""
    return (*getattr(encoder, "dimensions", ()), encoder.dim)


def checked_dimensions(encoder: Any, dimensions: int, name: str = "dimensions") -> int:
    """A length of :func:`trained_dimensions`.

    Args:
        name: what messages call it.

    Raises:
        InputError: the encoder was not trained for it.
    """
    trained = trained_dimensions(encoder)
    if type(dimensions) is not int or dimensions not in trained:
        remedy = (
            f"give one of them, or leave {name} out"
            if len(trained) > 1
            else f"leave {name} out, or train a model for it (dimensions: [64, 128, 256] in a recipe)"
        )
        raise InputError(
            f"{name}={dimensions!r}: this model was trained for vectors of {', '.join(map(str, trained))} numbers; "
            + remedy
        )
    return dimensions


def shortened(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first ``dimensions`` numbers of each row, of unit length again: float32 [n, dimensions]. Rows that have no
    more are given back as they are.

    Examples:
        >>> shortened(np.array([[0.36, 0.48, 0.8]], dtype=np.float32), 2).round(3).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    if dimensions == vectors.shape[1]:
        return vectors
    return unit_rows(vectors[:, :dimensions].astype(np.float64)).astype(np.float32)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """The rows [n, dim] with length 1, in their own type; one of zeros stays."""
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


class ShortenedEncoder:
    """An encoder whose vectors are cut to a length that it was trained for; all else of it is as it was.

    Args:
        encoder: with ``dimensions``.
        dimensions: one of them.

    Raises:
        InputError: the encoder was not trained for this length.
    """

    def __init__(self, encoder: Encoder, dimensions: int) -> None:
        self.dim = checked_dimensions(encoder, dimensions)
        self.dimensions = tuple(length for length in trained_dimensions(encoder) if length < dimensions)
        self.encoder = whole_encoder(encoder)

    @property
    def fingerprint(self) -> str:
        """The encoder's, and the length."""
        return f"{self.encoder.fingerprint}:{self.dim}"

    def encode(self, items: Sequence[Item], **options: Any) -> np.ndarray:
        """As the encoder's; float32 [n, :attr:`dim`]."""
        return shortened(self.encoder.encode(items, **options), self.dim)

    def __getattr__(self, name: str) -> Any:
        if name == "encoder":  # asked for while a copy is being made: it would be looked up here without end
            raise AttributeError(name)
        return getattr(self.encoder, name)


def whole_encoder(encoder: Encoder) -> Encoder:
    """The encoder behind a shortened one; any other is that itself."""
    return encoder.encoder if isinstance(encoder, ShortenedEncoder) else encoder


def of_length(encoder: Encoder, dimensions: int | None) -> Encoder:
    """The encoder itself where its vectors have this length (or None is asked for), else a :class:`ShortenedEncoder`.

    Raises:
        InputError: the encoder was not trained for this length.
    """
    return encoder if dimensions is None or dimensions == encoder.dim else ShortenedEncoder(encoder, dimensions)
