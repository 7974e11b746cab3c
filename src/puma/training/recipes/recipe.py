"""Recipes: a base, its depth and both stages in one YAML file, read whole or refused whole, each fault with its line.
The format is described in docs/recipes.md.

``base: mini`` is known here by name only: its shape and its training are :mod:`puma.mini.training`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puma.errors import ConfigError, InputError
from puma.training.config import TrainConfig
from puma.training.recipes.checking import MINI, ONLY_MINI, check_entries
from puma.training.recipes.costs import Workload, estimate
from puma.training.recipes.files import Entries, find_recipe, merge, read_entries, recipes_folder, shipped_recipes
from puma.training.rounds import Rounds

__all__ = [
    "MINI",
    "Recipe",
    "base_config",
    "dry_run",
    "read_recipe",
    "recipe_of",
    "recipes_folder",
    "shipped_recipes",
    "train_recipe",
]


@dataclass(frozen=True)
class Recipe:
    """One way of making a retriever of a base.

    Args:
        base: a hub name, a model folder, or ``mini``.
        layers, keep_last, prompt: as :meth:`puma.retriever.model.Retriever.from_base`; None layers keeps all.
        image_tokens: fewest and most tokens of an image, see
            :func:`puma.retriever.images.image_tokens.limit_image_tokens`; None leaves it to the base's processor.
        data: root of the data in M-BEIR's layout; None asks for it on the command line (the mini base: OpenPics).
        dtype: ``base_precision`` of the stages that do not name their own.
        attn: how attention is computed; None for the base's own way.
        distil, retrieve: the stages; ``distil`` may be None.
        rounds: more training after stage 2, each round followed by a mean of weights; None for none.
        workload: what the dry run assumes of a step.
        image_size: of the mini base only, as the next nine: the side of its images in pixels.
        tower: its vision tower, ``lite0`` or ``lite2`` (:class:`puma.mini.base.settings.BaseSettings`).
        tower_cell: pixels of an image per image token, along one side: 32, or 64 for a quarter of the tokens.
        teacher_prompt: the prompt format of the teacher; only its states at ``[RET]`` are distilled, so it may differ
            from the student's.
        rows_per_query: positives of one query that are read.
        extra_pairs: training pairs beside the data's, ``icons``, ``wordnet``, ``keywords``, ``classes``
            (:mod:`puma.mini.extra_pairs.pairs`).
        image_variants: changed versions of each training image beside itself (moved and recoloured a little) whose
            features are stored, so that the frozen tower need not see each anew.
        same_concept: whether other candidates of a query's concept, of the modality it asks for, are no negatives, in
            the tasks whose answer they would be.
        published_tower: the share of the published weights in the finished model's vision tower (WiSE-FT).
        photo_classifier: whether the finished model adds to photographs' vectors what the tower's classifier recognises
            (:mod:`puma.retriever.photographs`).
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
    rounds: Rounds | None = None
    workload: Workload = field(default_factory=Workload)
    image_size: int = 96
    tower: str = "lite0"
    tower_cell: int = 32
    teacher_prompt: str = "open-quote"
    rows_per_query: int = 4
    extra_pairs: tuple[str, ...] = ()
    image_variants: int = 0
    same_concept: bool = False
    published_tower: float = 0.0
    photo_classifier: bool = False
    notes: str = ""

    @property
    def stages(self) -> list[TrainConfig]:
        """Those that are run, in order."""
        return [self.retrieve] if self.distil is None else [self.distil, self.retrieve]

    @property
    def trainings(self) -> list[TrainConfig]:
        """The stages and the rounds after them, in order."""
        return self.stages + (self.rounds.configs if self.rounds else [])


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
        entries = {key: value for key, value in entries.items() if key[0] not in ONLY_MINI}
    entries = merge(entries, {tuple(key.split(".")): (value, f"--set {key}") for key, value in (changes or {}).items()})
    return _build(entries, faults, f"recipe {os.fspath(path)}")


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """A recipe of values by dotted key, as ``changes`` of :func:`read_recipe`, without a file.

    Raises:
        ConfigError: as :func:`read_recipe`.
    """
    return _build({tuple(key.split(".")): (value, "--set") for key, value in values.items()}, [], "recipe")


def base_config(recipe: Recipe) -> Any:
    """The transformers configuration of a recipe's base, without its weights.

    Raises:
        InputError: the base is neither a folder nor of a known shape.
    """
    from puma.pruning.shapes import config_of

    return config_of(recipe.base)


def dry_run(recipe: Recipe, config: Any = None) -> dict[str, Any]:
    """What the recipe would cost: :func:`puma.training.recipes.costs.estimate` of its base's shape.

    Args:
        config: of the unpruned base; None for :func:`base_config` of the recipe.
    """
    config = base_config(recipe) if config is None else config
    report = estimate(config, recipe.layers, recipe.stages, recipe.workload, keep_last=recipe.keep_last)
    return {"base": recipe.base, **report, "rounds": recipe.rounds.count if recipe.rounds else 0}


def train_recipe(
    recipe: Recipe,
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    distil_if_texts: bool = True,
    strict: bool = False,
) -> dict[str, list[dict[str, float]]]:
    """Train what the recipe says, and save it. For the mini base: :func:`puma.mini.training.train_recipe`.

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
    if root is None:
        raise InputError("no data: give --data, a folder in M-BEIR's layout or a table of pairs (docs/recipes.md)")
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
        rounds=recipe.rounds,
        distil_if_texts=distil_if_texts,
        strict=strict,
    )


def _build(entries: Entries, faults: list[str], name: str) -> Recipe:
    values = check_entries(entries, faults)
    if faults:
        raise ConfigError(f"{name}:\n  " + "\n  ".join(dict.fromkeys(faults)))
    return Recipe(**values)
