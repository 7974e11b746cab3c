"""One cell of the ablation: a variant trained at one rate with one seed, and scored."""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from _ablation_peer import train_by_peer
from _ablation_variants import Variant
from puma.evaluation.mbeir import evaluate
from puma.evaluation.metrics import means
from puma.items import Encoder
from puma.mini import openpics as images
from puma.mini.base.assemble import assemble
from puma.mini.base.known_images import KnownImages, known_images
from puma.mini.base.projector import training_pairs
from puma.mini.base.vision import tower_precision
from puma.mini.baseline import RidgeBaseline
from puma.mini.targets import distillation_targets
from puma.mini.training import base_settings, for_this_machine
from puma.retriever.devices import has_fast_bf16
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import Pair, read_pairs
from puma.training.planned import batches_of
from puma.training.recipes.recipe import Recipe, read_recipe
from puma.training.teacher.store import PromptTargets, teacher_states

KS = (1, 5, 10)
STAGE_1_SHARE = 0.25
PAPER_STAGE_1 = {
    "temperature": 0.05,
    "decay": 0.0,
    "symmetric": False,
    "contrastive_weight": 0.9,
    "distillation_weight": 0.1 * 0.05,
    "distillation": "mse",
}
"""Stage 1 of the paper's recipe: 0.9 InfoNCE + 0.1 * 0.05 * MSE on raw states, on pairs of two texts."""


@dataclass(frozen=True)
class World:
    """What every cell needs: the benchmark, the base, the tower's stored outputs, the training rows."""

    root: Path
    base: Path
    vision: KnownImages
    plan: Recipe

    @classmethod
    def open(cls) -> World:
        """From the cache folder (``PUMA_HOME``), built first where it is not there yet."""
        plan = for_this_machine(read_recipe("mini-distilled", {"retrieve.minutes": 0}))  # every cell sets its steps
        root = images.build()
        base = assemble(settings=base_settings(plan), images=root)
        return cls(root, base, known_images(base, root, None), plan)

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        return read_pairs(self.root, limit=self.plan.rows_per_query)

    @functools.cached_property
    def text_pairs(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.query.image is None and pair.candidate.image is None]

    def fresh(self, variant: Variant) -> Retriever:
        """The variant's retriever before training, as the quickstart makes its own."""
        retriever = Retriever.from_base(
            self.base,
            layers=variant.layers,
            keep_last=variant.keep_last,
            prompt=variant.prompt,
            dtype=torch.float32,
        )
        retriever.vision = self.vision
        retriever.autocast = torch.bfloat16 if has_fast_bf16() else None
        retriever.model.set_attn_implementation("eager")  # faster at these lengths on a CPU, see quickstart
        return retriever

    def configs(self, variant: Variant, rate: float, seed: int, steps: int) -> tuple[TrainConfig | None, TrainConfig]:
        """Both stages' settings; the steps of the two add up to ``steps``."""
        common = {"learning_rate": rate, "seed": seed, "save_steps": 10**9}
        first = max(1, round(STAGE_1_SHARE * steps)) if variant.distil else 0
        # The paper's loss, by which the variants are named; the recipe's own is another.
        retrieve = {**vars(self.plan.retrieve), "loss": "mac", **common, **variant.changes, "steps": steps - first}
        own = PAPER_STAGE_1 if variant.distil == "paper" else {}
        distil = {**vars(self.plan.distil), **common, **own, "steps": first}
        return TrainConfig.from_dict(distil) if first else None, TrainConfig.from_dict(retrieve)


def trained(
    world: World, variant: Variant, rate: float, seed: int, steps: int
) -> tuple[Encoder, dict[str, float], list[dict[str, float]]]:
    """Make the variant.

    Returns:
        The encoder, seconds by part, and the log of the last stage.
    """
    start = time.monotonic()
    if variant.made_by == "ridge":
        baseline = RidgeBaseline.fit(world.base, *training_pairs(world.root), precision=tower_precision())
        return baseline, {"train": round(time.monotonic() - start, 1)}, []
    retriever = world.fresh(variant)
    log: list[dict[str, float]] = []
    seconds: dict[str, float] = {}
    if variant.made_by == "untrained":
        return retriever, {"load": round(time.monotonic() - start, 1)}, log
    distil, retrieve = world.configs(variant, rate, seed, steps)
    if distil is not None:
        paper = variant.distil == "paper"
        targets = _paper_targets(world, variant, distil) if paper else _caption_targets(world, distil)
        seconds["teacher"] = round(time.monotonic() - start, 1)
        trained_once(retriever, world.text_pairs if paper else world.pairs, distil, world, targets)
    if variant.made_by == "puma":
        log = trained_once(retriever, world.pairs, retrieve, world)
    else:
        log = train_by_peer(retriever, world.pairs, retrieve, adaptive=variant.made_by == "adaptive")
    seconds["train"] = round(time.monotonic() - start - sum(seconds.values()), 1)
    return retriever, seconds, log


def trained_once(
    retriever: Retriever, pairs: Sequence[Pair], config: TrainConfig, world: World, targets: Any = None
) -> list[dict[str, float]]:
    """Train in place, in a folder that is not kept; the log."""
    with tempfile.TemporaryDirectory() as folder:
        return train(retriever, pairs, config, folder, vision=world.vision, teacher=targets, show_progress=False).log


def _caption_targets(world: World, config: TrainConfig) -> Any:
    return distillation_targets(world.base, replace(world.plan, distil=config), world.pairs, None)


def _paper_targets(world: World, variant: Variant, config: TrainConfig) -> PromptTargets:
    """What the unpruned base makes of the very prompts that the student will meet."""
    dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
    teacher = Retriever.from_base(world.base, prompt=variant.prompt, dtype=dtype)
    rows = itertools.chain.from_iterable(itertools.islice(batches_of(world.text_pairs, config), config.steps))
    met = [world.text_pairs[row] for row in rows]
    asked = [(pair.query, pair.instruction) for pair in met] + [(pair.candidate, None) for pair in met]
    return PromptTargets(teacher, teacher_states(teacher, asked))


def scores(encoder: Encoder, root: Path, split: str, tasks: Sequence[int] = ()) -> dict[str, Any]:
    """Hit rates in [0, 1] by task, and the means over tasks; local pools. ``tasks``: all where none is named."""
    tables = evaluate(encoder, root, split=split, tasks=tasks or None, pools=("local",), ks=KS, progress=False)
    keep = ("pool", "queries", "hit_rate@1", "hit_rate@10")
    return {
        "mean": means(tables.values(), ["hit_rate@10"])["hit_rate@10"],
        "mean@1": means(tables.values(), ["hit_rate@1"])["hit_rate@1"],
        "tasks": {task: {key: table[key] for key in keep} for task, table in tables.items()},
    }
