"""A shared teacher as the objective calls it, and the choice between a shared teacher and stored targets."""

from __future__ import annotations

from typing import Any

import torch

from puma.errors import InputError
from puma.retriever.model import Retriever
from puma.retriever.pooling import last_token_state
from puma.training.collating import Targets
from puma.training.config import TrainConfig
from puma.training.distillation_settings import check_teacher_width
from puma.training.teacher.dual_depth import DualDepth


class SharedTeacher:
    """Runs a :class:`~puma.training.teacher.dual_depth.DualDepth` by way of the trained pipeline, whose forward brings
    mixed precision and, under FSDP2, puts the weights together.

    Args:
        dual: the backbone of both.
        pipeline: the ``SentenceTransformer`` around it.
    """

    def __init__(self, dual: DualDepth, pipeline: Any) -> None:
        self.dual, self.pipeline = dual, pipeline

    def states(self, chunk: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """``(student [n, dim] with gradient, teacher [n, dim] without)``."""
        return self.dual.states(chunk, run=self._tokens)

    def student_states(self, chunk: dict[str, Any]) -> torch.Tensor:
        """The student's alone, [n, dim]: a gradient cache's second pass needs no teacher."""
        return last_token_state(self._tokens(chunk), chunk["attention_mask"]).float()

    def _tokens(self, chunk: dict[str, Any]) -> torch.Tensor:
        return self.pipeline(dict(chunk))["token_embeddings"]


def choose_teacher(
    retriever: Retriever, config: TrainConfig, teacher: Targets | DualDepth | None
) -> tuple[DualDepth | None, Targets | None]:
    """(shared backbone, stored targets) that this stage distils from: at most one of them.

    Raises:
        InputError: no teacher, or one that does not fit the configuration or the retriever.
    """
    if config.distillation_weight == 0:
        if isinstance(teacher, DualDepth):
            raise InputError("teacher: a DualDepth, but distillation_weight=0 never uses it; leave it out")
        return None, None
    if teacher is None:
        raise InputError(
            "distillation_weight > 0 needs a teacher: give one of puma.training.teacher.store's targets, or a "
            "DualDepth with teacher='shared'"
        )
    if isinstance(teacher, DualDepth) != (config.teacher == "shared"):
        raise InputError(
            f"teacher={config.teacher!r} in the configuration, but {type(teacher).__name__} was given: 'shared' takes "
            "a DualDepth of the retriever's model, 'store' one of puma.training.teacher.store's targets"
        )
    if not isinstance(teacher, DualDepth):
        check_teacher_width(config, retriever.dim, teacher)
        return None, teacher
    if teacher.student_model() is not retriever.model:
        raise InputError("teacher: a DualDepth of another model; make it of retriever.model")
    return teacher, None
