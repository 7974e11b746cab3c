"""The states of a step's items, at ``[RET]``: of the model, at its exits, and of a shared teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from puma.errors import InputError
from puma.losses import batch_keys
from puma.losses.gradcache import cached_states, split_part
from puma.retriever.pooling import last_token_state
from puma.training.exits import states_at_depths
from puma.training.short_last_layer import short_last_layer

Targets = tuple[torch.Tensor, torch.Tensor]
"""A teacher's states [n, d], and bool [n]: which of them are targets."""


class StepStates:
    """Runs the model on a step's chunks.

    Args:
        exits: as :class:`puma.training.objective.RetrievalObjective` has them, like the rest.
        grad_cache: items a forward pass; 0 for one pass a chunk.
        shared: the shared teacher, or None.
        teacher_share: the part of the chunks that it runs on.
        short: compute the last layer at ``[RET]`` alone (:mod:`puma.training.short_last_layer`), where there are
            neither exits nor a shared teacher.
        autocast: the type that the model computes in under autocast, for each weight to be cast once a step and not
            once a chunk, where there is neither ``grad_cache`` nor a shared teacher; None to leave autocast to the
            trainer.

    Raises:
        InputError: a value out of range, or exits with a shared teacher.
    """

    def __init__(
        self,
        exits: Sequence[int],
        grad_cache: int,
        shared: Any,
        teacher_share: float,
        short: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        if grad_cache < 0:
            raise InputError(f"grad_cache={grad_cache!r}: give a number of items, or 0 for none")
        if not 0 < teacher_share <= 1:
            raise InputError(f"teacher_share={teacher_share!r}: give a fraction in (0, 1]")
        if exits and shared is not None:
            raise InputError(f"exits={list(exits)}: not with teacher='shared'; give a teacher that is stored")
        self.exits, self.grad_cache, self.shared, self.teacher_share = tuple(exits), grad_cache, shared, teacher_share
        self.short = short and not exits and shared is None
        self.autocast = autocast if shared is None else None

    def __call__(self, model: Any, chunks: list[dict[str, Any]]) -> tuple[torch.Tensor, Targets | None]:
        """States [q + c, d] in the batch's order, and the shared teacher's if there is one."""
        if self.grad_cache:
            chunks = [piece for chunk in chunks for piece in split_part(chunk, self.grad_cache)]
        with_teacher = iter(self._with_teacher(len(chunks)))
        targets: list[Targets] = []

        def run(chunk: dict[str, Any]) -> torch.Tensor:
            inputs = _inputs(chunk)
            if self.shared is None:
                return self._own_states(model, inputs, chunk["attention_mask"])
            if wanted := next(with_teacher):
                student, teacher = self.shared.states(inputs)
            else:
                student = self.shared.student_states(inputs)
                teacher = torch.zeros_like(student)
            rows = torch.full((len(student),), wanted, device=student.device)
            targets.append((teacher.detach().float(), rows))
            return student.float()

        def again(chunk: dict[str, Any]) -> torch.Tensor:
            student_only = getattr(self.shared, "student_states", None) if self.shared is not None else None
            if student_only is not None:
                return student_only(_inputs(chunk)).float()
            return run(chunk)

        if self.grad_cache:
            states = cached_states(run, again, chunks, model)
        else:
            with self._casting_once(chunks[0]["attention_mask"].device):
                states = torch.cat([run(chunk) for chunk in chunks])
        order = torch.argsort(torch.cat([chunk[batch_keys.ROWS] for chunk in chunks]))
        if not targets:
            return states[order], None
        teacher_states, rows = (torch.cat(column)[order] for column in zip(*targets, strict=True))
        return states[order], (teacher_states, rows)

    def _casting_once(self, device: torch.device) -> AbstractContextManager[Any]:
        """Around a step's chunks: autocast forgets the weights it has cast where its outermost context ends, and the
        trainer opens one for each call of the model."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)

    def _own_states(self, model: Any, inputs: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
        """[n, d] in fp32, or with exits [n, (1 + exits) * d]."""

        def forward() -> torch.Tensor:
            return model(inputs)["token_embeddings"]

        if self.short:
            with short_last_layer(model[0].model, attention_mask):
                return forward()[:, 0].float()
        if self.exits:
            return states_at_depths(model[0].model, self.exits, forward, attention_mask)
        return last_token_state(forward(), attention_mask).float()

    def _with_teacher(self, chunks: int) -> list[bool]:
        """Which of a step's chunks the shared teacher runs on."""
        if self.shared is None or self.teacher_share == 1:
            return [True] * chunks
        drawn = set(torch.randperm(chunks)[: math.ceil(self.teacher_share * chunks)].tolist())
        return [number in drawn for number in range(chunks)]


def _inputs(chunk: dict[str, Any]) -> dict[str, Any]:
    """A chunk as the model takes it: a copy, since the pipeline writes its outputs into what it is given."""
    return {key: value for key, value in chunk.items() if key not in batch_keys.PART_KEYS}
