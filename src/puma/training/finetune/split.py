"""Which examples are trained on and which are held out: no query on both sides, and no positive where that is possible.

The held-out part has two halves: by one the weights are chosen, on the other the gain is measured, so that the choice
does not flatter the figures. Loads no torch.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from puma.data.groups import Groups
from puma.errors import InputError
from puma.training.finetune.examples import Example

FRACTION = 0.2
MOST = 600
"""Queries that are held out at most: more would cost time and tell little more."""
FEWEST = 10
"""Different queries that a table must have."""


@dataclass(frozen=True)
class Split:
    """Numbers of examples.

    Args:
        train: to train on.
        choose, measure: the two halves of what is held out.
        shared_positives: held-out positives that are positives in training too, of other queries: 0 where the data can
            be parted without.
    """

    train: list[int]
    choose: list[int]
    measure: list[int]
    shared_positives: int

    @property
    def held_out(self) -> list[int]:
        """Both halves."""
        return sorted(self.choose + self.measure)


def split_examples(rows: Sequence[Example], fraction: float = FRACTION, *, most: int = MOST, seed: int = 0) -> Split:
    """Part examples by the content of their queries.

    Examples that share a query or a positive, directly or over others, are a group and stay together. Whole groups are
    held out in an order that their content decides, until ``fraction`` of the queries is. Where most examples hang
    together (a few positives that are right for everything), queries are held out one by one instead, and their
    positives may be trained on, too.

    Args:
        fraction: of the different queries, in (0, 1).
        most: queries held out at most.

    Raises:
        InputError: a fraction out of range; fewer than :data:`FEWEST` different queries.
    """
    if not 0 < fraction < 1:
        raise InputError(f"held_out={fraction!r} (--held-out): give a fraction between 0 and 1, as 0.2")
    queries: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        queries.setdefault(row.query_key, []).append(number)
    if len(queries) < FEWEST:
        raise InputError(
            f"the data has {len(queries)} different queries; at least {FEWEST} are needed, some to train on and some "
            "to see whether it helped"
        )
    wanted = max(4, min(most, round(fraction * len(queries)), len(queries) - 4))
    groups = _groups(rows)
    held = _fill([{rows[n].query_key for n in group} for group in groups], wanted, seed)
    if sum(map(len, held)) < wanted / 2 or len(held) < 2:
        inside = {query for group in held for query in group}
        singles = [{query} for query in queries if query not in inside]
        held += _fill(singles, wanted - len(inside), seed)
    halves: tuple[list[int], list[int]] = ([], [])
    sizes = [0, 0]
    for group in held:  # the smaller half takes the next
        half = 0 if sizes[0] <= sizes[1] else 1
        sizes[half] += len(group)
        halves[half].extend(number for query in group for number in queries[query])
    out = set(halves[0]) | set(halves[1])
    train = [number for number in range(len(rows)) if number not in out]
    trained = {rows[number].positive_key for number in train}
    shared = len({rows[number].positive_key for number in out} & trained)
    return Split(train, sorted(halves[0]), sorted(halves[1]), shared)


def _fill(groups: Iterable[set[str]], wanted: int, seed: int) -> list[set[str]]:
    """Groups of queries, in the order of their hashes, as long as they fit."""
    chosen: list[set[str]] = []
    left = wanted
    for group in sorted(groups, key=lambda group: _hash(min(group), seed)):
        if len(group) <= left:
            chosen.append(group)
            left -= len(group)
    return chosen


def _hash(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _groups(rows: Sequence[Example]) -> list[list[int]]:
    """Numbers of the examples that hang together by a content, be it a query's or a positive's."""
    contents = Groups()
    for row in rows:
        contents.join(row.query_key, row.positive_key)
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[contents.find(row.query_key)].append(number)
    return list(groups.values())
