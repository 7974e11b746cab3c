"""Nested dimensions: a contrastive loss on the first numbers of every vector too, so that shortened vectors work.

Source: Kusupati et al. 2022, Matryoshka Representation Learning (arXiv 2205.13147), eq. 1, with equal weights. Pure
functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from puma.errors import InputError
from puma.losses.comparison import Comparison, compare


def nested_comparisons(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    dimensions: Sequence[int] = (),
    temperature: float,
    hard_temperature: float | None = None,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
) -> list[Comparison]:
    """A batch compared at its full width, and again by the first numbers of its vectors alone.

    Cosines are those of the prefixes themselves, of unit length each. Which candidates take part is decided once, at
    the full width: a margin that looked at a short prefix would take its errors for false negatives, and leave out the
    very negatives that it has to learn from.

    Args:
        queries, candidates, target_modality, candidate_modality, temperature, hard_temperature, exclude, margin: as
            :class:`puma.losses.comparison.OnTensors` has them.
        dimensions: how many of a vector's d numbers each prefix has; increasing, below d. None: the full width alone.

    Returns:
        The full width's comparison, then one for each prefix.

    Raises:
        InputError: the dimensions are not as described, or the rest does not fit.
    """
    shared: dict[str, Any] = {"temperature": temperature, "hard_temperature": hard_temperature}
    whole = compare(queries, candidates, target_modality, candidate_modality, exclude=exclude, margin=margin, **shared)
    check_nested(dimensions, queries.shape[1])
    out = ~whole.keep
    return [
        whole,
        *(
            compare(queries[:, :n], candidates[:, :n], target_modality, candidate_modality, exclude=out, **shared)
            for n in dimensions
        ),
    ]


def mean_over_widths(
    loss: Callable[..., torch.Tensor], comparisons: Sequence[Comparison], **options: float
) -> torch.Tensor:
    """The mean of a loss over what :func:`nested_comparisons` gives; with one comparison the loss itself.

    Args:
        loss: a function of a :class:`Comparison`, as ``mac_loss.of``.
        options: the loss's own parameters.
    """
    return torch.stack([loss(comparison, **options) for comparison in comparisons]).mean()


def increasing(dimensions: Sequence[int]) -> bool:
    """Whether these are whole numbers of at least 1, each above the one before."""
    return list(dimensions) == sorted({n for n in dimensions if type(n) is int and n >= 1})


def check_nested(dimensions: Sequence[int], width: int) -> None:
    """Raise InputError unless these are :func:`increasing` and below ``width``."""
    if not increasing(dimensions):
        raise InputError(f"dimensions={list(dimensions)}: give rising whole numbers of 1 or more: [64, 128]")
    if dimensions and dimensions[-1] >= width:
        raise InputError(
            f"dimensions={list(dimensions)}: the vectors have {width} numbers, which are always trained; give numbers "
            "below that"
        )
