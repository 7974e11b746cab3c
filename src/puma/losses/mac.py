"""MAC-Loss: contrastive learning whose temperature is lower for negatives of the positive's own modality.

Pure functions on tensors; the trainer's loss object is in :mod:`puma.training.objective`. Source: method.md "Learning"
(paper section 3.2).
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from puma.errors import InputError
from puma.losses.negatives import compared


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
        target_modality: integer codes [q], the modality of each query's positive.
        candidate_modality: integer codes [c].

    Returns:
        fp32 [q, c].
    """
    same = target_modality[:, None] == candidate_modality[None, :]
    return torch.where(same, hard, temperature).to(torch.float32)


def mac_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    temperature: float,
    hard_temperature: float,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
) -> torch.Tensor:
    """The modality-adaptive contrastive loss, mean over queries.

    InfoNCE over all candidates, with cosine scores divided elementwise by :func:`temperature_matrix`. Scores, softmax
    and mean are in fp32 whatever the inputs' type: at these temperatures a bf16 logit moves in steps of an eighth.

    Args:
        queries: [q, d], of any length (normalised here).
        candidates: [c, d], c >= q; the positive of query i is candidate i.
        target_modality: integer codes [q]: the modality of each query's positive.
        candidate_modality: integer codes [c].
        temperature: tau_norm, > 0.
        hard_temperature: tau of same-modality candidates, > 0; equal to ``temperature`` this is plain InfoNCE.
        exclude: bool [q, c], True where a candidate is a false negative; it leaves the sum *before* the temperatures
            apply. The positives (the diagonal) are never excluded. A query left with no negative has a loss of 0.
        margin: a candidate whose cosine is above the positive's by more than this is taken for a false negative too,
            also before the temperatures; None: none is.

    Returns:
        A scalar, fp32, with gradient to queries and candidates.

    Raises:
        InputError: shapes, temperatures or the margin do not fit.
    """
    logits = _logits(
        queries, candidates, target_modality, candidate_modality, temperature, hard_temperature, exclude, margin
    )
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def negative_shares(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    temperature: float,
    hard_temperature: float,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
) -> dict[str, torch.Tensor]:
    """How the negatives' pull in :func:`mac_loss` divides between the positive's modality and the others.

    Args: as of :func:`mac_loss`.

    Returns:
        Scalars without gradient: ``hard``, the fraction of the negatives' softmax mass on candidates of the positive's
        own modality, and ``other``, the rest; means over the queries that have a negative at all (both 0 if none has).
    """
    with torch.no_grad():
        logits = _logits(
            queries, candidates, target_modality, candidate_modality, temperature, hard_temperature, exclude, margin
        )
        positives = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        negatives = logits.masked_fill(positives, float("-inf"))
        some = negatives.isfinite().any(1)  # [q]
        mass = torch.where(some[:, None], negatives, 0.0).softmax(1)
        same = target_modality[:, None] == candidate_modality[None, :]
        hard = torch.where(some, (mass * same).sum(1), 0.0).sum() / some.sum().clamp(min=1)
        return {"hard": hard, "other": some.any().float() - hard}


def cosine_scores(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cosine of every query with every candidate, [q, c], in fp32, also under autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        return functional.normalize(queries.float(), dim=-1) @ functional.normalize(candidates.float(), dim=-1).T


def check_batch(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    temperature: float,
    hard_temperature: float,
    exclude: torch.Tensor | None,
) -> None:
    """What every contrastive loss asks of its arguments. Raises InputError."""
    q, c = queries.shape[0], candidates.shape[0]
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise InputError(
            f"queries {list(queries.shape)} and candidates {list(candidates.shape)} must be [q, d] and [c, d]"
        )
    if q == 0 or c < q:
        raise InputError(
            f"{q} queries and {c} candidates: need q >= 1 and c >= q, the positive of query i is candidate i"
        )
    if target_modality.shape != (q,) or candidate_modality.shape != (c,):
        raise InputError(
            f"target_modality and candidate_modality must be codes [{q}] and [{c}], "
            f"got {list(target_modality.shape)} and {list(candidate_modality.shape)}"
        )
    if not (temperature > 0 and hard_temperature > 0):
        raise InputError(f"temperature={temperature!r}, hard_temperature={hard_temperature!r}: both must be positive")
    if exclude is not None and exclude.shape != (q, c):
        raise InputError(f"exclude must be bool [q, c]={[q, c]}, got {list(exclude.shape)}")


def _logits(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    temperature: float,
    hard_temperature: float,
    exclude: torch.Tensor | None,
    margin: float | None,
) -> torch.Tensor:
    """[q, c]: cosines over their temperatures, -inf where a candidate is out."""
    check_batch(queries, candidates, target_modality, candidate_modality, temperature, hard_temperature, exclude)
    scores = cosine_scores(queries, candidates)
    scores = scores.masked_fill(~compared(scores, exclude, margin), float("-inf"))
    return scores / temperature_matrix(target_modality, candidate_modality, temperature, hard_temperature)
