"""The targets of a stage whose teacher is a folder: a trained retriever, or a sentence-transformers model of texts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from puma.errors import InputError
from puma.items.item import Item
from puma.retriever.devices import has_fast_bf16
from puma.retriever.model import PROMPT_FILE, Retriever
from puma.retriever.stored_vision import VisionFeatures
from puma.training.config import TrainConfig
from puma.training.distillation_settings import TEXT_TEACHER, is_folder
from puma.training.distributed import processes, wait
from puma.training.pairs import Pair
from puma.training.teacher.identity import digest, teacher_facts
from puma.training.teacher.store import CaptionTargets, FeatureStore
from puma.training.teacher.texts import TextTeacher

TEXT_TO_IMAGE, IMAGE_TO_TEXT = 0, 3
"""The tasks whose pairs say what an image shows."""


def folder_targets(
    folder: str | os.PathLike[str],
    pairs: Sequence[Pair],
    *,
    store: str | os.PathLike[str],
    vision: VisionFeatures | None = None,
    captions: Mapping[str, str] | None = None,
    show_progress: bool = False,
) -> FeatureStore | CaptionTargets:
    """The targets of all items of pairs, computed once and kept.

    A retriever teaches every item, under its own instruction. A model of texts teaches texts as they are, whatever the
    instruction, and an image by its caption.

    Args:
        folder: a retriever's, or a sentence-transformers model's.
        pairs: those that will be met (:func:`puma.training.planned.met_pairs`).
        store: where states are kept, a folder for each teacher in it. Several processes share the work.
        vision: stored outputs of the retriever's frozen vision tower.
        captions: text by image path, for a model of texts; None takes them from the pairs (:func:`captions_of`).

    Raises:
        InputError: the folder is neither. ImageError: an image cannot be opened.
    """
    rank, ranks = processes()
    show = show_progress and rank == 0
    if not _is_retriever(folder):
        texts = _texts_of(pairs)
        captions = captions_of(pairs) if captions is None else captions
        seen = {os.fspath(item.image) for item in _items_of(pairs) if _is_plain_image(item)}  # type: ignore[arg-type]
        captions = {path: text for path, text in captions.items() if path in seen}
        teacher = TextTeacher(folder, device=None if torch.cuda.is_available() else "cpu")
        # The first process computes, the others read what it has kept.
        if rank != 0:
            wait()
        states = teacher.states([*texts, *captions.values()], store=store, show_progress=show)
        if rank == 0:
            wait()
        return CaptionTargets(states, captions)
    retriever = Retriever.from_pretrained(folder)
    retriever.vision = vision
    autocast = torch.bfloat16 if has_fast_bf16() else None
    name = digest(repr(sorted(teacher_facts(retriever, autocast).items())).encode())
    kept = FeatureStore(Path(store) / name, retriever, autocast=autocast)
    prompts = [(pair.query, pair.instruction) for pair in pairs] + [(pair.candidate, None) for pair in pairs]
    kept.compute(retriever, prompts[rank::ranks], show_progress=show)
    wait()
    kept.shards.refresh()
    return kept


def teaches_images(config: TrainConfig) -> bool:
    """Whether a stage's teacher is a trained retriever in a folder. Every other knows texts alone: the untrained base,
    or an embedder of texts."""
    return is_folder(config.teacher) and _is_retriever(config.teacher)


def captions_of(pairs: Sequence[Pair]) -> dict[str, str]:
    """What the pairs say an image shows, text by image path: of image -> text, else of text -> image."""
    found: dict[str, str] = {}
    for task in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
        for pair in pairs:
            image, text = (pair.query, pair.candidate) if task == IMAGE_TO_TEXT else (pair.candidate, pair.query)
            if pair.task == task and text.text and _is_plain_image(image):
                found.setdefault(os.fspath(image.image), text.text)  # type: ignore[arg-type]
    return found


def refuse_text_teacher(config: TrainConfig | None) -> None:
    """Raise InputError where a stage names the model that only ``base: mini`` can fetch."""
    if config is not None and config.teacher == TEXT_TEACHER and config.distillation_weight > 0:
        raise InputError(
            f"teacher={TEXT_TEACHER!r}: is fetched for base: mini alone; give the folder of a sentence-transformers "
            "model, with a slash in its path"
        )


def _is_retriever(folder: str | os.PathLike[str]) -> bool:
    return (Path(folder) / PROMPT_FILE).is_file()


def _texts_of(pairs: Sequence[Pair]) -> list[str]:
    return [item.text for item in _items_of(pairs) if item.image is None and item.text]


def _items_of(pairs: Sequence[Pair]) -> list[Item]:
    return [item for pair in pairs for item in (pair.query, pair.candidate)]


def _is_plain_image(item: Item) -> bool:
    return item.text is None and isinstance(item.image, (str, os.PathLike))
