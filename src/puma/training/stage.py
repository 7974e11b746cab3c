"""Training a retriever in the method's two stages on sentence-transformers' trainer: the run, resume, merge; on one
process or, started by ``accelerate launch`` or ``torchrun``, on several.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from puma.errors import InputError
from puma.retriever.encoding import VisionFeatures, stored_vision
from puma.retriever.model import Retriever
from puma.retriever.pooling import last_token_state
from puma.retriever.sentence_transformers import sentence_transformer
from puma.storage.folders import write_json
from puma.training.augmenting import Augmentation
from puma.training.budget import UNBOUNDED, Budget
from puma.training.collating import PairCollator, Targets
from puma.training.config import TrainConfig
from puma.training.distributed import equalise, join, processes, wait
from puma.training.dropout import ModalityDropout
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair
from puma.training.run_folder import best_weights, drop_bests, entries, history_of, same_configuration, step_of
from puma.training.sampling import MixedTaskBatches, Run
from puma.training.teacher.dual_depth import DualDepth
from puma.training.trainable import check_four_bits, checkpoint_activations, choose_trainable, hold, merge_adapters
from puma.training.trainer import Rows, Watch, check_report, latest_checkpoint, make_trainer_class, trainer_arguments
from puma.training.unreadable import Unreadable
from puma.training.validation import Validation, best_of, stalled
from puma.training.workers import default_workers, worker_errors


@dataclass(frozen=True)
class TrainResult:
    """What a stage did.

    Args:
        log: one dict a logging step, with ``step``, ``epoch``, ``loss``, the terms, and the shares ``share_hard`` and
            ``share_other`` of the negatives' weight; and one an evaluation, with ``step``, ``eval_hit_<task>`` and
            ``eval_hit_mean``.
        steps: done in all.
        pairs_per_second: over all processes, of the steps done by this call.
        best_step: the evaluation whose weights these are; None for the last step's.
        minutes: spent in all, where the configuration limits them.
        unreadable: pairs met whose image could not be used, and which were replaced; ``unreadable.jsonl`` in the
            working folder lists them.
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
    validation: Validation | None = None,
    fixed: bool = False,
    show_progress: bool = True,
) -> TrainResult:
    """Train a retriever in place for one stage; adapters are merged into its weights at the end.

    Called by every process of an ``accelerate launch`` or ``torchrun`` it trains one model on all of them: the batch is
    ``batch_size`` pairs on each, every query meets the candidates of all, and the weights are those that one process
    with the whole batch would have reached. Only the first process writes; all must see ``out``. Every process holds
    the model (see :mod:`puma.training.distributed`). Under accelerate's FSDP2 the weights are cut up over the processes instead,
    and put together again at the end. It is tested on the CPU only, by telling accelerate that it is an accelerator.

    What is trained is fp32. A base that is frozen under adapters is held in ``config.frozen_type``; afterwards the
    weights have the type they will be saved in (``retriever.saved_dtype``), every sum of a weight and its adapter made
    in fp32.

    Args:
        retriever: trained in place.
        pairs: rows, as :func:`puma.training.pairs.read_pairs` gives them; the same on all processes.
        config: the stage.
        out: working folder: checkpoints and ``log.jsonl`` while it runs, ``log.json`` at the end. A run that was killed
            goes on from its last checkpoint when called again with the same configuration on as many processes; the
            settings in :data:`puma.training.config.FREE` may differ. With more steps than before it goes on at the rate that
            the longer run has at this step.
        vision: stored outputs of the frozen vision tower; not used where ``tower_rate`` or ``augment`` is set.
        teacher: needed where ``distillation_weight`` > 0. With ``teacher="store"`` what gives an item's target
            (:mod:`puma.training.teacher.store`); with ``teacher="shared"`` a :class:`puma.training.teacher.dual_depth.DualDepth` made of
            ``retriever.model``, which is cut to the student when training is done.
        validation: what ``eval_every`` evaluates on; only the first process needs it.
        fixed: refuse to go on with other settings than before, but for those that change no result: what follows this
            stage has begun.

    Raises:
        InputError: too few pairs, a missing or unfit teacher or validation, ``out`` holds another configuration's
            checkpoints or more steps than are asked for, a package is not installed, or the settings do not go with
            FSDP2.
        DataError: more images than ``max_unreadable`` allows could not be read.
    """
    shared, targets = _teachers(retriever, config, teacher)
    check_report(config.report_to)
    if config.frozen_type == "4bit":
        check_four_bits()
    folder = Path(out)
    torch.manual_seed(config.seed)
    device = join()
    rank, ranks = processes()
    if config.eval_every and validation is None and rank == 0:
        raise InputError(f"eval_every={config.eval_every}: needs a validation, as Validation.read(data) gives it")
    batches = MixedTaskBatches(
        pairs, config.batch_size, seed=config.seed, balance=config.balance, ranks=ranks, rank=rank
    )
    same_configuration(folder, config, len(pairs), fixed=fixed)
    checkpoint = latest_checkpoint(folder, clean=rank == 0)
    done, history = step_of(checkpoint), history_of(checkpoint)
    budget = Budget(config, checkpoint)
    steps = done if budget.spent else _steps(config, batches)
    if config.reads_pixels:
        retriever.vision = vision = None
    if config.eval_every and config.patience and stalled(history) >= config.patience:
        steps = done  # it was stopped early, and killed before its end was written
    if steps < done:
        raise InputError(f"steps={steps}: {folder} has trained {done} already; give at least that many")
    run = Run(batches, steps * config.accumulate)
    if rank == 0:
        best = best_of(history)
        drop_bests(folder, best[0] if best else None)
    retriever.model.to(device).train()
    st = sentence_transformer(retriever)
    del st[1:]  # the objective pools; and accelerate's FSDP2 would take "Normalize" for the decoder's final norm
    choose_trainable(retriever, st, config)
    frozen_type = "fp32" if _sharded() and config.base_precision == "auto" else config.frozen_type
    hold(st[0].model, frozen_type)
    equalise(parameter for parameter in st.parameters() if parameter.requires_grad)
    objective = _objective(st, config, shared)
    dropout = ModalityDropout(config.modality_dropout, config.seed) if config.modality_dropout else None
    augment = Augmentation(retriever.inputs.processor.image_processor, config.seed) if config.augment else None
    collator = PairCollator(
        pairs,
        retriever.inputs,
        config.chunks,
        vision,
        targets,
        hard_negatives=config.hard_negatives,
        transform=dropout,
        pixel_type=torch.bfloat16 if frozen_type != "fp32" and device.type == "cuda" and vision is None else None,
    )
    workers = default_workers(pairs) if config.workers < 0 else config.workers
    evaluated = _Evaluated(retriever, vision, config.precision)
    ledger = Unreadable(folder, pairs, config.max_unreadable, retriever.inputs)
    watch = Watch(
        folder,
        config,
        evaluate=functools.partial(validation.figures, evaluated) if config.eval_every and validation else None,
        unreadable=ledger.add,
        budget=budget,
    )
    trainer = make_trainer_class()(
        model=st,
        args=trainer_arguments(folder, config, steps, workers, tower=_tower_name(retriever.model)),
        train_dataset=Rows(len(pairs)),
        batches=run,
        watch=watch,
        loss=objective,
        data_collator=EpochCollator(collator, dropout, augment),
        show_progress=show_progress,
    )
    if trainer.is_fsdp_enabled:
        _fits_sharding(config, shared)
    # FSDP2 cuts the model up where it stands; what is trained goes back into this copy of the whole.
    whole = copy.deepcopy(st).cpu() if trainer.is_fsdp_enabled else None
    # Only where outputs are stored: not every family's tower takes the exchange of its class (LLaVA's does not).
    stored = stored_vision(retriever.model) if vision is not None else contextlib.nullcontext()
    with stored, worker_errors(workers):
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
    best = best_of(trainer.state.log_history) if config.eval_every and config.keep_best else None
    if best is not None and best[0] != trainer.state.global_step:
        wait()  # the first process has written them
        trainer.put_back(best_weights(folder, best[0]), str(folder))
    if whole is not None:
        whole.load_state_dict(trainer.whole_weights(), strict=False)
        whole.to(device)
        st, retriever.model = whole, whole[0].model
    if config.lora_rank:
        target = torch.float32 if frozen_type == "fp32" else retriever.saved_dtype
        retriever.model = merge_adapters(st[0].model, target)
    if shared is not None:
        shared.cut()
    if config.gradient_checkpointing:
        checkpoint_activations(retriever.model, "disable")
    retriever.model.requires_grad_(False).eval()
    wait()  # all have listed what they could not use
    steps = int(trainer.state.global_step)
    met = (steps - done) * config.batch_size * config.accumulate * ranks
    result = TrainResult(
        log=entries(trainer.state.log_history),
        steps=steps,
        pairs_per_second=met / max(outcome.metrics["train_runtime"], 1e-9),
        best_step=best[0] if best is not None else None,
        unreadable=Unreadable(folder, pairs, config.max_unreadable).count,
        minutes=round(budget.seconds / 60, 2) if config.minutes else None,
    )
    if rank == 0:
        write_json(folder / "log.json", asdict(result))
    return result


def batches_of(pairs: Sequence[Pair], config: TrainConfig) -> Iterator[list[int]]:
    """The batches that :func:`train` will take on one process, in order, of all its epochs."""
    batches = MixedTaskBatches(pairs, config.batch_size, seed=config.seed, balance=config.balance)
    for batch in Run(batches, _steps(config, batches) * config.accumulate):
        yield [row for _, row in batch]


class SharedTeacher:
    """A :class:`~puma.training.teacher.dual_depth.DualDepth` as the objective asks it: by way of the trained pipeline, whose forward
    brings mixed precision and, under FSDP2, puts the weights together.

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


class _Evaluated:
    """The retriever as training computes it: under the same autocast, reading the same stored vision features."""

    mixed_instructions = True

    def __init__(self, retriever: Retriever, vision: VisionFeatures | None, precision: str) -> None:
        self._retriever = copy.copy(retriever)  # the model itself is shared
        self._retriever.vision = vision if vision is not None else retriever.vision
        self._retriever.autocast = torch.bfloat16 if precision == "bf16" else None

    @property
    def dim(self) -> int:
        return self._retriever.dim

    @property
    def fingerprint(self) -> str:
        return self._retriever.fingerprint

    def encode(self, items: Any, instruction: Any = None) -> Any:
        return self._retriever.encode(items, instruction)


class EpochCollator:
    """The collator, told whose epoch the rows are of, in whatever process it runs.

    Args:
        collator: makes the tensors.
        dropout: its transform, if any.
        augment: changes its image tensors, if given.
    """

    def __init__(
        self, collator: PairCollator, dropout: ModalityDropout | None, augment: Augmentation | None = None
    ) -> None:
        self.collator, self.dropout, self.augment = collator, dropout, augment

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        if self.dropout is not None:
            self.dropout.epoch = rows[0]["epoch"]
        batch = self.collator(rows)
        if self.augment is not None:
            place = (rows[0]["epoch"], rows[0]["row"])
            for number, key in enumerate(key for key in batch if key.endswith("pixel_values")):
                batch[key] = self.augment(batch[key], (*place, number))
        return batch


def _steps(config: TrainConfig, batches: MixedTaskBatches) -> int:
    if config.minutes and not config.steps:
        return UNBOUNDED
    return config.steps or max(1, math.ceil(config.epochs * len(batches) / config.accumulate))


def _tower_name(model: Any) -> str:
    tower = model.get_encoder("image")
    return next((name for name, module in model.named_modules() if module is tower), "")


def _sharded() -> bool:
    """Whether accelerate was told to cut the weights up over processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


def _objective(st: Any, config: TrainConfig, shared: DualDepth | None) -> RetrievalObjective:
    return RetrievalObjective(
        st,
        temperature=config.temperature,
        decay=config.decay,
        contrastive_weight=config.contrastive_weight,
        distillation_weight=config.distillation_weight,
        distillation=config.distillation,
        symmetric=config.symmetric,
        loss=config.loss,
        margin=config.margin,
        grad_cache=config.grad_cache,
        shared_teacher=SharedTeacher(shared, st) if shared is not None else None,
        teacher_share=config.teacher_share,
    )


def _teachers(
    retriever: Retriever, config: TrainConfig, teacher: Targets | DualDepth | None
) -> tuple[DualDepth | None, Targets | None]:
    """(shared backbone, stored targets) that this stage asks: at most one of them."""
    if config.distillation_weight == 0:
        if isinstance(teacher, DualDepth):
            raise InputError("teacher: a DualDepth, but distillation_weight=0 never asks it; leave it out")
        return None, None
    if teacher is None:
        raise InputError(
            "distillation_weight > 0 needs a teacher: give one of puma.training.teacher.store's targets, or a DualDepth with "
            "teacher='shared'"
        )
    if isinstance(teacher, DualDepth) != (config.teacher == "shared"):
        raise InputError(
            f"teacher={config.teacher!r} in the configuration, but {type(teacher).__name__} was given: 'shared' takes "
            "a DualDepth of the retriever's model, 'store' one of puma.training.teacher.store's targets"
        )
    if not isinstance(teacher, DualDepth):
        return None, teacher
    if teacher.student_model() is not retriever.model:
        raise InputError("teacher: a DualDepth of another model; make it of retriever.model")
    return teacher, None


def _fits_sharding(config: TrainConfig, shared: DualDepth | None) -> None:
    """Under FSDP2 all processes must reach the same weights equally often; what cannot promise that would hang."""
    faults = []
    if shared is not None:
        faults.append("teacher='shared': its deep layers are not cut up; take 'store'")
    if config.projector_rate:
        faults.append(f"projector_rate={config.projector_rate}: a process without pictures has no gradient; give 0")
    if config.tower_rate:
        faults.append(f"tower_rate={config.tower_rate}: a process without pictures has no gradient; give 0")
    if config.minutes:
        faults.append(f"minutes={config.minutes}: give steps")
    if config.grad_cache and config.hard_negatives:
        faults.append(f"grad_cache={config.grad_cache}: hard negatives make unequal numbers of parts; give 0 to one")
    if config.eval_every:
        faults.append(f"eval_every={config.eval_every}: one process alone cannot run a model that is cut up; give 0")
    if config.base_precision in ("bf16", "4bit"):
        faults.append(f"base_precision={config.base_precision!r}: weights of two types; give auto or fp32")
    if faults:
        raise InputError("FSDP2 does not go with " + "; ".join(faults))
