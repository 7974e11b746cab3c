"""Training a retriever for one stage on sentence-transformers' trainer, on one process or, started by ``accelerate
launch`` or ``torchrun``, on several: :func:`train` and its steps (resume, what is trained, the trainer, merging)."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from puma.errors import InputError, require
from puma.losses.matryoshka import check_nested
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.retriever.stored_vision import VisionFeatures, stored_vision
from puma.storage.folders import write_json
from puma.training.arguments import check_report, trainer_arguments
from puma.training.augmenting import Augmentation
from puma.training.budget import Budget
from puma.training.collating import PairCollator, Targets
from puma.training.config import TrainConfig
from puma.training.distillation_settings import attach_map, map_of
from puma.training.distributed import equalise, join, processes, wait
from puma.training.exits import check_exits
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair
from puma.training.planned import is_movable, moved_parts, planned_steps
from puma.training.run_folder import best_weights, drop_bests, entries, latest_checkpoint, resume, same_configuration
from puma.training.sampling import MixedTaskBatches, Rows, Run
from puma.training.sharding import check_sharding, is_sharded, tied_projector
from puma.training.short_last_layer import allows_short_last_layer
from puma.training.teacher.dual_depth import DualDepth
from puma.training.teacher.shared import SharedTeacher, choose_teacher
from puma.training.trainable import check_four_bits, choose_trainable, finish_model, hold
from puma.training.transforms import EpochCollator, InTurn, transforms_of
from puma.training.unreadable import Unreadable
from puma.training.validation import Judge, TrainingEncoder, best_of
from puma.training.workers import default_workers, worker_errors


@dataclass(frozen=True)
class TrainResult:
    """What a stage did.

    Args:
        log: one dict a logging step, with ``step``, ``epoch``, ``loss``, the terms, and two figures of the queries'
            view: the addends ``same_loss`` and ``other_loss`` of split MAC-Loss (where it is not symmetric, their sum
            is the contrastive loss), else the shares ``share_hard`` and ``share_other`` of the negatives' weight; and
            one an evaluation, with ``step``, ``eval_hit_<task>`` and ``eval_hit_mean``.
        steps: done in all.
        pairs_per_second: over all processes, of the steps done by this call.
        best_step: the evaluation whose weights these are; None for the last step's.
        unreadable: pairs met whose image could not be used, and which were replaced; ``unreadable.jsonl`` in the
            working folder lists them.
        minutes: spent in all, where the configuration limits them.
    """

    log: list[dict[str, float]]
    steps: int
    pairs_per_second: float
    best_step: int | None = None
    unreadable: int = 0
    minutes: float | None = None


def train(
    retriever: Retriever,
    pairs: Sequence[Pair],
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    vision: VisionFeatures | None = None,
    teacher: Targets | DualDepth | None = None,
    validation: Judge | None = None,
    fixed: bool = False,
    show_progress: bool = True,
) -> TrainResult:
    """Train a retriever in place for one stage; adapters are merged into its weights at the end.

    Called by every process of an ``accelerate launch`` or ``torchrun`` it trains one model on all of them: the batch is
    ``batch_size`` pairs on each, every query meets the candidates of all, and the weights are those that one process
    with the whole batch would have reached. Only the first process writes; all must see ``out``. Every process holds
    the model (see :mod:`puma.training.distributed`), or under accelerate's FSDP2 a part of it (tested on the CPU only).

    What is trained is fp32. A base that is frozen under adapters is held in ``config.frozen_type``; afterwards the
    weights have the type they will be saved in (``retriever.saved_dtype``), every sum of a weight and its adapter made
    in fp32.

    Args:
        retriever: trained in place.
        pairs: rows, as :func:`puma.training.pairs.read_pairs` gives them; the same on all processes.
        config: the stage.
        out: working folder: checkpoints and ``log.jsonl`` while it runs, ``log.json`` at the end. A run that was killed
            goes on from its last checkpoint when called again with the same configuration; the settings in
            :data:`puma.training.config.FREE` may differ, and the number of processes where
            :func:`puma.training.planned.is_movable` says so. With more steps than before it goes on at the rate
            that the longer run has at this step.
        vision: stored outputs of the frozen vision tower; not used where ``tower_rate`` or ``augment`` is set.
        teacher: needed where ``distillation_weight`` > 0. With ``teacher="store"`` what gives an item's target
            (:mod:`puma.training.teacher.store`); with ``teacher="shared"`` a
            :class:`puma.training.teacher.dual_depth.DualDepth` made of ``retriever.model``, which is cut to the student
            when training is done.
        validation: what ``eval_every`` evaluates on; only the first process needs it.
        fixed: refuse to go on with other settings than before, but for those that change no result: what follows this
            stage has begun.

    Raises:
        InputError: too few pairs, dimensions that the model does not have, a missing or unfit teacher or validation,
            ``out`` holds another configuration's checkpoints or more steps than ``config`` has, a package is not
            installed, or the settings do not go with FSDP2.
        DataError: more images than ``max_unreadable`` allows could not be read.
    """
    require("training", "train")
    check_nested(config.dimensions, retriever.dim)
    shared, targets = choose_teacher(retriever, config, teacher)
    check_report(config.report_to)
    if config.frozen_type == "4bit":
        check_four_bits()
    folder = Path(out)
    torch.manual_seed(config.seed)
    check_exits(retriever.model, config.exits)
    device = join()
    rank, ranks = processes()
    if config.eval_every and validation is None and rank == 0:
        raise InputError(f"eval_every={config.eval_every}: needs a validation, as Validation.read(data) gives it")
    batches = MixedTaskBatches(
        pairs, config.batch_size, seed=config.seed, balance=config.balance, ranks=ranks, rank=rank
    )
    last = latest_checkpoint(folder, clean=False)
    same_configuration(folder, config, len(pairs), fixed=fixed, movable=is_movable(config, last))
    before = moved_parts(last, config.accumulate)
    begun = resume(folder, config, planned_steps(config, batches, before))
    budget = Budget(config, begun.checkpoint)
    if budget.is_spent(begun.done):
        begun = replace(begun, steps=begun.done)
    if config.reads_pixels:
        retriever.vision = vision = None
    run = Run(batches, begun.steps * config.accumulate, before)
    if rank == 0:
        drop_bests(folder, begun.best)
    frozen_type = "fp32" if is_sharded() and config.base_precision == "auto" else config.frozen_type
    pipeline = _prepare_model(retriever, config, device, frozen_type, targets)
    workers = default_workers(pairs) if config.workers < 0 else config.workers
    narrow = frozen_type != "fp32" and device.type == "cuda" and vision is None
    trainer = _make_trainer(
        folder,
        config,
        run,
        pipeline,
        objective=RetrievalObjective.from_config(
            pipeline,
            config,
            shared_teacher=None if shared is None else SharedTeacher(shared, pipeline),
            student_map=map_of(pipeline),
            short=allows_short_last_layer(retriever.model),
        ),
        collator=_make_collator(pairs, retriever, config, vision, targets, torch.bfloat16 if narrow else None),
        watch_options={
            "evaluate": _evaluation(retriever, config, vision, validation),
            "unreadable": Unreadable(folder, pairs, config.max_unreadable, retriever.inputs).add,
            "budget": budget,
            "before": before,
        },
        tower=_tower_name(retriever.model),
        workers=workers,
        steps=begun.steps,
        show_progress=show_progress,
    )
    if trainer.is_fsdp_enabled:
        check_sharding(config)
    # FSDP2 cuts the model up in place; what is trained goes back into this whole copy.
    whole = copy.deepcopy(pipeline).cpu() if trainer.is_fsdp_enabled else None
    # Only where outputs are stored: not every family's tower takes the exchange of its class (LLaVA's does not).
    stored = stored_vision(retriever.model) if vision is not None else contextlib.nullcontext()
    tie = trainer.tie = tied_projector(retriever.model, config)
    with stored, worker_errors(workers), contextlib.nullcontext() if tie is None else tie.tied():
        outcome = trainer.train(resume_from_checkpoint=begun.checkpoint)
    best = _restore_best(trainer, folder, config)
    if whole is not None:
        whole.load_state_dict(trainer.whole_weights(), strict=False)
        whole.to(device)
        pipeline, retriever.model = whole, whole[0].model
    finish_model(retriever, pipeline, config, shared, frozen_type)
    retriever.exits = config.exits
    retriever.dimensions = config.dimensions if config.contrastive_weight else ()
    wait()  # all have listed what they could not use
    done = int(trainer.state.global_step)
    trained_pairs = (done - begun.done) * batches.global_size * config.accumulate
    result = TrainResult(
        log=entries(trainer.state.log_history),
        steps=done,
        pairs_per_second=trained_pairs / max(outcome.metrics["train_runtime"], 1e-9),
        best_step=best,
        unreadable=Unreadable(folder, pairs, config.max_unreadable).count,
        minutes=round(budget.seconds / 60, 2) if config.minutes else None,
    )
    if rank == 0:
        write_json(folder / "log.json", asdict(result))
    return result


def _tower_name(model: Any) -> str:
    tower = model.get_encoder("image")
    return next((name for name, module in model.named_modules() if module is tower), "")


def _prepare_model(
    retriever: Retriever, config: TrainConfig, device: torch.device, frozen_type: str, targets: Targets | None
) -> Any:
    """The retriever's model on its device as a ``SentenceTransformer`` of one module, with what is to be trained chosen
    and equal on all processes."""
    retriever.model.to(device).train()
    pipeline = sentence_transformer(retriever)
    del pipeline[1:]  # the objective pools; and accelerate's FSDP2 would take "Normalize" for the decoder's final norm
    choose_trainable(retriever, pipeline, config)
    hold(pipeline[0].model, frozen_type)
    if config.distillation_map:
        attach_map(pipeline, retriever.dim, targets)
    equalise(parameter for parameter in pipeline.parameters() if parameter.requires_grad)
    return pipeline


def _make_collator(
    pairs: Sequence[Pair],
    retriever: Retriever,
    config: TrainConfig,
    vision: VisionFeatures | None,
    targets: Targets | None,
    pixel_type: torch.dtype | None,
) -> EpochCollator:
    transforms = transforms_of(config)
    collator = PairCollator(
        pairs,
        retriever.inputs,
        config.chunks,
        vision,
        targets,
        hard_negatives=config.hard_negatives,
        transform=InTurn(transforms) if transforms else None,
        pixel_type=pixel_type,
        equal_chunks=is_sharded() or config.teacher_share < 1,
    )
    augment = Augmentation(retriever.inputs.processor.image_processor, config.seed) if config.augment else None
    return EpochCollator(collator, transforms, augment)


def _evaluation(
    retriever: Retriever, config: TrainConfig, vision: VisionFeatures | None, validation: Judge | None
) -> Any:
    """What makes the figures of the weights as they are; None where nothing is evaluated here."""
    if not config.eval_every or validation is None:
        return None
    return functools.partial(validation.figures, TrainingEncoder(retriever, vision, config.precision))


def _make_trainer(
    folder: Path,
    config: TrainConfig,
    run: Run,
    pipeline: Any,
    *,
    objective: RetrievalObjective,
    collator: EpochCollator,
    watch_options: dict[str, Any],
    tower: str,
    workers: int,
    steps: int,
    show_progress: bool,
) -> Any:
    # Here, since sentence-transformers is slow to import.
    from puma.training.callbacks import Watch
    from puma.training.trainer import RetrieverTrainer

    return RetrieverTrainer(
        model=pipeline,
        args=trainer_arguments(folder, config, steps, workers, tower=tower),
        train_dataset=Rows(len(run.batches.pairs)),
        batches=run,
        watch=Watch(folder, config, **watch_options),
        loss=objective,
        data_collator=collator,
        show_progress=show_progress,
    )


def _restore_best(trainer: Any, folder: Path, config: TrainConfig) -> int | None:
    """Give the model the weights of its best evaluation, where the stage keeps those, and return that step."""
    best = best_of(trainer.state.log_history) if config.eval_every and config.keep_best else None
    if best is None:
        return None
    if best[0] != trainer.state.global_step:
        wait()  # the first process has written them
        trainer.put_back(best_weights(folder, best[0]), str(folder))
    return best[0]
