"""What MAC-Loss is compared with: InfoNCE, SigLIP's sigmoid loss, and two submodular set losses.

All have the signature of :func:`puma.losses.mac_loss` and treat false negatives and the margin as it does, so that a
comparison differs in the loss alone; they know one temperature and no modalities. :data:`LOSS_FUNCTIONS` names all
losses.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.nn import functional

from puma.errors import InputError
from puma.losses.comparison import Comparison, OnTensors, on_tensors
from puma.losses.mac import mac_loss
from puma.losses.split_mac import split_mac_loss


@on_tensors
def infonce_loss(comparison: Comparison) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4): the cross entropy of the positive among all
    candidates, at one temperature. :func:`puma.losses.mac_loss` with both temperatures equal.
    """
    return mac_loss.of(replace(comparison, hard_temperature=comparison.temperature))


@on_tensors
def siglip_loss(comparison: Comparison, *, bias: float = -10.0) -> torch.Tensor:
    """SigLIP's sigmoid loss (Zhai et al. 2023, arXiv 2303.15343, algorithm 1): each pair is right or wrong by itself.

    ``-1/q * sum_ij log sigmoid(z_ij * (cos_ij / temperature + bias))`` with z = 1 on the diagonal and -1 elsewhere. The
    paper learns scale and bias (from 10 and -10); here both are fixed, so that the loss has no parameters of its own:
    the scale is 1 / temperature, and the bias stays where the paper starts it. It lets a pair count as right from a
    cosine of ``-bias * temperature`` on (0.3 at 0.03).

    Args:
        bias: added to every logit; negative, since nearly all pairs are wrong ones.

    Returns:
        A scalar, fp32: the sum over candidates, the mean over queries.
    """
    if not math.isfinite(bias):
        raise InputError(f"bias={bias!r}: give a finite number")
    scores = comparison.scores
    sign = 2 * comparison.positives.float() - 1
    losses = -functional.logsigmoid(sign * (scores / comparison.temperature + bias))  # [q, c]
    return (losses * comparison.keep).sum() / len(scores)


@on_tensors
def facility_location_loss(comparison: Comparison) -> torch.Tensor:
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
    """
    own = comparison.positive_scores.masked_fill(comparison.positives, float("-inf"))
    nearest = torch.maximum(comparison.scores, own)  # [q, c]
    logits = nearest.masked_fill(~comparison.keep, float("-inf")) / comparison.temperature
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


@on_tensors
def graph_cut_loss(comparison: Comparison, *, weight: float = 1.0) -> torch.Tensor:
    """A graph-cut set loss, after SCoRe (Majee et al., ICML 2024, arXiv 2310.00165: total information of the graph-cut
    function): what a set cuts through, against what holds it together.

    With A_i, V and K as in :func:`facility_location_loss`::

        G(A_i) = sum_{j in V, not in A_i} sum_{a in A_i} K(a, j)
        loss_i = log(1 + G(A_i) / (weight * K(query i, positive i)))

    As in SCoRe's code the two parts are a ratio under a logarithm rather than a difference, which leaves no part to
    drown the other at a low temperature; the 1 keeps it finite where nothing is outside.

    Args:
        weight: SCoRe's lambda, > 0: how much the set's inner similarity counts against the cut.
    """
    if not (weight > 0 and math.isfinite(weight)):
        raise InputError(f"weight={weight!r}: give a positive number")
    positives = comparison.positives
    own = comparison.positive_scores.masked_fill(~comparison.keep | positives, float("-inf"))
    edges = torch.cat([comparison.masked_scores(), own], 1)  # [q, 2c]
    inner = torch.cat([positives, torch.zeros_like(positives)], 1) * math.log(weight)
    return functional.cross_entropy(edges / comparison.temperature + inner, torch.arange(len(edges), device=own.device))


LOSS_FUNCTIONS: dict[str, OnTensors[torch.Tensor]] = {
    "mac": mac_loss,
    "split-mac": split_mac_loss,
    "infonce": infonce_loss,
    "siglip": siglip_loss,
    "facility-location": facility_location_loss,
    "graph-cut": graph_cut_loss,
}
"""The contrastive losses by the name that a configuration gives them."""

TWO_TEMPERATURES = ("mac", "split-mac")
"""Those whose hard temperature falls while training goes on; the others have one temperature."""
