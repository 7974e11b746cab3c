"""Items without pairs: what a stage with ``items_only`` reads, two to a row. Loads no torch.

Distillation needs items alone. The trainer's batches are rows of two, so two items of one modality share a row; nothing
compares them as a query with its answer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Container, Iterable, Sequence

from puma.data.mbeir import open_benchmark
from puma.errors import DataError
from puma.items.digest import plain_text
from puma.items.item import MODALITIES, Item
from puma.items.skips import Skip
from puma.training.pairs import Pair


def read_items(
    root: str | os.PathLike[str], *, split: str = "train", strict: bool = False, faults: list[Skip] | None = None
) -> list[Item]:
    """Every different item of a benchmark's split: its tasks' pools, and its queries, whether they have positives or
    not, in the files' order. Two items are the same if text (white space aside) and image path are.

    Args:
        strict: refuse a faulty line of a file; else it is left out.
        faults: gets what was left out.

    Raises:
        DataError: a file is missing; with ``strict`` the first fault found.
    """
    benchmark = open_benchmark(root)
    left_out: list[Skip] = []
    benchmark.skips = None if strict else left_out
    found: dict[tuple[str, str], Item] = {}
    for task in benchmark.tasks(split):
        items = [candidate.item(benchmark.root) for candidate in benchmark.pool(task, split)]
        items += [query.item(benchmark.root) for query in benchmark.queries(task, split)]
        for item in items:
            image = "" if item.image is None else os.fspath(item.image)  # type: ignore[arg-type]
            found.setdefault((plain_text(item.text), image), item)
    if faults is not None:
        faults += list(dict.fromkeys(left_out))
    return list(found.values())


def item_rows(items: Iterable[Item], *, seed: int = 0) -> list[Pair]:
    """Rows of two items of one modality each, drawn by the seed; where a modality has an odd number, one comes twice.

    A row's task is its items' modality, so that batches mix modalities as they mix tasks.

    Raises:
        DataError: there are no items.

    Examples:
        >>> rows = item_rows([Item(text=word) for word in "abc"])
        >>> [len({row.query.text, row.candidate.text}) for row in rows], rows[0].instruction
        ([2, 2], None)
    """
    by_modality: dict[int, list[Item]] = {}
    for item in items:
        by_modality.setdefault(MODALITIES.index(item.modality), []).append(item)
    if not by_modality:
        raise DataError("items_only: the data has no item that the teacher can teach")
    rows = []
    for modality, members in sorted(by_modality.items()):
        random.Random(f"{seed}:{modality}").shuffle(members)
        if len(members) % 2:
            members.append(members[0])
        for number in range(0, len(members), 2):
            name = f"item {modality}:{number}"
            first, second = members[number : number + 2]
            rows.append(Pair(first, second, None, modality, name, name, frozenset({name})))
    return rows


def teachable(items: Sequence[Item], captions: Container[str]) -> list[Item]:
    """The items that a teacher of texts has a target for: texts, and images that have a caption.

    Args:
        captions: the paths of images with a caption.
    """

    def taught(item: Item) -> bool:
        if item.image is None:
            return bool(item.text)
        return item.text is None and isinstance(item.image, (str, os.PathLike)) and os.fspath(item.image) in captions

    return [item for item in items if taught(item)]
