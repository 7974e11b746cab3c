"""The rows of ``distillation_pays.py``: labelled pairs drawn by a seed, and what of the rest has a teacher."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from puma.training.pairs import Pair
from puma.training.teacher.folder import IMAGE_TO_TEXT, captions_of
from puma.training.unlabelled import teachable


def labelled(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """``count`` pairs, equally many of each task (less where a task has fewer), one a query, drawn by the seed; 0 for
    all. Known to be right are those among them alone."""
    if not count:
        return list(pairs)
    draw, by_task = random.Random(seed), {}
    for pair in pairs:
        by_task.setdefault(pair.task, {}).setdefault(pair.query_id, []).append(pair)
    drawn: list[Pair] = []
    left = count
    for number, (_, queries) in enumerate(sorted(by_task.items(), key=lambda entry: len(entry[1]))):
        share = min(len(queries), left // (len(by_task) - number))
        left -= share
        drawn += [draw.choice(queries[name]) for name in draw.sample(sorted(queries), share)]
    return [replace(pair, known=frozenset({pair.candidate_id})) for pair in drawn]


def captioned(pairs: Sequence[Pair]) -> list[Pair]:
    """Every image with its caption, as a pair of image -> text without an instruction."""
    return [replace(pair, instruction=None) for pair in pairs if pair.task == IMAGE_TO_TEXT]


def texts(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of two texts, and an image's with its caption: what the untrained base can teach."""
    captions = captions_of(pairs)
    return [pair for pair in pairs if all(teachable([item], captions) for item in (pair.query, pair.candidate))]
