"""MAC-Loss: contrastive learning whose temperature is lower for negatives of the positive's own modality.

Pure functions; the trainer's loss object is in :mod:`puma.training.objective`. Source: the paper, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from puma.errors import InputError
from puma.losses.comparison import Comparison, on_tensors, same_modality


def hard_temperature(temperature: float, decay: float, progress: float) -> float:
    """The temperature of same-modality candidates: ``temperature * exp(-decay * 2 * min(1/2, progress))``, unrounded.

    It falls during the first half of training, then stays.

    Args:
        temperature: tau_norm, > 0.
        decay: >= 0; the recipe has 0.5, which ends at 0.607 of tau_norm.
        progress: fraction of training done, in [0, 1].

    Raises:
        InputError: on a value out of range.

    Examples:
        >>> round(hard_temperature(0.03, 0.5, 1.0), 4)
        0.0182
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature={temperature!r}: give a positive number")
    if not (decay >= 0 and math.isfinite(decay)):
        raise InputError(f"decay={decay!r}: give a number of at least 0")
    if not 0 <= progress <= 1:
        raise InputError(f"progress={progress!r}: give the fraction of training done, in [0, 1]")
    return temperature * math.exp(-decay * 2 * min(0.5, progress))


def temperature_matrix(
    target_modality: torch.Tensor, candidate_modality: torch.Tensor, temperature: float, hard: float
) -> torch.Tensor:
    """T[i, j]: ``hard`` where candidate j has the modality of query i's positive (the positive included), else
    ``temperature``.

    Args:
        target_modality: integer codes [q], the modality of each query's positive, or
            :data:`puma.losses.batch_keys.ANY`.
        candidate_modality: integer codes [c].

    Returns:
        fp32 [q, c].
    """
    return torch.where(same_modality(target_modality, candidate_modality), hard, temperature).to(torch.float32)


@on_tensors
def mac_loss(comparison: Comparison) -> torch.Tensor:
    """The modality-adaptive contrastive loss, mean over queries.

    InfoNCE over all candidates, with cosine scores divided elementwise by :func:`temperature_matrix`; with
    ``hard_temperature`` equal to ``temperature`` it is plain InfoNCE. Scores, softmax and mean are in fp32 whatever the
    inputs' type: at these temperatures a bf16 logit moves in steps of an eighth.
    """
    logits = _logits(comparison)
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


@on_tensors
def negative_shares(comparison: Comparison) -> dict[str, torch.Tensor]:
    """How the negatives' pull in :func:`mac_loss` divides between the positive's modality and the others.

    Returns:
        Scalars without gradient: ``hard``, the fraction of the negatives' softmax mass on candidates of the positive's
        own modality, and ``other``, the rest; means over the queries that have a negative at all (both 0 if none has).
    """
    with torch.no_grad():
        negatives = _logits(comparison).masked_fill(comparison.positives, float("-inf"))
        some = negatives.isfinite().any(1)  # [q]
        mass = torch.where(some[:, None], negatives, 0.0).softmax(1)
        hard = torch.where(some, (mass * comparison.same_modality).sum(1), 0.0).sum() / some.sum().clamp(min=1)
        return {"hard": hard, "other": some.any().float() - hard}


def _logits(comparison: Comparison) -> torch.Tensor:
    """[q, c]: cosines over their temperatures, -inf where a candidate is out."""
    return comparison.masked_scores() / temperature_matrix(
        comparison.target_modality,
        comparison.candidate_modality,
        comparison.temperature,
        comparison.needed_hard_temperature,
    )
