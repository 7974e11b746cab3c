"""How a step's items are divided into chunks that are padded by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from puma.items.item import Item
from puma.retriever.encoding.planning import image_token_counts
from puma.retriever.inputs import Inputs

CHUNK_TOKENS = 110
"""What a chunk costs beside its tokens, in tokens: above all its share of the weights' gradients (measured on the mini
base on a CPU: 39 ms where a token takes 0.35)."""


def chunks_of(
    inputs: Inputs, items: Sequence[Item], instructions: Sequence[str | None], most: int, *, equal: bool = False
) -> list[list[int]]:
    """Positions of the items in each chunk, the shortest items first.

    Args:
        inputs: the model's input maker, which counts tokens.
        items: of a step, with an instruction or None each.
        most: chunks at most.
        equal: exactly so many, of as many items each: where every chunk must weigh the same, or every process must run
            as many.
    """
    ids = inputs.token_ids(items, instructions)
    lengths = [len(one) for one in ids]
    with_image = [place for place, item in enumerate(items) if item.image is not None]
    counts = image_token_counts(inputs.processor, [items[place] for place in with_image])
    for place, count in zip(with_image, counts, strict=True):
        lengths[place] += count
    return equal_chunks(lengths, most) if equal else cheapest_chunks(lengths, most)


def equal_chunks(lengths: Sequence[int], count: int) -> list[list[int]]:
    """The division into chunks of as many rows each, sorted by length; none is empty."""
    order = np.argsort(np.asarray(lengths), kind="stable").tolist()
    bounds = np.linspace(0, len(order), count + 1).astype(int)
    return [order[start:end] for start, end in itertools.pairwise(bounds) if end > start]


def cheapest_chunks(lengths: Sequence[int], most: int, fixed: int = CHUNK_TOKENS) -> list[list[int]]:
    """The division into at most ``most`` chunks for which the sum of ``fixed + rows * longest`` is smallest.

    Args:
        lengths: of the rows, in tokens, each at least 1.
        most: at least 1.
        fixed: what a chunk costs beside its tokens, in tokens.

    Returns:
        Row numbers of each chunk, the shortest rows first. Rows of one length are in one chunk, in their order.

    Examples:
        >>> cheapest_chunks([9, 2, 9, 3], 2, fixed=1)
        [[1, 3], [0, 2]]
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    sizes, counts = np.unique(np.asarray(lengths), return_counts=True)
    ends = np.concatenate([[0], counts.cumsum()])
    costs = np.full((most + 1, len(sizes) + 1), np.inf)
    costs[0, 0] = 0
    before = np.zeros(costs.shape, dtype=int)
    for number in range(1, most + 1):
        for end in range(1, len(sizes) + 1):
            options = costs[number - 1, :end] + fixed + (ends[end] - ends[:end]) * sizes[end - 1]
            before[number, end] = int(options.argmin())
            costs[number, end] = options[before[number, end]]
    number, end = int(costs[:, -1].argmin()), len(sizes)
    chunks = []
    while end:
        start = int(before[number, end])
        chunks.append(order[ends[start] : ends[end]].tolist())
        number, end = number - 1, start
    return chunks[::-1]
