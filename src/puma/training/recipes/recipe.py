"""Recipes: a base, its depth and both stages in one YAML file, read whole or refused whole, each fault with its line.
The format is described in docs/recipes.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from puma.errors import ConfigError, InputError
from puma.pruning.loading import ATTENTION
from puma.training.config import BASE_PRECISIONS, TrainConfig
from puma.training.recipes.costs import Workload, estimate
from puma.training.recipes.files import (
    SECTIONS,
    Entries,
    find_recipe,
    over,
    read_entries,
    recipes_folder,
    shipped_recipes,
)

MINI = "mini"
"""As ``base``: the assembled mini base, trained the quickstart's way; as no ``data`` there, OpenPics."""
STAGES = ("distil", "retrieve")
__all__ = [
    "Recipe",
    "base_config",
    "dry_run",
    "read_recipe",
    "recipe_of",
    "recipes_folder",
    "shipped_recipes",
    "train_recipe",
]
_KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "like": ((str,), "give the name of a recipe beside this one"),
    "base": ((str,), "give a hub name, a model folder, or mini"),
    "layers": ((int, type(None)), "give a whole number of at least 1, or null for all"),
    "keep_last": ((bool,), "give true or false"),
    "prompt": ((str,), "give chat, open-quote or short"),
    "data": ((str, type(None)), "give a folder in M-BEIR's layout, or null"),
    "image_tokens": ((list, type(None)), "give the fewest and the most tokens of a picture, as [4, 300]"),
    "dtype": ((str,), f"give one of {BASE_PRECISIONS}"),
    "attn": ((str, type(None)), f"give one of {ATTENTION}, or null for the base's own"),
    "notes": ((str,), "give a text"),
    "image_size": ((int,), "give a whole number of pixels"),
    "teacher_prompt": ((str,), "give open-quote or short"),
    "rows_per_query": ((int,), "give a whole number of at least 1"),
}
_ONLY_MINI = ("image_size", "teacher_prompt", "rows_per_query")


@dataclass(frozen=True)
class Recipe:
    """One way of making a retriever of a base.

    Args:
        base: a hub name, a model folder, or ``mini``.
        layers, keep_last, prompt: as :meth:`puma.retriever.model.Retriever.from_base`; None layers keeps all.
        image_tokens: fewest and most tokens of an image (:func:`puma.retriever.image_tokens.limit_image_tokens`); None leaves
            it to the base's processor.
        data: root of the data in M-BEIR's layout; None asks for it on the command line (the mini base: OpenPics).
        dtype: ``base_precision`` of the stages that do not name their own.
        attn: how attention is computed; None for the base's own way.
        distil, retrieve: the stages; ``distil`` may be None.
        workload: what the dry run assumes of a step.
        image_size, teacher_prompt, rows_per_query: of the mini base only, see :class:`puma.mini.recipe.Recipe`.
        notes: for readers.
    """

    base: str
    layers: int | None = None
    keep_last: bool = False
    prompt: str = "chat"
    image_tokens: tuple[int, int] | None = None
    data: str | None = None
    dtype: str = "auto"
    attn: str | None = None
    distil: TrainConfig | None = None
    retrieve: TrainConfig = field(default_factory=TrainConfig)
    workload: Workload = field(default_factory=Workload)
    image_size: int = 96
    teacher_prompt: str = "open-quote"
    rows_per_query: int = 4
    notes: str = ""

    @property
    def stages(self) -> list[TrainConfig]:
        """Those that are run, in order."""
        return [self.retrieve] if self.distil is None else [self.distil, self.retrieve]


def read_recipe(path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file, or the name of a shipped recipe (``mini``, ``qwen2-vl-7b``, ...).
        changes: values that go before the file's, by dotted key: ``{"layers": 8, "retrieve.steps": 100}``.

    Raises:
        InputError: no such file or name.
        ConfigError: unknown keys, wrong types, values out of range: all faults together, each with its line.
    """
    faults: list[str] = []
    entries = read_entries(find_recipe(path), faults)
    if (changes or {}).get("base", MINI) != MINI:  # another base than the recipe's: what only the mini base has is void
        entries = {key: value for key, value in entries.items() if key[0] not in _ONLY_MINI}
    entries = over(entries, {tuple(key.split(".")): (value, f"--set {key}") for key, value in (changes or {}).items()})
    return _whole(entries, faults, f"recipe {os.fspath(path)}")


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """A recipe of values by dotted key, as ``changes`` of :func:`read_recipe`, without a file.

    Raises:
        ConfigError: as :func:`read_recipe`.
    """
    return _whole({tuple(key.split(".")): (value, "--set") for key, value in values.items()}, [], "recipe")


def base_config(recipe: Recipe) -> Any:
    """The transformers configuration of a recipe's base, without its weights.

    Raises:
        InputError: the base is neither a folder nor of a known shape.
    """
    if recipe.base != MINI:
        from puma.pruning.shapes import config_of

        return config_of(recipe.base)
    from transformers import FastVlmConfig

    from puma.mini.base.settings import BaseSettings
    from puma.mini.base.tower import tower_config
    from puma.pruning.shapes import SMOLLM2_135M, config_from

    settings = BaseSettings(image_size=recipe.image_size)
    return FastVlmConfig(
        vision_config=tower_config(settings.tower, image_size=settings.image_size, strides=settings.strides),
        text_config=config_from(SMOLLM2_135M),
        image_seq_length=settings.image_tokens,
        tie_word_embeddings=True,
    )


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """What the recipe would cost: :func:`puma.training.recipes.costs.estimate` of its base's shape."""
    workload, config = recipe.workload, base_config(recipe)
    report = estimate(config, recipe.layers, recipe.stages, workload, keep_last=recipe.keep_last)
    return {"base": recipe.base, **report}


def train_recipe(
    recipe: Recipe,
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    distil_if_texts: bool = True,
    strict: bool = False,
) -> dict[str, list[dict[str, float]]]:
    """Train what the recipe says, and save it.

    Args:
        recipe: the recipe.
        data: root of the data; None for the recipe's own.
        out: the retriever's folder.
        distil_if_texts: leave stage 1 out, with a message on stderr, where the data has no pairs of texts; else that is
            an error.
        strict: refuse data with a faulty row; else such rows are left out and counted.

    Returns:
        The stages' logs.

    Raises:
        InputError: there is no data; ``out`` is there already. And what training raises.
    """
    root = data if data is not None else recipe.data
    if recipe.base == MINI:
        return _train_mini(recipe, root, out, strict)
    if root is None:
        raise InputError("no data: give --data DIR, a folder in M-BEIR's layout (docs/recipes.md)")
    from puma.training.two_stages import train_two_stages

    return train_two_stages(
        recipe.base,
        root,
        out,
        layers=recipe.layers,
        keep_last=recipe.keep_last,
        prompt=recipe.prompt,
        image_tokens=recipe.image_tokens,
        attn=recipe.attn,
        distil=recipe.distil,
        retrieve=recipe.retrieve,
        distil_if_texts=distil_if_texts,
        strict=strict,
    )


def _train_mini(recipe: Recipe, data: Any, out: Any, strict: bool) -> dict[str, list[dict[str, float]]]:
    """The quickstart's training without its evaluation: stored vision features, captions as the teacher's targets."""
    from puma.mini import openpics as images
    from puma.mini import quickstart
    from puma.mini.base.assemble import assemble
    from puma.mini.base.settings import BaseSettings
    from puma.mini.recipe import Recipe as Plan
    from puma.training.pairs import first_instructions, read_pairs
    from puma.training.run_folder import CONFIGURATION
    from puma.training.stage import train
    from puma.training.two_stages import free_target, read_validation, tell, to_stderr

    target = free_target(out)
    plan = Plan(
        base=BaseSettings(image_size=recipe.image_size),
        layers=recipe.layers or 30,
        prompt=recipe.prompt,
        teacher_prompt=recipe.teacher_prompt,
        rows_per_query=recipe.rows_per_query,
        distil=recipe.distil or TrainConfig(stage="distil"),
        retrieve=recipe.retrieve,
    ).for_this_machine()
    root = images.build() if data is None else Path(data)
    pairs = read_pairs(root, limit=plan.rows_per_query, strict=strict)
    base = assemble(settings=plan.base, images=root)
    vision = quickstart.known_images(base, root, None)
    retriever = quickstart.student(base, plan, vision)
    if recipe.attn is not None:
        _attend(retriever, recipe.attn)
    validation = read_validation(root, recipe.stages)
    work = target.with_name(target.name + ".work")
    logs = {}
    if recipe.distil is not None:
        targets = quickstart.distillation_targets(base, plan, pairs, None)
        begun = (work / "retrieve" / CONFIGURATION).is_file()
        result = train(
            retriever,
            pairs,
            plan.distil,
            work / "distil",
            vision=vision,
            teacher=targets,
            validation=validation,
            fixed=begun,
        )
        logs["distil"] = result.log
        tell(result, work / "distil", to_stderr)
    result = train(retriever, pairs, plan.retrieve, work / "retrieve", vision=vision, validation=validation)
    logs["retrieve"] = result.log
    tell(result, work / "retrieve", to_stderr)
    retriever.instructions = first_instructions(root)
    retriever.save_pretrained(target)
    return logs


def _attend(retriever: Any, attn: str) -> None:
    try:
        retriever.model.set_attn_implementation(attn)
    except (ImportError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"attn={attn!r}: {first}; sdpa and eager work everywhere") from None


def _whole(entries: Entries, faults: list[str], name: str) -> Recipe:
    recipe = _made(entries, faults)
    if faults or recipe is None:
        raise ConfigError(f"{name}:\n  " + "\n  ".join(dict.fromkeys(faults)))
    return recipe


def _made(entries: Entries, faults: list[str]) -> Recipe | None:
    """The recipe, or None with its faults told."""
    values: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, (value, where) in entries.items():
        name = key[0]
        if name in SECTIONS:
            if len(key) == 2:
                sections.setdefault(name, {})[key[1]] = value
            elif value == {}:
                sections.setdefault(name, {})
            elif len(key) > 2 or value is not None or name != "distil":
                faults.append(f"{where}: {'.'.join(key)}: give settings, as {name}: {{steps: 100}}")
        elif name not in _KEYS or len(key) > 1:
            hint = " (a stage's setting? write retrieve." + name + ")" if name in _STAGE_KEYS else ""
            known = ", ".join([*_KEYS, *SECTIONS])
            faults.append(f"{where}: {'.'.join(key)}: no such key{hint}; there are {known}")
        else:
            kinds, rule = _KEYS[name]
            right = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
            if right and isinstance(value, int) and not isinstance(value, bool) and value < 1:
                right = False
            if name == "image_tokens" and isinstance(value, list):
                right = len(value) == 2 and all(type(n) is int for n in value) and 1 <= value[0] <= value[1]
                value = tuple(value)
            if right and name == "dtype":
                right = value in BASE_PRECISIONS
            if right and name == "attn":
                right = value in (None, *ATTENTION)
            if not right:
                faults.append(f"{where}: {name}={value!r}: {rule}")
            values[name] = value
    if "base" not in values:
        faults.append(f"base: is missing; {_KEYS['base'][1]}")
    for name in _ONLY_MINI:
        if name in values and values.get("base") != MINI:
            faults.append(f"{entries[(name,)][1]}: {name}: only the mini base has it")
    faults.extend(_prompt_faults(values, entries))
    stages = {}
    for name in STAGES:
        if name in sections:
            stages[name] = _stage(name, sections[name], entries, faults, values.get("dtype", "auto"))
    if "retrieve" not in sections and values.get("dtype") in BASE_PRECISIONS:
        stages["retrieve"] = replace(TrainConfig(), base_precision=values["dtype"])
    workload = _workload(sections.get("workload", {}), entries, faults)
    if faults:
        return None
    return Recipe(**values, workload=workload, **stages)


def _prompt_faults(values: Mapping[str, Any], entries: Entries) -> list[str]:
    from puma.retriever.model import PROMPTS

    faults = []
    for name, more in (("prompt", ["chat"]), ("teacher_prompt", [])):
        value = values.get(name)
        if isinstance(value, str) and value not in (*PROMPTS, *more):
            faults.append(f"{entries[(name,)][1]}: {name}={value!r}: give one of {sorted([*PROMPTS, *more])}")
    return faults


def _stage(name: str, values: dict[str, Any], entries: Entries, faults: list[str], dtype: Any) -> Any:
    if "stage" in values:
        faults.append(f"{entries[(name, 'stage')][1]}: {name}.stage: the section's name says it; leave it out")
        values = {key: value for key, value in values.items() if key != "stage"}
    if dtype in BASE_PRECISIONS and "base_precision" not in values and dtype != "auto":
        values = {**values, "base_precision": dtype}
        entries = {**entries, (name, "base_precision"): (dtype, entries[("dtype",)][1])}
    try:
        return TrainConfig.from_dict({**values, "stage": name})
    except ConfigError as error:
        faults.extend(_placed(name, str(error), entries))
        return None


def _workload(values: dict[str, Any], entries: Entries, faults: list[str]) -> Workload:
    kinds = {f.name: str(f.type) for f in fields(Workload)}
    right: dict[str, Any] = {}
    for key, value in values.items():
        where = entries[("workload", key)][1]
        allowed = (int, float) if kinds.get(key) == "float" else (int,)
        if key not in kinds:
            faults.append(f"{where}: workload.{key}: no such key; there are {', '.join(kinds)}")
        elif (isinstance(value, allowed) and not isinstance(value, bool)) or (value is None and "None" in kinds[key]):
            right[key] = value
        else:
            faults.append(f"{where}: workload.{key}={value!r}: give a number")
    try:
        return Workload(**right)
    except ConfigError as error:
        faults.extend(_placed("workload", str(error), entries))
        return Workload()


def _placed(section: str, message: str, entries: Entries) -> list[str]:
    """The lines of a :class:`ConfigError`, each with where its key stands."""
    head, *lines = message.split("\n  ")
    told = []
    for line in lines or [head]:
        key = re.match(r"\w+", line)
        where = entries.get((section, key.group() if key else ""), (None, section))[1]
        told.append(f"{where}: {section}.{line}")
    return told


_STAGE_KEYS = frozenset(f.name for f in fields(TrainConfig))
