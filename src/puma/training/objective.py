"""The trainer's loss object: runs the model on a step's chunks, gathers the states of all processes, and adds up
contrastive and distillation terms.

Source: the paper: ``0.9 * contrastive + 0.1 * scale * distillation`` (stage 1), MAC-Loss (stage 2).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from puma.errors import InputError
from puma.losses import batch_keys
from puma.losses.baselines import LOSS_FUNCTIONS, TWO_TEMPERATURES
from puma.losses.comparison import Comparison
from puma.losses.distillation import distillation_loss, row_softmax_loss
from puma.losses.gathering import gather_rows, world_size
from puma.losses.mac import hard_temperature, negative_shares
from puma.losses.matryoshka import mean_over_widths, nested_comparisons
from puma.losses.negatives import repeated
from puma.losses.split_mac import split_losses
from puma.training.gathered import Batch, gather_batch
from puma.training.sharding import is_sharded
from puma.training.states import StepStates, Targets


class RetrievalObjective(nn.Module):
    """Contrastive loss over a step's pairs, with the teacher's states beside it where the step carries them.

    With several processes every query meets the candidates of all of them, with gradient. Each process returns its
    share scaled so that averaging parameter gradients over processes, as DDP does, gives what one process with the
    whole batch would have.

    Args:
        model: a ``SentenceTransformer``; its pipeline's token states are pooled here, raw.
        temperature: tau_norm.
        decay: of the hard temperature of "mac" and "split-mac"; 0 makes MAC-Loss plain InfoNCE.
        contrastive_weight, distillation_weight: of the two terms (the recipe: 0.9 and 0.1 * 0.05; 1 and 0 in stage 2).
        distillation: the kind, see :func:`puma.losses.distillation_loss`; ``distillation_temperature`` and
            ``distillation_centre`` are its ``temperature`` and ``centre``.
        distillation_within: ``batch``, or ``modality``: kinds that compare items compare only queries for a modality
            and the candidates of that modality with one another.
        student_map: applied to the student's states before they are compared with the teacher's; part of ``model``,
            so that it is trained and kept with it. None compares them as they are.
        symmetric: whether the candidates' view (which query is mine?) is averaged in. The paper's loss has only the
            queries'. Explicit hard negatives have no query of their own and no view.
        loss: one of :data:`puma.losses.LOSSES`.
        other_weight: of the second term of :func:`puma.losses.split_mac_loss`, >= 0; no other loss reads it.
        margin: mask candidates whose cosine beats the positive's by more than this; None: none.
        dimensions: lengths of prefixes of the states, increasing, below their width: the contrastive term is the mean
            over the full width and each of them (:mod:`puma.losses.matryoshka`).
        grad_cache: run at most so many items at once and recompute them for the gradient, so that memory does not grow
            with the batch; 0: off.
        shared_teacher: gives student and teacher states of one chunk at once, ``states(chunk) -> (student [n, d],
            teacher [n, d])``; the batch then needs no teacher states. With ``grad_cache`` the second pass uses its
            ``student_states(chunk)``, where it has one. Used only if ``distillation_weight`` > 0.
        teacher_share: the part of a step's chunks, drawn anew each step, that the shared teacher runs on; in
            expectation the same loss, at so much of the teacher's cost.
        exits: depths below the model's own that get the contrastive term too (:mod:`puma.training.exits`), each with
            ``exit_weight`` beside 1 for the model's end; their weighted mean is the term.
        exit_distillation: of a further term: at each exit the batch's similarities, as softmaxed rows, against those at
            the model's end (:func:`puma.losses.distillation.row_softmax_loss` at ``distillation_temperature``).
        short: compute the last layer at ``[RET]`` alone where there are neither exits nor a shared teacher
            (:mod:`puma.training.short_last_layer`, which says whether a model allows it).
        autocast: the type of the trainer's autocast, as :class:`puma.training.states.StepStates` takes it. The losses
            are computed outside it.

    Raises:
        InputError: a value out of range, or an unknown loss.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float,
        decay: float = 0.0,
        contrastive_weight: float = 1.0,
        distillation_weight: float = 0.0,
        distillation: str = "mse",
        distillation_temperature: float = 0.05,
        distillation_centre: str = "none",
        distillation_within: str = "batch",
        student_map: nn.Module | None = None,
        symmetric: bool = False,
        loss: str = "mac",
        other_weight: float = 1.0,
        margin: float | None = None,
        dimensions: Sequence[int] = (),
        grad_cache: int = 0,
        shared_teacher: Any = None,
        teacher_share: float = 1.0,
        exits: Sequence[int] = (),
        exit_weight: float = 1.0,
        exit_distillation: float = 0.0,
        short: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if loss not in LOSS_FUNCTIONS:
            raise InputError(f"loss={loss!r}: give one of {tuple(LOSS_FUNCTIONS)}")
        self.model = model
        self.temperature, self.decay, self.symmetric = temperature, decay, symmetric
        self.contrastive_weight, self.distillation_weight = contrastive_weight, distillation_weight
        self.distillation, self.distillation_within = distillation, distillation_within
        self.distillation_temperature, self.distillation_centre = distillation_temperature, distillation_centre
        self._map = [] if student_map is None else [student_map]  # a list: its weights are the model's already
        self.loss, self.other_weight, self.margin = loss, other_weight, margin
        self.dimensions = tuple(dimensions)
        self.exits, self.exit_weight, self.exit_distillation = tuple(exits), exit_weight, exit_distillation
        shared = shared_teacher if distillation_weight else None
        self.states = StepStates(self.exits, grad_cache, shared, teacher_share, short, autocast)
        self.progress = 0.0
        """Fraction of training done; a callback sets it from the trainer's state, so it survives a resume."""
        if not (other_weight >= 0 and math.isfinite(other_weight)):
            raise InputError(f"other_weight={other_weight!r}: give a number of at least 0")
        self._options = {"other_weight": other_weight} if loss == "split-mac" else {}
        self.last_figures: dict[str, torch.Tensor] = {}
        """After a step, of this process's queries against all candidates, at the full width: for "split-mac" its two
        addends ``same_loss`` and ``other_loss`` (:func:`puma.losses.split_losses`); else ``share_hard`` and
        ``share_other``, the fractions of the negatives' softmax mass (:func:`puma.losses.negative_shares`), for other
        losses than "mac" as if they were InfoNCE. And ``exit_<depth>_loss``, each exit's contrastive loss."""
        hard_temperature(temperature, decay, 0.0)  # refuse wrong values now, not at the first step

    @classmethod
    def from_config(
        cls,
        model: Any,
        config: Any,
        *,
        shared_teacher: Any = None,
        student_map: nn.Module | None = None,
        short: bool = False,
    ) -> RetrievalObjective:
        """The objective of a stage.

        Args:
            config: :class:`puma.training.config.TrainConfig`, whose settings of these names are taken.
        """
        names = set(inspect.signature(cls).parameters) & {field.name for field in fields(config)}
        settings = {name: getattr(config, name) for name in names}
        # FSDP2 gathers a layer's weights anew for each chunk: no cast of them may outlive one.
        autocast = torch.bfloat16 if config.precision == "bf16" and not is_sharded() else None
        return cls(
            model,
            **settings,
            shared_teacher=shared_teacher,
            student_map=student_map,
            short=short,
            autocast=autocast,
        )

    def forward(self, features: list[dict[str, Any]], labels: Any = None) -> dict[str, torch.Tensor]:
        """The weighted terms by name; the trainer logs and sums them."""
        extra = {key: features[0].pop(key) for key in list(features[0]) if batch_keys.of_the_batch(key)}
        states, teacher = self.states(self.model, features)  # [q + c, d]: queries, then candidates
        batch, *exits = gather_batch(states, extra).divided(1 + len(self.exits))
        terms = {}
        if self.contrastive_weight or not self.distillation_weight:
            loss, self.last_figures = self._contrastive(batch)
            for depth, other in zip(self.exits, exits, strict=True):
                of_exit = self._contrastive(other)[0]
                self.last_figures[f"exit_{depth}_loss"] = of_exit.detach()
                loss = loss + self.exit_weight * of_exit
            terms["contrastive"] = self.contrastive_weight * loss / (1 + self.exit_weight * len(exits))
        if exits and self.exit_distillation:
            # Of all processes' rows, which every process computes alike: their average needs no scale.
            end, heat = batch.states.detach(), self.distillation_temperature
            apart = [row_softmax_loss(other.states, end, temperature=heat) for other in exits]
            terms["exits"] = self.exit_distillation * sum(apart) / len(apart)
        if self.distillation_weight:
            loss = self._distillation(batch, extra, teacher)
            terms["distillation"] = self.distillation_weight * loss
        return terms

    def _contrastive(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """This process's share of the loss, and what its :attr:`last_figures` are."""
        q = batch.own  # this process's queries; candidates i < q are their positives
        hard = self.temperature
        if self.loss in TWO_TEMPERATURES:
            hard = hard_temperature(self.temperature, self.decay, self.progress)
        options: dict[str, Any] = {"temperature": self.temperature, "hard_temperature": hard, "margin": self.margin}
        options["dimensions"] = self.dimensions
        function = LOSS_FUNCTIONS[self.loss].of
        wrong = batch.false_negatives(None if self.symmetric else q)  # [q or all queries, c]
        comparisons = nested_comparisons(
            batch.queries[:q],
            batch.candidates,
            batch.target_modality[:q],
            batch.candidate_modality,
            exclude=wrong[:q] | repeated(batch.candidate_key),
            **options,
        )
        loss = mean_over_widths(function, comparisons, **self._options)
        if self.symmetric:
            # Seen from candidate j every query that aims at j's modality shares its temperature, as in
            # the queries' view.
            backward = nested_comparisons(
                batch.candidates[:q],
                batch.queries,
                batch.candidate_modality[:q],
                batch.target_modality,
                exclude=wrong[:, :q].T,
                **options,
            )
            loss = (loss + mean_over_widths(function, backward, **self._options)) / 2
        # A mean over own queries; averaged over processes it becomes the mean over all, however many each has.
        return loss * (world_size() * q / len(batch.queries)), self._figures(comparisons[0])

    def _figures(self, comparison: Comparison) -> dict[str, torch.Tensor]:
        if self.loss == "split-mac":
            return {f"{group}_loss": value for group, value in split_losses.of(comparison, **self._options).items()}
        return {f"share_{group}": value for group, value in negative_shares.of(comparison).items()}

    def _distillation(self, batch: Batch, extra: dict[str, Any], targets: Targets | None) -> torch.Tensor:
        if targets is not None:
            teacher, rows = targets
        elif batch_keys.TEACHER in extra:
            teacher, rows = (
                extra[batch_keys.TEACHER],
                extra[batch_keys.TAUGHT],
            )  # [q + c, d]; bool: which items have a target
        else:
            raise InputError(
                "distillation_weight > 0 but the batch carries no teacher states: give the collator a teacher, or the "
                "objective a shared_teacher"
            )
        # On the rows of all processes: only so is it one process's mean, and only so has "relational" all its pairs.
        # Every process computes the same, so their average needs no scale.
        teacher, rows = gather_rows(teacher, batch.items), gather_rows(rows, batch.items)
        student = batch.states[rows]
        for student_map in self._map:
            student = student_map(student)
        groups = None
        if self.distillation_within == "modality":
            wanted = torch.cat([extra[batch_keys.TARGET_MODALITY], extra[batch_keys.CANDIDATE_MODALITY]])
            groups = gather_rows(wanted, batch.items)[rows]
        return distillation_loss(
            student,
            teacher[rows],
            self.distillation,
            temperature=self.distillation_temperature,
            centre=self.distillation_centre,
            groups=groups,
        )
