"""Hit rates on the held-out part of a table of pairs: every query against all held-out positives of the modality that
it searches for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma.evaluation.metrics import hit_rate_from_ranks, ranks_of_positives
from puma.items.item import Item
from puma.training.finetune.examples import Example
from puma.training.validation import MEAN

KS = (1, 5, 10)
Ranks = dict[str, "dict[str, int | None]"]
"""The rank of each query's best right answer, by pair of modalities and query id."""


@dataclass(frozen=True)
class Question:
    """A held-out query: its id and its content's key, the item, its instruction, the modalities ("text ->
    image"), and its right answers' keys."""

    id: str
    key: str
    query: Item
    instruction: str | None
    kind: str
    positives: frozenset[str]


@dataclass(frozen=True)
class HeldOut:
    """Queries and the pools that they are searched in.

    Args:
        questions: the queries.
        pools: by the modality searched for, the candidates by their key.
    """

    questions: list[Question]
    pools: Mapping[str, Mapping[str, Item]]

    @classmethod
    def of(cls, examples: Sequence[Example], pool: Sequence[Example], known: Mapping[str, frozenset[str]]) -> HeldOut:
        """The queries of some examples, and as candidates the positives of others.

        Args:
            known: the keys of all right answers by the query's key.
        """
        pools: dict[str, dict[str, Item]] = {}
        for row in pool:
            pools.setdefault(row.positive.modality, {}).setdefault(row.positive_key, row.positive)
        questions: dict[str, Question] = {}
        for row in examples:
            kind = f"{_words(row.query.modality)} -> {_words(row.positive.modality)}"
            right = known[row.query_key] & pools[row.positive.modality].keys()
            questions.setdefault(
                row.query_id, Question(row.query_id, row.query_key, row.query, row.instruction, kind, right)
            )
        wanted = {row.positive.modality for row in examples}
        return cls(list(questions.values()), {_words(name): pools[name] for name in pools if name in wanted})

    @property
    def kinds(self) -> list[str]:
        """The pairs of modalities among the queries."""
        return sorted({question.kind for question in self.questions})

    def pool(self, kind: str) -> Mapping[str, Item]:
        """The candidates of a pair of modalities."""
        return self.pools[kind.partition(" -> ")[2]]

    def ranks(self, encoder: Any) -> Ranks:
        """The rank of each query's best right answer, from 1, by pair of modalities and query id; ties count against
        us. A query is no candidate of its own. None where the encoder's scores are no numbers.

        Args:
            encoder: a retriever, or what encodes with one instruction an item as it does.
        """
        vectors = {name: encoder.encode(list(pool.values())) for name, pool in self.pools.items()}
        places = {name: {key: place for place, key in enumerate(pool)} for name, pool in self.pools.items()}
        found: Ranks = {}
        for kind in self.kinds:
            own = [question for question in self.questions if question.kind == kind]
            wanted = kind.partition(" -> ")[2]
            queries = encoder.encode([q.query for q in own], [q.instruction for q in own])
            scores = np.asarray(queries, np.float32) @ np.asarray(vectors[wanted], np.float32).T
            for row, question in enumerate(own):
                if question.key in places[wanted] and question.key not in question.positives:
                    scores[row, places[wanted][question.key]] = -np.inf
            positives = [sorted(places[wanted][key] for key in question.positives) for question in own]
            ranks = ranks_of_positives(scores, positives)
            found[kind] = {q.id: int(row.min()) if len(row) else None for q, row in zip(own, ranks, strict=True)}
        return found

    def figures(self, encoder: Any) -> dict[str, float]:
        """What a training is judged by: ``eval_hit_<kind>``, the mean of hit@1, hit@5 and hit@10 of each pair of
        modalities, and the mean of these, all in [0, 1]."""
        found = {
            f"eval_hit_{kind.replace(' ', '')}": float(np.mean([hit_rate(ranks, k) for k in KS]))
            for kind, ranks in self.ranks(encoder).items()
        }
        return {**found, MEAN: float(np.mean(list(found.values())))}


def hit_rate(ranks: Mapping[str, int | None], k: int) -> float:
    """The share of queries with a right answer among the first ``k``."""
    return hit_rate_from_ranks([np.array([] if rank is None else [rank]) for rank in ranks.values()], k)


def _words(modality: str) -> str:
    return modality.replace(",", "+")
