"""Which items go through the model together: like kinds, like lengths in true tokens, images counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from puma.items.item import Item
from puma.retriever.encoding.batches import CPU_MOST_TOKENS, length_sorted_batches, pass_tokens, prefetched
from puma.retriever.images.sizes import size_in_file
from puma.retriever.inputs import Inputs

WINDOWS = (2, 6, 24, 64)
"""How many batches' lengths are counted together while the model works on those before: few at first, so that it need
not wait. All else alike, more are divided better."""

PROBES = ((16, 16), (64, 64), (1024, 256))
"""Sizes of images in pixels: where all become as many tokens, images have one number of tokens."""


@dataclass(frozen=True)
class Batch:
    """Items of one forward pass.

    Args:
        rows: their positions.
        ids: the tokens of each, with one placeholder for an image.
        with_images: whether all have one, or none.
        again: whether their images will have been seen in batches before.
    """

    rows: list[int]
    ids: list[list[int]]
    with_images: bool
    again: bool


Head = tuple[int, ...]


def item_heads(inputs: Inputs, items: Sequence[Item], instructions: Sequence[str | None]) -> list[Head]:
    """The tokens before each item's own text or image."""
    kinds = [(item.modality, instruction) for item, instruction in zip(items, instructions, strict=True)]
    heads = {kind: tuple(inputs.head_ids(*kind)) for kind in set(kinds)}
    return [heads[kind] for kind in kinds]


def kinds_by_head(heads: Sequence[Head], device: torch.device) -> list[Head | None]:
    """Each item's head where it pays to have batches of this head alone, else None."""
    counts, fixed = Counter(heads), pass_tokens(device)
    worth = {head for head, count in counts.items() if (count - 1) * len(head) > fixed}
    return [head if head in worth else None for head in heads]


def planned_batches(
    inputs: Inputs,
    items: Sequence[Item],
    instructions: Sequence[str | None],
    *,
    batch_size: int,
    device: torch.device,
    kinds: Sequence[Head | None] | None = None,
    again: Sequence[bool] | None = None,
) -> Iterator[Batch]:
    """The batches that all items go through the model in: images, images seen before, texts; of each kind the longest
    first.

    Args:
        items: n items.
        instructions: one an item.
        batch_size: the most items of a batch.
        device: of the model; on a CPU padding costs as much as text.
        kinds: items of different kinds are not put into one batch; a kind that is a head is not computed item by item.
        again: of each item whether its image is one of those before.
    """
    groups: dict[tuple[int, Head | None], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        state = 2 if item.image is None else 1 if again and again[i] else 0
        groups[state, kinds[i] if kinds else None].append(i)
    windows: list[tuple[int, int, list[int]]] = []
    for (state, head), rows in sorted(groups.items(), key=lambda group: group[0][0]):
        rows.sort(key=lambda i: -len(items[i].text or "") - len(instructions[i] or ""))
        start = 0
        while start < len(rows):
            # On a CPU the model takes so long that nothing is gained by beginning early.
            size = WINDOWS[-1 if device.type == "cpu" else min(len(windows), len(WINDOWS) - 1)] * batch_size
            windows.append((state, len(head or ()), rows[start : start + size]))
            start += size

    def plan(window: tuple[int, int, list[int]]) -> list[Batch]:
        state, known, rows = window
        with_image = state < 2
        part = [items[i] for i in rows]
        ids = inputs.token_ids(part, [instructions[i] for i in rows])
        counts = image_token_counts(inputs.processor, part) if with_image else [0] * len(part)
        lengths = [max(1, len(one) - known + count) for one, count in zip(ids, counts, strict=True)]
        on_cpu = device.type == "cpu"
        places = length_sorted_batches(
            lengths,
            batch_size,
            fixed=pass_tokens(device) if on_cpu else None,
            most_tokens=CPU_MOST_TOKENS if on_cpu else None,
        )
        return [Batch([rows[n] for n in some], [ids[n] for n in some], with_image, state == 1) for some in places]

    if len(windows) == 1:
        yield from plan(windows[0])
        return
    for _, batches in prefetched(windows, plan):
        yield from batches


def image_token_counts(processor: Any, items: Sequence[Item]) -> list[int]:
    """About how many tokens each item's image becomes, by its size in the file; 0 where that is not known."""

    def count(width: int, height: int) -> int:
        try:
            if hasattr(processor, "_get_num_multimodal_tokens"):
                return int(processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0])
            tiles, *_ = processor.image_processor.get_number_of_image_patches(height, width, {})
            return max(1, tiles) * int(processor.image_seq_len)
        except Exception:  # a processor without either, of another version, or one that refuses such a shape
            return 0

    if len({count(*size) for size in PROBES}) == 1:
        return [count(*PROBES[0])] * len(items)
    return [count(*size) if (size := size_in_file(item.image)) else 0 for item in items]
