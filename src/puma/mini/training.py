"""Training on the mini base: prune, teacher's targets, both stages, as ``puma train mini`` and the quickstart do it.

Beside what :mod:`puma.training.two_stages` does for other bases, the frozen tower's outputs are stored, and an image's
distillation target is its caption's state: the untrained base has never seen an image.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from puma.errors import InputError, first_line, require
from puma.mini import openpics
from puma.mini.adapter.file import write_adapter
from puma.mini.base.assemble import assemble
from puma.mini.base.folding import folded_tower
from puma.mini.base.known_images import KnownImages, known_images
from puma.mini.base.settings import BaseSettings, card_of_base
from puma.mini.base.tower import HALVED_STRIDES, STRIDES, cell_size
from puma.mini.base.vision import tower_weights
from puma.mini.extra_pairs.mixtures import Mixtures
from puma.mini.extra_pairs.pairs import CLASSES, concepts_of, extra_pairs, with_alike, with_same_concept
from puma.mini.features import training_mixtures, with_more_features
from puma.mini.photo_classifier import fitted_classifier, photo_paths
from puma.mini.targets import items_of_stage, stage_targets
from puma.retriever.devices import has_fast_bf16
from puma.retriever.model import Retriever
from puma.retriever.stored_vision import VisionFeatures
from puma.training.any_modality import with_any_instructions
from puma.training.collating import Targets
from puma.training.config import TrainConfig
from puma.training.pairs import Pair, first_instructions, read_pairs
from puma.training.recipes.recipe import Recipe
from puma.training.rounds import mix_weights, names_with_rounds, train_rounds
from puma.training.stage import train
from puma.training.two_stages import free_target, has_begun, read_validation, tell, to_stderr
from puma.training.validation import Validation

Step = Callable[[str, Callable[[], Any]], Any]
"""Runs a named part of the work and returns its result; may announce and time it."""
Logs = dict[str, list[dict[str, float]]]
ADAPTER_BITS, ADAPTER_TOWER_BITS = 5, 6
"""Of the shipped adapter: what they cost is in docs/model-card-puma-mini.md."""


def base_settings(recipe: Recipe) -> BaseSettings:
    """How the recipe's mini base is put together."""
    strides = HALVED_STRIDES if recipe.tower_cell == cell_size(HALVED_STRIDES) else STRIDES
    return BaseSettings(tower=recipe.tower, image_size=recipe.image_size, strides=strides)


def base_config(recipe: Recipe) -> Any:
    """The transformers configuration of the recipe's mini base, without weights or packages."""
    from transformers import FastVlmConfig

    from puma.mini.base.tower import tower_config
    from puma.pruning.shapes import SMOLLM2_135M, config_from

    settings = base_settings(recipe)
    return FastVlmConfig(
        vision_config=tower_config(settings.tower, image_size=settings.image_size, strides=settings.strides),
        text_config=config_from(SMOLLM2_135M),
        image_seq_length=settings.image_tokens,
        tie_word_embeddings=True,
    )


def for_this_machine(recipe: Recipe) -> Recipe:
    """The same recipe in fp32 where bf16 would be emulated."""
    if has_fast_bf16():
        return recipe
    distil = None if recipe.distil is None else replace(recipe.distil, precision="fp32")
    rounds = recipe.rounds and replace(recipe.rounds, config=replace(recipe.rounds.config, precision="fp32"))
    return replace(recipe, distil=distil, retrieve=replace(recipe.retrieve, precision="fp32"), rounds=rounds)


def train_recipe(
    recipe: Recipe,
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    strict: bool = False,
) -> Logs:
    """Train the mini base by a recipe, and save the retriever.

    Args:
        recipe: with ``base: mini``.
        data: root of the data in M-BEIR's layout; None for the recipe's own, OpenPics if it names none.
        out: the retriever's folder; ``out`` + ``.work`` holds checkpoints, from which an unfinished run goes on.
        adapter: also write the trained model's difference from the plain base to this file, as the default model ships
            (:mod:`puma.mini.adapter.file`).
        strict: refuse data with a faulty row; else such rows are left out and counted.

    Returns:
        The stages' logs.

    Raises:
        InputError: ``out`` is there already; no val split to evaluate on. And what fetching and training raise.
    """
    require("training on the mini base", "mini")
    target = free_target(out)
    recipe = for_this_machine(recipe)
    chosen = recipe.data if data is None else data
    root = openpics.build() if chosen is None else Path(chosen)
    base = assemble(settings=base_settings(recipe), images=root)
    vision = None if _reads_pixels(recipe) else known_images(base, root, None)
    retriever = student(base, recipe, vision)
    logs = train_stages(
        retriever,
        recipe,
        base,
        root,
        target.with_name(target.name + ".work"),
        vision=vision,
        validation=read_validation(root, recipe.trainings),
        strict=strict,
        say=to_stderr,
    )
    retriever.save_pretrained(target)
    if adapter is not None:
        plain = assemble(settings=base_settings(recipe))  # without images: the base that every reader can make
        to_stderr(f"{adapter}: {save_adapter(retriever, recipe, logs, plain, adapter):,} bytes")
    return logs


def save_adapter(retriever: Retriever, recipe: Recipe, logs: Logs, plain: Path, path: str | os.PathLike[str]) -> int:
    """Write a retriever trained by a recipe as an adapter of the plain base; returns its bytes.

    Args:
        logs: of the training; the header notes their last steps.

    Raises:
        InputError: the file would be too large to ship. ModelError: the retriever is not of this base.
    """
    notes = {"recipe": asdict(recipe), "steps": {name: int(log[-1]["step"]) for name, log in logs.items() if log}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    written = write_adapter(
        retriever,
        plain,
        path,
        bits=ADAPTER_BITS,
        tower_bits=ADAPTER_TOWER_BITS,
        keep_last=recipe.keep_last,
        notes=notes,
    )
    return written.size


def student(base: Path, recipe: Recipe, vision: KnownImages | None) -> Retriever:
    """The pruned, untrained retriever, reading stored vision features."""
    retriever = Retriever.from_base(base, layers=recipe.layers, prompt=recipe.prompt, dtype=torch.float32)
    retriever.about = {**retriever.about, **card_of_base(base)}
    return prepared(retriever, recipe, vision)


def prepared(retriever: Retriever, recipe: Recipe, vision: KnownImages | None) -> Retriever:
    """The same retriever, set up to run fast on this machine.

    Raises:
        InputError: the recipe's ``attn`` is not to be had here.
    """
    retriever.vision = vision
    retriever.autocast = torch.bfloat16 if has_fast_bf16() else None
    # At twenty tokens a text, on a CPU, the plain form of attention trains a fifth faster than the fused one.
    attn = recipe.attn or "eager"
    try:
        retriever.model.set_attn_implementation(attn)
    except (ImportError, ValueError) as error:
        raise InputError(f"attn={attn!r}: {first_line(error)}; sdpa and eager work everywhere") from None
    return retriever


def train_stages(
    retriever: Retriever,
    recipe: Recipe,
    base: Path,
    root: Path,
    work: Path,
    *,
    vision: KnownImages | None = None,
    home: Path | None = None,
    validation: Validation | None = None,
    strict: bool = False,
    step: Step = lambda _name, make: make(),
    say: Callable[[str], None] = lambda _line: None,
) -> Logs:
    """Train a pruned retriever in place by the recipe's stages and rounds, each from its checkpoint if it has one.

    Args:
        retriever: of :func:`student`.
        recipe: what is trained, and how long.
        base: the unpruned base, which teaches stage 1.
        root: the data.
        work: a folder for each stage's checkpoints.
        vision: stored outputs of the frozen tower; not used where a stage trains it or augments images.
        home: the cache folder.
        validation: what ``eval_every`` evaluates on.
        strict: refuse data with a faulty row.
        step: runs each part: ``read pairs``, ``teacher``, ``distil``, ``retrieve``, ``round-1``, ..., ``photo
            classifier``
        say: where progress messages go.

    Returns:
        The logs, by ``distil``, ``retrieve``, ``round-1``, ...
    """
    if recipe.photo_classifier:
        photo_paths(root)  # data without photographs is refused before hours are spent on it
    if _reads_pixels(recipe):
        retriever.vision = vision = None
    mixtures = None
    if vision is not None and CLASSES in recipe.extra_pairs:
        mixtures = training_mixtures(vision, recipe, root, home)
    pairs = step("read pairs", lambda: training_rows(recipe, root, home, strict=strict, mixtures=mixtures))
    sources: VisionFeatures | None = vision
    if vision is not None:
        pairs, sources = with_more_features(vision, mixtures, pairs, recipe, base, home)
        retriever.vision = sources
    logs: Logs = {}
    following = names_with_rounds([stage.stage for stage in recipe.stages], recipe.rounds)

    def run_stage(config: TrainConfig, name: str) -> None:
        rows = items_of_stage(root, config, pairs, strict=strict) if config.items_only else pairs
        targets: Targets | None = None
        if config.distillation_weight > 0:
            targets = step(
                "teacher" if name == "distil" else f"teacher of {name}",
                functools.partial(stage_targets, base, recipe, config, rows, pairs=pairs, vision=sources, home=home),
            )
        begun = has_begun(work, following[name])

        def run() -> Any:
            return train(
                retriever,
                rows,
                config,
                work / name,
                vision=sources,
                teacher=targets,
                validation=validation,
                fixed=begun,
            )

        with folded_tower(retriever) if config.tower_rate else nullcontext():
            result = step(name, run)
        logs[name] = result.log
        tell(result, work / name, say)

    for config in recipe.stages:
        run_stage(config, config.stage)
    if recipe.rounds:
        train_rounds(lambda: retriever.model, recipe.rounds, run_stage)
    if recipe.published_tower:
        mix_weights(retriever.model.vision_tower, tower_weights(base), 1 - recipe.published_tower)
    shares = [stage.any_share for stage in recipe.trainings]
    retriever.instructions = with_any_instructions(first_instructions(root), shares)
    if recipe.photo_classifier:
        retriever.vision = None  # the classifier looks at the images themselves
        retriever.photo_classifier = step(
            "photo classifier", lambda: fitted_classifier(retriever, base, recipe.tower, root, home)
        )
    return logs


def training_rows(
    recipe: Recipe, root: Path, home: Path | None, *, strict: bool = False, mixtures: Mixtures | None = None
) -> list[Pair]:
    """The data's pairs and the recipe's extra ones, with what is known to be right, and what would be if no modality
    were asked for."""
    negatives = max(stage.hard_negatives for stage in recipe.trainings)
    pairs = read_pairs(root, limit=recipe.rows_per_query, negatives=negatives, strict=strict)
    more, concepts = extra_pairs(recipe.extra_pairs, root, recipe.image_size, home, mixtures)
    pairs += more
    any_rows = any(stage.any_share > 0 for stage in recipe.trainings)
    if not (recipe.same_concept or any_rows):
        return pairs
    concepts = {**concepts_of(root), **concepts}
    if any_rows:
        pairs = with_alike(pairs, concepts)
    return with_same_concept(pairs, concepts) if recipe.same_concept else pairs


def _reads_pixels(recipe: Recipe) -> bool:
    return any(stage.reads_pixels for stage in recipe.trainings)
