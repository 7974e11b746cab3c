"""From rows of pairs to the tensors of one training step.

Queries and candidates are one list of items (queries, their positives in the same order, then explicit hard negatives);
it is sorted by length and cut into *chunks* (:mod:`puma.training.chunking`), each padded by itself, so that a short
caption is not padded to the length of an image with a text. What the loss must know beside the tensors rides in the
first chunk (:mod:`puma.losses.batch_keys`): modalities, keys by which false negatives are found (also across processes,
hence numbers), teacher's states.

An image that cannot be used does not end a training: its pair gives way to another of the same task (of any, where that
has none left), drawn by row and epoch alone, so that every resume and every number of workers makes the same batch.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from puma.errors import DataError, ImageError, InputError
from puma.items.digest import plain_text
from puma.items.item import MODALITIES, Item
from puma.losses import batch_keys, negatives
from puma.retriever.inputs import Inputs, why_unusable
from puma.retriever.stored_vision import VisionFeatures
from puma.training.chunking import chunks_of
from puma.training.pairs import Pair

QUERY_IMAGE, CANDIDATE_IMAGE, HARD_NEGATIVE = range(3)
"""What of a pair could not be used: the second column of :data:`puma.losses.batch_keys.REPLACED`."""
DRAWS = 64
"""Pairs of its task, and then of all, that are tried in the place of one that cannot be used."""

Targets = Callable[[Item, "str | None"], "np.ndarray | None"]
"""The distillation target of an item with its instruction, or None: see :mod:`puma.training.teacher.store`."""


@dataclass
class PairCollator:
    """Makes the step's tensors, in the form sentence-transformers' trainer passes on.

    Args:
        pairs: the rows that the data set's ``row`` column points at.
        inputs: the model's input maker.
        chunks: into how many length-sorted parts the items are cut at most.
        vision: stored outputs of the frozen tower.
        teacher: gives an item's target [dim] for distillation, or None where it has none; None for no distillation.
        hard_negatives: how many of each pair's ``negatives`` become candidates for the whole batch. One that is known
            to be right for its query is none; one that is a candidate already is not added again.
        transform: given a pair and its row, the pair to train on in its place.
        pixel_type: a floating type that image tensors are given in, None for the processor's. bf16 halves what goes
            from a worker to a GPU, and is the same to a model that computes in bf16: it converts them first of all.
        draft: decode JPEGs small where the processor makes them small anyway (:mod:`puma.retriever.images.decoding`).
        equal_chunks: as ``equal`` of :func:`puma.training.chunking.chunks_of`.

    The batch's keys beside the model's inputs are those of :mod:`puma.losses.batch_keys`. ``what`` under ``REPLACED``
    is :data:`QUERY_IMAGE` or :data:`CANDIDATE_IMAGE` (the pair was replaced) or :data:`HARD_NEGATIVE` (it was left
    out): see :mod:`puma.training.unreadable`.

    Raises:
        InputError: ``hard_negatives`` is below 0.
        DataError: on a call, no pair of the batch can be used, and none was found in their place.
    """

    pairs: Sequence[Pair]
    inputs: Inputs
    chunks: int = 4
    vision: VisionFeatures | None = None
    teacher: Targets | None = None
    valid_label_columns: list[str] = field(default_factory=list)
    hard_negatives: int = field(default=0, kw_only=True)
    transform: Callable[[Pair, int], Pair] | None = field(default=None, kw_only=True)
    draft: bool = field(default=True, kw_only=True)
    equal_chunks: bool = field(default=False, kw_only=True)
    pixel_type: torch.dtype | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.hard_negatives < 0:
            raise InputError(f"hard_negatives={self.hard_negatives!r}: give a number a query, or 0 for none")
        self.inputs = copy.copy(self.inputs)  # the retriever's own go on making vectors of full images
        self.inputs.draft = self.draft
        self._rows_of: dict[int, list[int]] = {}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        chosen = [self._transformed(row["row"]) for row in rows]
        try:
            return self._batch(chosen)
        except ImageError:  # seldom; which of the images it is, is looked for only now
            drawn = [(row.get("epoch", 0), row["row"]) for row in rows]
        try:
            return self._batch(*self._usable(chosen, drawn, _why_unreadable))
        except ImageError:  # all of them open: it is the processor that refuses one
            return self._batch(*self._usable(chosen, drawn, self._why_refused))

    def _transformed(self, row: int) -> Pair:
        pair = self.pairs[row]
        return pair if self.transform is None else self.transform(pair, row)

    def _batch(self, chosen: Sequence[Pair], replaced: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
        """The tensors of these pairs. Raises ImageError."""
        candidates = [(pair.candidate_id, pair.candidate) for pair in chosen]
        candidates += _hard_negatives(chosen, self.hard_negatives)
        items = [pair.query for pair in chosen] + [item for _, item in candidates]
        instructions = [pair.instruction for pair in chosen] + [None] * len(candidates)
        batch: dict[str, Any] = {}
        parts = chunks_of(self.inputs, items, instructions, self.chunks, equal=self.equal_chunks)
        for number, part in enumerate(parts):
            features = self.inputs.features([items[i] for i in part], [instructions[i] for i in part], self.vision)
            if self.pixel_type is not None and "pixel_values" in features:
                features["pixel_values"] = features["pixel_values"].to(self.pixel_type)
            features[batch_keys.ROWS] = torch.tensor(part)
            features[batch_keys.WITH_IMAGE] = torch.tensor([items[i].image is not None for i in part])
            features["modality"] = "message"  # the pipeline's first module asks for it
            batch.update({batch_keys.chunk_key(number, key): value for key, value in features.items()})
        facts = {
            batch_keys.TARGET_MODALITY: torch.tensor([_target_code(pair) for pair in chosen]),
            batch_keys.CANDIDATE_MODALITY: torch.tensor([MODALITIES.index(item.modality) for _, item in candidates]),
            batch_keys.CANDIDATE_KEY: torch.tensor([id_key(did) for did, _ in candidates]),
            batch_keys.CONTENT_KEY: torch.tensor([content_key(item) for _, item in candidates]),
            batch_keys.KNOWN: known_keys(chosen),
            batch_keys.REPLACED: torch.tensor(replaced, dtype=torch.int64).reshape(-1, 2),
        }
        if self.teacher is not None:
            targets = [self.teacher(item, instruction) for item, instruction in zip(items, instructions, strict=True)]
            dim = next((len(target) for target in targets if target is not None), 1)
            filled = [np.zeros(dim) if target is None else target for target in targets]
            facts[batch_keys.TEACHER] = torch.from_numpy(np.stack(filled)).float()
            facts[batch_keys.TAUGHT] = torch.tensor([target is not None for target in targets])
        batch.update({batch_keys.chunk_key(0, key): value for key, value in facts.items()})
        return batch

    def _usable(
        self, chosen: Sequence[Pair], drawn: Sequence[tuple[int, int]], why: Callable[[Item], str | None]
    ) -> tuple[list[Pair], list[tuple[int, int]]]:
        """The pairs with those replaced whose images cannot be used, and what was met that cannot be.

        Args:
            drawn: (epoch, row) of each.
            why: says why an item cannot be used, or None.
        """

        def faults(pair: Pair, row: int) -> list[tuple[int, int]]:
            parts = ((QUERY_IMAGE, pair.query), (CANDIDATE_IMAGE, pair.candidate))
            return [(row, what) for what, item in parts if why(item)]

        kept = list(chosen)
        replaced: list[tuple[int, int]] = []
        rows = [row for _, row in drawn]
        found = [faults(pair, row) for pair, row in zip(kept, rows, strict=True)]
        good = [place for place, wrong in enumerate(found) if not wrong]
        queries, candidates = {kept[place].query_id for place in good}, {kept[place].candidate_id for place in good}
        for place, wrong in enumerate(found):
            if not wrong:
                continue
            replaced += wrong
            for row in self._others(*drawn[place]):
                pair = self._transformed(row)
                if pair.query_id in queries or pair.candidate_id in candidates:
                    continue
                more = faults(pair, row)
                replaced += more
                if not more:
                    kept[place], rows[place] = pair, row
                    queries.add(pair.query_id)
                    candidates.add(pair.candidate_id)
                    break
            else:  # a small data set: one of the batch again, which the loss takes for the repetition that it is
                if not good:
                    pair = chosen[place]
                    reasons = "; ".join(filter(None, map(why, (pair.query, pair.candidate))))
                    raise DataError(
                        f"query {pair.query_id}, task {pair.task}: {reasons}; and no other pair was found that can be "
                        "used: look for the cause (puma doctor --mbeir DIR --images all)"
                    )
                twin = good[rows[place] % len(good)]
                kept[place], rows[place] = kept[twin], rows[twin]
            good.append(place)
        for place, row in enumerate(rows):
            wanted = _first_negatives(kept[place], self.hard_negatives)
            unusable = {did for did, item in wanted if why(item)}
            if unusable:
                replaced.append((row, HARD_NEGATIVE))
                left = tuple(entry for entry in wanted if entry[0] not in unusable)
                kept[place] = replace(kept[place], negatives=left)
        return kept, list(dict.fromkeys(replaced))

    def _why_refused(self, item: Item) -> str | None:
        return why_unusable(self.inputs, item)

    def _others(self, epoch: int, row: int) -> Iterator[int]:
        """Rows of the same task, then of all, in an order that epoch and row alone decide."""
        if not self._rows_of:
            for number, pair in enumerate(self.pairs):
                self._rows_of.setdefault(pair.task, []).append(number)
        generator = np.random.default_rng([epoch, row])
        for rows in (self._rows_of[self.pairs[row].task], range(len(self.pairs))):
            few = len(rows) <= DRAWS
            picked = generator.permutation(len(rows)) if few else generator.integers(len(rows), size=DRAWS)
            yield from (rows[int(place)] for place in picked)


def _hard_negatives(pairs: Sequence[Pair], most: int) -> list[tuple[str, Item]]:
    present = {pair.candidate_id for pair in pairs}
    found: list[tuple[str, Item]] = []
    for pair in pairs:
        for did, item in _first_negatives(pair, most):
            if did not in present:
                present.add(did)
                found.append((did, item))
    return found


def _first_negatives(pair: Pair, most: int) -> list[tuple[str, Item]]:
    return [entry for entry in pair.negatives if entry[0] not in pair.known][:most]


def _target_code(pair: Pair) -> int:
    return batch_keys.ANY if pair.any_modality else pair.target_modality


def _why_unreadable(item: Item) -> str | None:
    return why_unusable(None, item)


def known_keys(pairs: Sequence[Pair]) -> torch.Tensor:
    """int64 [q, m]: keys of the known positives of each query, padded with -1; m is the most that one has."""
    keys = [sorted(id_key(did) for did in pair.known) for pair in pairs]
    most = max((len(row) for row in keys), default=0)
    return torch.tensor([row + [negatives.NONE] * (most - len(row)) for row in keys], dtype=torch.int64)


def id_key(did: str) -> int:
    """A candidate's id as a number of 63 bits, the same on every machine."""
    return _key(b"id", did.encode())


def content_key(item: Item) -> int:
    """An item's content as a number of 63 bits: its text, white space aside, and its image.

    An image in a file is known by its path, others by their pixels or bytes: two files of one image differ.
    """
    return _key(b"text", plain_text(item.text).encode(), *_image(item.image))


def _image(image: Any) -> tuple[bytes, ...]:
    if image is None:
        return ()
    if isinstance(image, (str, os.PathLike)):
        return b"path", os.fsencode(image)
    if isinstance(image, bytes):
        return b"bytes", image
    if isinstance(image, Image.Image):
        return b"pixels", f"{image.mode}{image.size}".encode(), image.tobytes()
    return b"array", f"{image.dtype}{image.shape}".encode(), np.ascontiguousarray(image).tobytes()


def _key(*parts: bytes) -> int:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))  # so that no two lists of parts run together to the same bytes
        digest.update(part)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
