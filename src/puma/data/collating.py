"""From rows of pairs to the tensors of one training step.

Queries and candidates are one list of items; it is sorted by length and cut into *chunks*, each padded by itself, so
that a short caption is not padded to the length of an image with a text. What the loss must know beside the tensors
(modalities, false negatives, teacher's states)
rides in the first chunk under keys that start with ``puma_``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from puma.data.pairs import Pair
from puma.encoding import Inputs, VisionFeatures
from puma.items import MODALITIES, Item

PREFIX = "puma_"

Targets = Callable[[Item, "str | None"], "np.ndarray | None"]
"""The distillation target of an item with its instruction, or None: see :mod:`puma.teacher`."""


@dataclass
class PairCollator:
    """Makes the step's tensors, in the form sentence-transformers' trainer passes on.

    Args:
        pairs: the rows that the data set's ``row`` column points at.
        inputs: the model's input maker.
        chunks: how many length-sorted parts the items are cut into.
        vision: stored outputs of the frozen tower.
        teacher: gives an item's target [dim] for distillation, or None where it has none; None for no distillation.
    """

    pairs: Sequence[Pair]
    inputs: Inputs
    chunks: int = 4
    vision: VisionFeatures | None = None
    teacher: Targets | None = None
    valid_label_columns: list[str] = field(default_factory=list)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        chosen = [self.pairs[row["row"]] for row in rows]
        items = [pair.query for pair in chosen] + [pair.candidate for pair in chosen]
        asked = [pair.instruction for pair in chosen] + [None] * len(chosen)
        batch: dict[str, Any] = {}
        for number, part in enumerate(self._parts(items, asked)):
            features = self.inputs.features([items[i] for i in part], [asked[i] for i in part], self.vision)
            features[PREFIX + "rows"] = torch.tensor(part)
            features["modality"] = "message"  # the pipeline's first module asks for it
            batch.update({f"chunk{number}_{key}": value for key, value in features.items()})
        batch["chunk0_puma_target_modality"] = torch.tensor([pair.target_modality for pair in chosen])
        batch["chunk0_puma_candidate_modality"] = torch.tensor([MODALITIES.index(p.candidate.modality) for p in chosen])
        batch["chunk0_puma_exclude"] = false_negatives(chosen)
        if self.teacher is not None:
            targets = [self.teacher(item, ask) for item, ask in zip(items, asked, strict=True)]
            dim = next((len(target) for target in targets if target is not None), 1)
            filled = [np.zeros(dim) if target is None else target for target in targets]
            batch["chunk0_puma_teacher"] = torch.from_numpy(np.stack(filled)).float()
            batch["chunk0_puma_taught"] = torch.tensor([target is not None for target in targets])
        return batch

    def _parts(self, items: Sequence[Item], asked: Sequence[str | None]) -> list[list[int]]:
        def length(i: int) -> int:
            return len(items[i].text or "") + len(asked[i] or "") + (30 if items[i].image is not None else 0)

        order = sorted(range(len(items)), key=length)
        bounds = np.linspace(0, len(order), self.chunks + 1).astype(int)
        return [order[a:b] for a, b in itertools.pairwise(bounds) if b > a]


def false_negatives(pairs: Sequence[Pair]) -> torch.Tensor:
    """bool [q, q]: candidate j is known to be right for query i, or is candidate i again, and is not its positive."""
    ids = [pair.candidate_id for pair in pairs]
    mask = torch.zeros(len(pairs), len(pairs), dtype=torch.bool)
    for i, pair in enumerate(pairs):
        for j, did in enumerate(ids):
            mask[i, j] = i != j and (did in pair.known or did == pair.candidate_id)
    return mask
