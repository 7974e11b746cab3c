"""A step's batch as the objective sees it: the states and facts of all processes, this process's rows first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from puma.losses import batch_keys
from puma.losses.gathering import gather_rows, gather_sizes, rank
from puma.losses.negatives import NONE, false_negatives


@dataclass(frozen=True)
class Batch:
    """A batch; :func:`gather_batch` makes it.

    Args:
        own: this process's queries.
        items: queries and candidates of each rank.
        states: [n, d], of all items: each rank's queries, then its candidates.
        queries, candidates: [q, d] and [c, d].
        target_modality: [q]; candidate_modality, candidate_key, content_key: [c]; known: [q, m]: as
            :mod:`puma.losses.batch_keys` has them.
        positive: [q]: which candidate is each query's positive.
    """

    own: int
    items: list[int]
    states: torch.Tensor
    queries: torch.Tensor
    candidates: torch.Tensor
    target_modality: torch.Tensor
    candidate_modality: torch.Tensor
    candidate_key: torch.Tensor
    content_key: torch.Tensor
    known: torch.Tensor
    positive: torch.Tensor

    def false_negatives(self, queries: int | None) -> torch.Tensor:
        """bool [queries, c], of the first queries or of all."""
        positive = self.positive[:queries]
        keys = self.candidate_key
        return false_negatives(self.known[:queries], keys[positive], keys, self.content_key, positive)

    def divided(self, parts: int) -> list[Batch]:
        """The same batch so many times, each with an equal part of the states' width."""
        if parts == 1:
            return [self]
        width = self.states.shape[1] // parts
        cut = [tensor.split(width, 1) for tensor in (self.states, self.queries, self.candidates)]
        return [replace(self, states=s, queries=q, candidates=c) for s, q, c in zip(*cut, strict=True)]


def gather_batch(states: torch.Tensor, extra: dict[str, Any]) -> Batch:
    """The batch of all processes.

    Args:
        states: this process's, [q + c, d]: queries, then candidates.
        extra: what its batch carries under :mod:`puma.losses.batch_keys`.
    """
    device, q = states.device, len(extra[batch_keys.TARGET_MODALITY])
    known = extra[batch_keys.KNOWN]  # [q, m]
    sizes = gather_sizes([q, len(states) - q, known.shape[1]], device)
    many = max(m for _, _, m in sizes)
    known = torch.cat([known, known.new_full((q, many - known.shape[1]), NONE)], 1)
    query_facts = torch.cat([extra[batch_keys.TARGET_MODALITY][:, None], known], 1)  # [q, 1 + m]
    of_candidates = (batch_keys.CANDIDATE_MODALITY, batch_keys.CANDIDATE_KEY, batch_keys.CONTENT_KEY)
    candidate_facts = torch.stack([extra[key] for key in of_candidates], 1)  # [c, 3]
    # One collective with gradient, whose backward all processes reach at the same place.
    items = [n + c for n, c, _ in sizes]
    states = gather_rows(states, items)
    query_facts = gather_rows(query_facts, [n for n, _, _ in sizes])
    candidate_facts = gather_rows(candidate_facts, [c for _, c, _ in sizes])
    # They lie as queries, candidates, queries, candidates, ...: this process's first.
    query_rows: list[int] = []
    candidate_rows: list[int] = []
    positive: list[int] = []
    start = 0
    for n, c, _ in sizes[rank() :] + sizes[: rank()]:
        positive += range(len(candidate_rows), len(candidate_rows) + n)
        query_rows += range(start, start + n)
        candidate_rows += range(start + n, start + n + c)
        start += n + c
    return Batch(
        own=q,
        items=items,
        states=states,
        queries=states[query_rows],
        candidates=states[candidate_rows],
        target_modality=query_facts[:, 0],
        candidate_modality=candidate_facts[:, 0],
        candidate_key=candidate_facts[:, 1],
        content_key=candidate_facts[:, 2],
        known=query_facts[:, 1:],
        positive=torch.tensor(positive, device=device),
    )
