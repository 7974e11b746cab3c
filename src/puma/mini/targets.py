"""The targets of distillation on the mini base, by the teacher that a stage names.

The untrained base has never seen an image, so an image's target is its caption's state; a trained retriever teaches
images themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from puma.errors import InputError
from puma.mini.extra_pairs.pairs import ICON_QUERY
from puma.mini.fetch.packages import cache_home
from puma.mini.text_teacher import text_teacher_folder
from puma.retriever.devices import has_fast_bf16
from puma.retriever.model import PROMPT_FILE, Retriever
from puma.retriever.stored_vision import VisionFeatures
from puma.training.collating import Targets
from puma.training.config import TrainConfig
from puma.training.distillation_settings import TEXT_TEACHER
from puma.training.pairs import Pair
from puma.training.planned import met_pairs
from puma.training.recipes.recipe import Recipe
from puma.training.teacher.folder import captions_of, folder_targets, teaches_images
from puma.training.teacher.store import CaptionTargets, caption_targets
from puma.training.unlabelled import item_rows, read_items, teachable


def items_of_stage(root: Path, config: TrainConfig, pairs: Sequence[Pair], *, strict: bool = False) -> list[Pair]:
    """The rows of a stage with ``items_only``: all items of the data that its teacher can teach, labelled or not."""
    items = read_items(root, strict=strict)
    if not teaches_images(config):
        items = teachable(items, captions_of(pairs))
    return item_rows(items, seed=config.seed)


def named_images(pairs: Sequence[Pair]) -> dict[str, str]:
    """What the pairs say an image shows, text by image path: :func:`puma.training.teacher.folder.captions_of`, and the
    names of icons."""
    icons = (pair for pair in pairs if pair.task == ICON_QUERY)
    return {os.fspath(pair.candidate.image): str(pair.query.text) for pair in icons} | captions_of(pairs)  # type: ignore[arg-type]


def stage_targets(
    base: Path,
    recipe: Recipe,
    config: TrainConfig,
    rows: Sequence[Pair],
    *,
    pairs: Sequence[Pair],
    vision: VisionFeatures | None,
    home: Path | None,
) -> Targets:
    """The targets of what a stage will meet, by the teacher that it names.

    Args:
        rows: what the stage trains on.
        pairs: the labelled pairs, which say what an image shows.

    Raises:
        InputError: the teacher is the base with other settings than stage 1 has, or the folder of no model.
    """
    if config.teacher == "store":
        return distillation_targets(base, replace(recipe, distil=config), rows, home, captions=named_images(pairs))
    if config.teacher == "shared":
        raise InputError("teacher='shared': the mini base's states are stored; give store, a folder, or a text teacher")
    folder = text_teacher_folder(home) if config.teacher == TEXT_TEACHER else Path(config.teacher)
    known = vision if vision is not None and _same_tower(folder, base) else None
    met = met_pairs(rows, config)
    store = _teacher_store(home)
    return folder_targets(folder, met, store=store, vision=known, captions=named_images(pairs), show_progress=True)


def _same_tower(folder: Path, base: Path) -> bool:
    """Whether a retriever sees images through the base's own vision tower, whose outputs are stored."""
    if not (folder / PROMPT_FILE).is_file():
        return False
    towers = [Retriever.from_pretrained(folder, device="cpu"), Retriever.from_base(base, layers=1, device="cpu")]
    ours, theirs = (made.model.get_encoder("image").float().state_dict() for made in towers)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def distillation_targets(
    base: Path,
    recipe: Recipe,
    pairs: Sequence[Pair],
    home: Path | None,
    *,
    captions: Mapping[str, str] | None = None,
) -> CaptionTargets:
    """The unpruned base's states of every text that stage 1 will meet, and of the captions of its images.

    Args:
        captions: text by image path; None takes what the pairs say.

    Raises:
        InputError: the recipe has no stage 1.
    """
    if recipe.distil is None:
        raise InputError("recipe: distil is null, and only stage 1 has targets")
    met = [item for pair in met_pairs(pairs, recipe.distil) for item in (pair.query, pair.candidate)]
    texts = [item.text for item in met if item.image is None and item.text]
    seen = {os.fspath(item.image) for item in met if isinstance(item.image, (str, os.PathLike)) and item.text is None}
    captions = captions_of(pairs) if captions is None else captions
    captions = {path: caption for path, caption in captions.items() if path in seen}
    # bf16 weights: a state is a target, not an answer, and the whole depth is five times the student's
    dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
    teacher = Retriever.from_base(base, prompt=recipe.teacher_prompt, dtype=dtype)
    return caption_targets(teacher, texts, captions, centre=True, store=_teacher_store(home), show_progress=True)


def _teacher_store(home: Path | None) -> Path:
    return (cache_home() if home is None else home) / "teacher"
