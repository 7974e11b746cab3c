"""The rules that a stage's settings must keep to, with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puma.losses import LOSSES
from puma.losses.distillation import KINDS
from puma.losses.matryoshka import increasing
from puma.training.distillation_settings import Rule, distillation_rules

STAGES = ("distil", "retrieve")
BASE_PRECISIONS = ("auto", "fp32", "bf16", "4bit")
OTHER_WEIGHT = 0.5
"""Of split MAC-Loss's second term, where nothing else is given."""
REPORTS = ("none", "tensorboard", "wandb", "trackio")


def rules_of(config: Any) -> list[Rule]:
    """What a :class:`puma.training.config.TrainConfig` must keep to."""

    def each(names: str, holds: Callable[[Any], bool], rule: str) -> list[Any]:
        return [(name, (name,), lambda name=name: holds(getattr(config, name)), rule) for name in names.split()]

    def one_of(name: str, choices: tuple[str, ...]) -> list[Any]:
        return each(name, lambda value: value in choices, f"give one of {choices}")

    frozen_in = config.base_precision
    return [
        *one_of("stage", STAGES),
        *one_of("schedule", ("cosine", "linear")),
        *one_of("precision", ("fp32", "bf16")),
        *one_of("loss", LOSSES),
        *one_of("distillation", KINDS),
        *one_of("base_precision", BASE_PRECISIONS),
        *one_of("report_to", REPORTS),
        *each("learning_rate temperature clip", lambda value: value > 0, "give a positive number"),
        *each(
            "steps least_steps save_steps lora_rank seed hard_negatives grad_cache eval_every eval_queries patience",
            lambda value: value >= 0,
            "give a whole number of at least 0",
        ),
        *each(
            "decay other_weight projector_rate tower_rate weight_decay minutes contrastive_weight distillation_weight "
            "exit_weight exit_distillation",
            lambda value: value >= 0,
            "give at least 0",
        ),
        *each("dimensions", increasing, "give rising whole numbers of 1 or more: [64, 128]"),
        *each("margin", lambda value: value is None or value >= 0, "give at least 0, or None"),
        *each("batch_size", lambda value: value >= 2, "give at least 2: a contrastive loss needs negatives"),
        *each("chunks accumulate", lambda value: value >= 1, "give at least 1"),
        *each("workers", lambda value: value >= -1, "give a whole number of at least 0, or -1 to go by the cores"),
        *each(
            "warmup final_rate modality_dropout balance max_unreadable",
            lambda value: 0 <= value <= 1,
            "give a number in [0, 1]",
        ),
        *each(
            "exits",
            lambda value: all(depth >= 1 for depth in value) and list(value) == sorted(set(value)),
            "give numbers of layers of at least 1, ascending",
        ),
        *each("teacher_share", lambda value: 0 < value <= 1, "give a fraction in (0, 1]"),
        *each("lora_dropout any_share", lambda value: 0 <= value < 1, "give a fraction in [0, 1)"),
        (
            "epochs",
            ("epochs", "steps", "minutes"),
            lambda: config.steps > 0 or config.minutes > 0 or config.epochs > 0,
            "give a positive number, or steps",
        ),
        (
            "base_precision",
            ("base_precision", "lora_rank"),
            lambda: frozen_in not in ("bf16", "4bit") or config.lora_rank > 0,
            "with lora_rank=0 the base itself is trained, in fp32; give auto or fp32, or a positive lora_rank",
        ),
        (
            "base_precision",
            ("base_precision", "precision"),
            lambda: frozen_in not in ("bf16", "4bit") or config.precision == "bf16",
            "with precision='fp32' give auto or fp32",
        ),
        (
            "other_weight",
            ("other_weight", "loss"),
            lambda: config.other_weight == OTHER_WEIGHT or config.loss == "split-mac",
            "only loss='split-mac' has a second term; leave it out, or give that loss",
        ),
        (
            "patience",
            ("patience", "eval_every"),
            lambda: config.patience == 0 or config.eval_every > 0,
            "stops after evaluations without a gain: give eval_every too, the steps between them",
        ),
        (
            "exit_distillation",
            ("exit_distillation", "exits"),
            lambda: config.exit_distillation == 0 or bool(config.exits),
            "teaches exits: give exits too, such as [3]",
        ),
        (
            "exits",
            ("exits", "teacher", "distillation_weight"),
            lambda: not config.exits or config.teacher != "shared" or config.distillation_weight == 0,
            "not with teacher='shared', which gives no states of other depths; give a teacher that is stored",
        ),
        *distillation_rules(config),
    ]
