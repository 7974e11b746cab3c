"""What MAC-Loss is compared with: InfoNCE, SigLIP's sigmoid loss, and two submodular set losses.

All take the arguments of :func:`puma.losses.mac_loss` and treat false negatives and the margin as it does, so that a
comparison differs in the loss alone; they know one temperature, and ``hard_temperature`` and the modalities are only
checked. :data:`LOSS_FUNCTIONS` names them. Not here: MAC-Loss (mac), what runs the model (objective).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from puma.errors import InputError
from puma.losses.mac import check_batch, cosine_scores, mac_loss
from puma.losses.negatives import compared


def infonce_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    temperature: float,
    hard_temperature: float | None = None,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4): the cross entropy of the positive among all
    candidates, at one temperature. :func:`puma.losses.mac_loss` with both temperatures equal.

    Args: as of :func:`puma.losses.mac_loss`; ``hard_temperature`` is not used.

    Raises:
        InputError: shapes, temperature or margin do not fit.
    """
    return mac_loss(
        queries,
        candidates,
        target_modality,
        candidate_modality,
        temperature=temperature,
        hard_temperature=temperature,
        exclude=exclude,
        margin=margin,
    )


def siglip_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    temperature: float,
    hard_temperature: float | None = None,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
    bias: float = -10.0,
) -> torch.Tensor:
    """SigLIP's sigmoid loss (Zhai et al. 2023, arXiv 2303.15343, algorithm 1): each pair is right or wrong by itself.

    ``-1/q * sum_ij log sigmoid(z_ij * (cos_ij / temperature + bias))`` with z = 1 on the diagonal and -1 elsewhere. The
    paper learns scale and bias (from 10 and -10); here both are fixed, so that the loss has no parameters of its own:
    the scale is 1 / temperature, and the bias stays where the paper starts it. It lets a pair count as right from a
    cosine of ``-bias * temperature`` on (0.3 at 0.03).

    Args: as of :func:`puma.losses.mac_loss`; ``hard_temperature`` is not used.
        bias: added to every logit; negative, since nearly all pairs are wrong ones.

    Returns:
        A scalar, fp32: the sum over candidates, the mean over queries.

    Raises:
        InputError: shapes, temperature, bias or margin do not fit.
    """
    check_batch(queries, candidates, target_modality, candidate_modality, temperature, temperature, exclude)
    if not math.isfinite(bias):
        raise InputError(f"bias={bias!r}: give a finite number")
    scores = cosine_scores(queries, candidates)
    sign = 2 * torch.eye(*scores.shape, device=scores.device) - 1
    losses = -functional.logsigmoid(sign * (scores / temperature + bias))  # [q, c]
    return (losses * compared(scores, exclude, margin)).sum() / len(scores)


def facility_location_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    temperature: float,
    hard_temperature: float | None = None,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
) -> torch.Tensor:
    """A facility-location set loss, after SCoRe (Majee et al., ICML 2024, arXiv 2310.00165: total correlation of the
    facility-location function) as used to align modalities (SMA, arXiv 2605.12872).

    Query i and its positive are a set A_i; V is the candidates that are not false negatives of i; the similarity of two
    items is ``K = exp(cosine / temperature)``, which is positive, as a facility-location function needs. The set should
    be no good facility for anyone outside it, and its two members should be close::

        F(A_i) = sum_{j in V, not in A_i} max_{a in A_i} K(a, j)
        loss_i = log(1 + F(A_i) / K(query i, positive i))

    SCoRe minimises F alone, on classes of many augmented views; a pair needs the pull as well, so the ratio (the form
    of SCoRe's graph-cut code) is taken, and the 1 keeps it finite where nothing is outside. Against InfoNCE a negative
    counts by the nearer of query and positive, so each set meets its hardest neighbours from both sides.

    Args: as of :func:`puma.losses.mac_loss`; ``hard_temperature`` is not used.

    Raises:
        InputError: shapes, temperature or margin do not fit.
    """
    check_batch(queries, candidates, target_modality, candidate_modality, temperature, temperature, exclude)
    scores, own, keep = _set_scores(queries, candidates, exclude, margin)
    nearest = torch.maximum(scores, own.masked_fill(_diagonal(own), float("-inf")))  # [q, c]
    logits = nearest.masked_fill(~keep, float("-inf")) / temperature
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def graph_cut_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    temperature: float,
    hard_temperature: float | None = None,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
    weight: float = 1.0,
) -> torch.Tensor:
    """A graph-cut set loss, after SCoRe (Majee et al., ICML 2024, arXiv 2310.00165: total information of the graph-cut
    function): what a set cuts through, against what holds it together.

    With A_i, V and K as in :func:`facility_location_loss`::

        G(A_i) = sum_{j in V, not in A_i} sum_{a in A_i} K(a, j)
        loss_i = log(1 + G(A_i) / (weight * K(query i, positive i)))

    As in SCoRe's code the two parts are a ratio under a logarithm rather than a difference, which leaves no part to
    drown the other at a low temperature; the 1 keeps it finite where nothing is outside.

    Args: as of :func:`puma.losses.mac_loss`; ``hard_temperature`` is not used.
        weight: SCoRe's lambda, > 0: how much the set's inner similarity counts against the cut.

    Raises:
        InputError: shapes, temperature, weight or margin do not fit.
    """
    check_batch(queries, candidates, target_modality, candidate_modality, temperature, temperature, exclude)
    if not (weight > 0 and math.isfinite(weight)):
        raise InputError(f"weight={weight!r}: give a positive number")
    scores, own, keep = _set_scores(queries, candidates, exclude, margin)
    diagonal = _diagonal(scores)
    edges = torch.cat([scores.masked_fill(~keep, float("-inf")), own.masked_fill(~keep | diagonal, float("-inf"))], 1)
    inner = torch.cat([diagonal, torch.zeros_like(diagonal)], 1) * math.log(weight)
    return functional.cross_entropy(edges / temperature + inner, torch.arange(len(scores), device=scores.device))


LOSS_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "mac": mac_loss,
    "infonce": infonce_loss,
    "siglip": siglip_loss,
    "facility-location": facility_location_loss,
    "graph-cut": graph_cut_loss,
}
"""The contrastive losses by the name that a configuration gives them."""


def _set_scores(
    queries: torch.Tensor, candidates: torch.Tensor, exclude: torch.Tensor | None, margin: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cosines of the queries and of their positives with all candidates, and who takes part; each [q, c]."""
    scores = cosine_scores(queries, candidates)
    return scores, cosine_scores(candidates[: len(queries)], candidates), compared(scores, exclude, margin)


def _diagonal(scores: torch.Tensor) -> torch.Tensor:
    return torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
