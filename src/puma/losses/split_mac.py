"""Split MAC-Loss: candidates of the positive's modality and those of others, each in a softmax of their own.

Pure functions; why one softmax is not enough: docs/method.md, "Split MAC-Loss".
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from puma.errors import InputError
from puma.losses.comparison import Comparison, on_tensors


@on_tensors
def split_mac_loss(comparison: Comparison, *, other_weight: float = 1.0) -> torch.Tensor:
    """The sum of two cross entropies of the positive over the same cosines, mean over queries.

    ::

        L = CE(positive + candidates of its modality, hard_temperature)
            + other_weight * CE(positive + candidates of other modalities, temperature)

    Each term has one temperature, the positive's included. In :func:`puma.losses.mac_loss` the two groups share one
    softmax in which the positive has the lower temperature, so a candidate of another modality counts only from
    ``temperature / hard_temperature`` times the positive's cosine on; here it counts from the positive's cosine on. A
    query without a negative in a group has a term of exactly 0 there, with a gradient of 0; with an ``other_weight`` of
    0, or for a query that asks for no modality, the first term remains.

    Args:
        other_weight: of the second term, >= 0.
    """
    same, other = _terms(comparison, other_weight)
    return same + other


@on_tensors
def split_losses(comparison: Comparison, *, other_weight: float = 1.0) -> dict[str, torch.Tensor]:
    """The two addends of :func:`split_mac_loss`.

    Args:
        other_weight: of the second term, >= 0.

    Returns:
        Scalars without gradient: ``same``, over candidates of the positive's modality, and ``other``, over those of
        other modalities, its weight included.
    """
    with torch.no_grad():
        same, other = _terms(comparison, other_weight)
    return {"same": same, "other": other}


def _terms(comparison: Comparison, other_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    if not (other_weight >= 0 and math.isfinite(other_weight)):
        raise InputError(f"other_weight={other_weight!r}: give a number of at least 0")
    scores = comparison.masked_scores()  # [q, c]
    own = torch.arange(len(scores), device=scores.device)

    def term(group: torch.Tensor, temperature: float) -> torch.Tensor:
        logits = scores.masked_fill(~(group | comparison.positives), float("-inf")) / temperature
        return functional.cross_entropy(logits, own)

    same = comparison.same_modality
    first = term(same, comparison.needed_hard_temperature)
    return first, other_weight * term(~same, comparison.temperature)
