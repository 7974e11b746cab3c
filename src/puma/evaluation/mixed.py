"""How good the first hits are, and of which modality, where a query asks for none. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from puma.errors import InputError
from puma.evaluation.metrics import Qrels, hit_rate_at_k, ndcg_at_k, precision_at_k
from puma.items.item import MODALITIES


@dataclass(frozen=True)
class MixedTable:
    """Figures over queries, all in [0, 1].

    Args:
        queries: how many.
        precision: the share of right ones among the first k.
        ndcg: nDCG at k, by grade.
        first: the share of queries whose first hit is right.
        shares: of the hits among the first k, the share of each modality.
    """

    queries: int
    precision: float
    ndcg: float
    first: float
    shares: dict[str, float]


def mixed_table(
    grades: Qrels, orders: Mapping[str, Sequence[str]], modalities: Mapping[str, str], k: int = 10
) -> MixedTable:
    """Judge orders in which items of all modalities stand.

    Args:
        grades: ``{query id: {item id: grade}}``; above 0 is right.
        orders: by query id, item ids, best first, none twice; a query that is missing found nothing.
        modalities: by item id.
        k: at least 1.

    Raises:
        InputError: no query has a right item, an item occurs twice or has no modality, or k is below 1.

    Examples:
        >>> table = mixed_table({"q": {"a": 2, "b": 1}}, {"q": ["a", "c"]}, {"a": "image", "c": "text"}, k=2)
        >>> table.precision, table.first, table.shares["image"]
        (0.5, 1.0, 0.5)
    """
    run = {}
    counts = dict.fromkeys(MODALITIES, 0)
    for qid in grades:
        order = list(orders.get(qid, ()))
        if len(set(order)) != len(order):
            raise InputError(f"orders: that of query {qid!r} holds an item twice")
        run[qid] = {did: -float(place) for place, did in enumerate(order)}
        for did in order[:k]:
            if modalities.get(did) not in counts:
                raise InputError(f"modalities: none of {', '.join(MODALITIES)} is given for item {did!r}")
            counts[modalities[did]] += 1
    shown = max(sum(counts.values()), 1)
    return MixedTable(
        queries=sum(any(grade > 0 for grade in row.values()) for row in grades.values()),
        precision=precision_at_k(grades, run, k),
        ndcg=ndcg_at_k(grades, run, k),
        first=hit_rate_at_k(grades, run, 1),
        shares={name: count / shown for name, count in counts.items()},
    )
