"""What changes a batch's pairs on their way to tensors, and the collator that tells it the epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from puma.training.any_modality import AnyModality
from puma.training.augmenting import Augmentation
from puma.training.config import TrainConfig
from puma.training.dropout import ModalityDropout
from puma.training.pairs import Pair

Collator = Callable[[list[dict[str, int]]], dict[str, Any]]
"""From a batch's rows to its tensors."""


class Drawn(Protocol):
    """A transform of pairs that draws anew in every epoch."""

    epoch: int

    def __call__(self, pair: Pair, row: int) -> Pair:
        """The pair to train on in the place of this one."""


class InTurn:
    """Transforms of pairs, one after the other, as one.

    Args:
        transforms: in order; with none of them a pair stays as it is.
    """

    def __init__(self, transforms: Sequence[Drawn]) -> None:
        self.transforms = transforms

    def __call__(self, pair: Pair, row: int) -> Pair:
        """What the last makes of it."""
        for transform in self.transforms:
            pair = transform(pair, row)
        return pair


class EpochCollator:
    """The collator, which first sets the epoch of its transforms to the rows', in whatever process it runs.

    Args:
        collator: makes the tensors.
        transforms: those it applies to pairs.
        augment: changes its image tensors, if given.
    """

    def __init__(
        self,
        collator: Collator,
        transforms: Sequence[Drawn] = (),
        augment: Augmentation | None = None,
    ) -> None:
        self.collator, self.transforms, self.augment = collator, transforms, augment

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        for transform in self.transforms:
            transform.epoch = rows[0]["epoch"]
        batch = self.collator(rows)
        if self.augment is not None:
            place = (rows[0]["epoch"], rows[0]["row"])
            for number, key in enumerate(key for key in batch if key.endswith("pixel_values")):
                batch[key] = self.augment(batch[key], (*place, number))
        return batch


def transforms_of(config: TrainConfig) -> list[Drawn]:
    """The transforms that a stage's settings ask for, in order."""
    transforms: list[Drawn] = []
    if config.modality_dropout:
        transforms.append(ModalityDropout(config.modality_dropout, config.seed))
    if config.any_share:  # after the dropout: the instruction is by what is left of the query
        transforms.append(AnyModality(config.any_share, config.seed))
    return transforms
