"""The rules of a stage's distillation settings, and the linear map from the student's states to a wider or narrower
teacher's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from puma.errors import InputError
from puma.losses.distillation import CENTRED, OF_SIMILARITIES, check_widths

TEACHERS = ("store", "shared")
TEXT_TEACHER = "all-minilm-l6-v2"
"""A published embedder of texts that ``base: mini`` can fetch (:mod:`puma.mini.text_teacher`)."""
WITHIN = ("batch", "modality")
MAP = "distillation_map"
"""The map's name in the pipeline's first module."""
Rule = tuple[str, tuple[str, ...], Callable[[], bool], str]
"""(the key that a fault is listed under, the keys read, whether it holds, what to give)."""


def is_folder(teacher: str) -> bool:
    """Whether a stage's ``teacher`` is a folder's path. It has a slash: a mistyped name is none."""
    return "/" in teacher or os.sep in teacher


def distillation_rules(config: Any) -> list[Rule]:
    """What a :class:`puma.training.config.TrainConfig` must keep to beside its other rules."""

    def known_teacher() -> bool:
        return config.teacher in (*TEACHERS, TEXT_TEACHER) or is_folder(config.teacher)

    def shared() -> bool:
        return config.teacher == "shared"

    return [
        (
            "teacher",
            ("teacher",),
            known_teacher,
            f"give one of {(*TEACHERS, TEXT_TEACHER)}, or the path of a retriever's or sentence-transformers model's "
            "folder, with a slash in it (./deep)",
        ),
        (
            "distillation_temperature",
            ("distillation_temperature",),
            lambda: config.distillation_temperature > 0,
            "give a positive number; 0.02 to 0.05 suit states that were trained contrastively",
        ),
        (
            "distillation_centre",
            ("distillation_centre",),
            lambda: config.distillation_centre in CENTRED,
            f"give one of {CENTRED}",
        ),
        (
            "distillation_within",
            ("distillation_within",),
            lambda: config.distillation_within in WITHIN,
            f"give one of {WITHIN}",
        ),
        (
            "distillation_within",
            ("distillation_within", "distillation"),
            lambda: config.distillation_within == "batch" or config.distillation in OF_SIMILARITIES,
            f"with distillation={config.distillation!r} give 'batch': only {OF_SIMILARITIES} compare items",
        ),
        (
            "lora_rank",
            ("lora_rank", "teacher"),
            lambda: not shared() or config.lora_rank > 0,
            "with teacher='shared' give a positive rank: the teacher is this model without its adapters",
        ),
        (
            "projector_rate",
            ("projector_rate", "teacher"),
            lambda: not shared() or config.projector_rate == 0,
            "with teacher='shared' give 0: the teacher looks through the same projector, and is frozen",
        ),
        (
            "tower_rate",
            ("tower_rate", "teacher"),
            lambda: not shared() or config.tower_rate == 0,
            "with teacher='shared' give 0: the teacher looks through the same tower, and is frozen",
        ),
        (
            "distillation_map",
            ("distillation_map", "teacher"),
            lambda: not config.distillation_map or not shared(),
            "with teacher='shared' give false: the teacher is as wide as the student",
        ),
        (
            "items_only",
            ("items_only", "stage", "contrastive_weight", "distillation_weight", "hard_negatives", "teacher"),
            lambda: (
                not config.items_only
                or (
                    config.stage == "distil"
                    and config.contrastive_weight == 0
                    and config.distillation_weight > 0
                    and config.hard_negatives == 0
                    and config.teacher != "shared"
                )
            ),
            "reads items without pairs, so it needs stage distil, contrastive_weight 0, distillation_weight above 0, "
            "hard_negatives 0, and a teacher whose states are stored",
        ),
    ]


def width_of(teacher: Any) -> int | None:
    """How many features a teacher's states have, where it tells."""
    dim = getattr(teacher, "dim", None)
    return None if dim is None else int(dim)


def check_teacher_width(config: Any, student: int, teacher: Any) -> None:
    """Refuse a teacher of another width before a step is run, where the kind of distillation cannot compare them.

    Raises:
        InputError: the message names both widths and the remedy; or a map is asked for, of a teacher that does not tell
            its width.
    """
    width = width_of(teacher)
    if config.distillation_map:
        if width is None:
            raise InputError(
                "distillation_map=True: the teacher does not tell its width; give it an attribute dim, as "
                "puma.training.teacher.store's targets have"
            )
    elif width is not None:
        check_widths(student, width, config.distillation)


class StudentMap(nn.Linear):
    """A linear map without bias from the student's states [n, student] to the teacher's width [n, teacher], in fp32
    also under autocast.

    It starts as the identity, cut or filled up with zeros: where both have one width nothing changes at first.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__(student, teacher, bias=False)
        with torch.no_grad():
            self.weight.copy_(torch.eye(teacher, student))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The states in the teacher's space."""
        with torch.autocast(states.device.type, enabled=False):
            return super().forward(states.float())


def attach_map(pipeline: Any, student: int, teacher: Any) -> None:
    """Let a pipeline carry the map of a stage: trained, averaged over processes and kept in checkpoints with the model,
    it is no part of the model that is saved at the end."""
    width = width_of(teacher)
    if width is not None:
        pipeline[0].add_module(MAP, StudentMap(student, width).to(pipeline[0].model.device))


def map_of(pipeline: Any) -> StudentMap | None:
    """The map that :func:`attach_map` gave it."""
    return getattr(pipeline[0], MAP, None)
