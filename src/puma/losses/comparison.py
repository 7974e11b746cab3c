"""What every contrastive loss compares: the cosines of queries with candidates, who takes part, and the temperatures.

A :class:`Comparison` is made once a step; a loss and the figures beside it are functions of it. :func:`on_tensors`
gives such a function the public signature, which takes a batch's tensors (:class:`OnTensors` documents it for all).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch.nn import functional

from puma.errors import InputError
from puma.losses.batch_keys import ANY
from puma.losses.negatives import compared

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """Queries against candidates; the positive of query i is candidate i. :func:`compare` makes it.

    Args:
        scores: cosines [q, c], fp32, with gradient.
        keep: bool [q, c], the candidates in a query's sum; always its positive.
        candidates: [c, d], as they were given.
        target_modality: integer codes [q], the modality of each query's positive, or
            :data:`puma.losses.batch_keys.ANY`.
        candidate_modality: integer codes [c].
        temperature: tau_norm.
        hard_temperature: tau of same-modality candidates; None where only one temperature is known.
    """

    scores: torch.Tensor
    keep: torch.Tensor
    candidates: torch.Tensor
    target_modality: torch.Tensor
    candidate_modality: torch.Tensor
    temperature: float
    hard_temperature: float | None

    @functools.cached_property
    def positives(self) -> torch.Tensor:
        """bool [q, c]: the diagonal."""
        return torch.eye(*self.scores.shape, dtype=torch.bool, device=self.scores.device)

    @functools.cached_property
    def same_modality(self) -> torch.Tensor:
        """bool [q, c]: the candidates of the modality of the query's positive (:func:`same_modality`)."""
        return same_modality(self.target_modality, self.candidate_modality)

    @functools.cached_property
    def positive_scores(self) -> torch.Tensor:
        """Cosines of each query's positive with all candidates, [q, c], fp32."""
        return cosine_scores(self.candidates[: len(self.scores)], self.candidates)

    @property
    def needed_hard_temperature(self) -> float:
        """:attr:`hard_temperature`; raises InputError where it is None."""
        if self.hard_temperature is None:
            raise InputError(
                "hard_temperature=None: give the temperature of candidates of the positive's modality, a positive "
                "number"
            )
        return self.hard_temperature

    def masked_scores(self) -> torch.Tensor:
        """:attr:`scores`, -inf where a candidate takes no part."""
        return self.scores.masked_fill(~self.keep, float("-inf"))


def compare(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    target_modality: torch.Tensor,
    candidate_modality: torch.Tensor,
    *,
    temperature: float,
    hard_temperature: float | None = None,
    exclude: torch.Tensor | None = None,
    margin: float | None = None,
) -> Comparison:
    """Check a batch's tensors (their meaning: :class:`OnTensors`), score them and mask what is no negative.

    Raises:
        InputError: shapes, temperatures or the margin do not fit.
    """
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
    if not (temperature > 0 and (hard_temperature is None or hard_temperature > 0)):
        raise InputError(f"temperature={temperature!r}, hard_temperature={hard_temperature!r}: both must be positive")
    if exclude is not None and exclude.shape != (q, c):
        raise InputError(f"exclude must be bool [q, c]={[q, c]}, got {list(exclude.shape)}")
    scores = cosine_scores(queries, candidates)
    return Comparison(
        scores=scores,
        keep=compared(scores, exclude, margin),
        candidates=candidates,
        target_modality=target_modality,
        candidate_modality=candidate_modality,
        temperature=temperature,
        hard_temperature=hard_temperature,
    )


def same_modality(target_modality: torch.Tensor, candidate_modality: torch.Tensor) -> torch.Tensor:
    """bool [q, c]: whether candidate j has the modality that query i asks for; always where either code is
    :data:`puma.losses.batch_keys.ANY`.

    It holds of the pair, whichever side asks: in the candidates' view, where queries stand as candidates, a query that
    asks for no modality is again of every candidate's own.
    """
    target, candidate = target_modality[:, None], candidate_modality[None, :]
    return (target == candidate) | (target == ANY) | (candidate == ANY)


def cosine_scores(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cosine of every query with every candidate, [q, c], in fp32, also under autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        return functional.normalize(queries.float(), dim=-1) @ functional.normalize(candidates.float(), dim=-1).T


class OnTensors(Protocol[T]):
    """The signature that all contrastive losses share, here :func:`puma.losses.mac_loss` and its baselines.

    ``of`` is the function itself, of a :class:`Comparison` that was made already.
    """

    of: Callable[..., T]

    def __call__(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        target_modality: torch.Tensor,
        candidate_modality: torch.Tensor,
        *,
        temperature: float,
        hard_temperature: float | None = None,
        exclude: torch.Tensor | None = None,
        margin: float | None = None,
        **options: float,
    ) -> T:
        """Compare a batch.

        Args:
            queries: [q, d], of any length (normalised here).
            candidates: [c, d], c >= q; the positive of query i is candidate i.
            target_modality: integer codes [q]: the modality of each query's positive, or
                :data:`puma.losses.batch_keys.ANY` for a query that asks for none: all candidates are then of its own.
            candidate_modality: integer codes [c].
            temperature: tau_norm, > 0.
            hard_temperature: tau of same-modality candidates, > 0. MAC-Loss and split MAC-Loss need it.
            exclude: bool [q, c], True where a candidate is a false negative; it leaves the sum *before* the
                temperatures apply. The positives (the diagonal) are never excluded. A query left with no negative has a
                loss of 0 (SigLIP's, which judges each pair by itself, apart).
            margin: a candidate whose cosine is above the positive's by more than this is taken for a false negative
                too, also before the temperatures; None: none is.
            options: the loss's own parameters.

        Returns:
            A scalar, fp32, the mean over queries, with gradient to queries and candidates.

        Raises:
            InputError: shapes, temperatures, margin or options do not fit.
        """


def on_tensors(function: Callable[..., T]) -> OnTensors[T]:
    """Give a function of a :class:`Comparison` the signature of :class:`OnTensors`."""

    shared, inner = inspect.signature(compare), inspect.signature(function)
    own = list(inner.parameters)[1:]  # the first is the comparison

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> T:
        options = {name: kwargs.pop(name) for name in own if name in kwargs}
        return function(compare(*args, **kwargs), **options)

    named: Any = called
    named.__signature__ = shared.replace(
        parameters=[*shared.parameters.values(), *list(inner.parameters.values())[1:]],
        return_annotation=inner.return_annotation,
    )
    named.__doc__ = f"{inspect.getdoc(function)}\n\nThe batch's arguments: :class:`puma.losses.comparison.OnTensors`.\n"
    named.of = function
    return cast("OnTensors[T]", named)
