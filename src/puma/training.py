"""Training a retriever in the method's two stages on sentence-transformers' trainer: the run, resume, merge; on one
process or, started by ``accelerate launch`` or ``torchrun``, on several.

Here: :func:`train`. Not here: its settings (settings), losses, batches (data), the trainer and what it saves and loads
(checkpoints), the exchange between processes (replicas).

Source: method.md "The two stages".
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from puma.checkpoints import Rows, latest_checkpoint, make_trainer_class, trainer_arguments
from puma.data.collating import PairCollator, Targets
from puma.data.dropout import ModalityDropout
from puma.data.pairs import Pair
from puma.data.sampling import MixedTaskBatches, Run
from puma.dual_depth import DualDepth
from puma.encoding import VisionFeatures, stored_vision
from puma.errors import InputError
from puma.folders import write_json
from puma.interchange import sentence_transformer
from puma.losses.objective import RetrievalObjective
from puma.model import Retriever
from puma.pooling import last_token_state
from puma.pruning import decoder_of
from puma.replicas import equalise, join, processes
from puma.settings import TrainConfig

LORA_TARGETS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


@dataclass(frozen=True)
class TrainResult:
    """What a stage did: its log (one dict a logging step, with ``step``, ``epoch``, ``loss``, the terms, and the shares
    ``share_hard`` and ``share_other`` of the negatives' weight), steps and pairs a second over all processes."""

    log: list[dict[str, float]]
    steps: int
    pairs_per_second: float


def train(
    retriever: Retriever,
    pairs: Sequence[Pair],
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    vision: VisionFeatures | None = None,
    teacher: Targets | DualDepth | None = None,
    show_progress: bool = True,
) -> TrainResult:
    """Train a retriever in place for one stage; adapters are merged into its weights at the end.

    Called by every process of an ``accelerate launch`` or ``torchrun`` it trains one model on all of them: the batch is
    ``batch_size`` pairs on each, every query meets the candidates of all, and the weights are those that one process
    with the whole batch would have reached. Only the first process writes; all must see ``out``. Every process holds
    the model (see :mod:`puma.replicas`). Under accelerate's FSDP2 the weights are cut up over the processes instead,
    and put together again at the end. It is tested on the CPU only, by telling accelerate that it is an accelerator.

    Args:
        retriever: trained in place, in fp32.
        pairs: rows, as :func:`puma.data.pairs.read_pairs` gives them; the same on all processes.
        config: the stage.
        out: working folder: checkpoints while it runs, ``log.json`` at the end. A run that was killed goes on from its
            last checkpoint when called again with the same configuration on as many processes.
        vision: stored outputs of the frozen vision tower.
        teacher: needed where ``distillation_weight`` > 0. With ``teacher="store"`` what gives an item's target
            (:mod:`puma.teacher`); with ``teacher="shared"`` a :class:`puma.dual_depth.DualDepth` made of
            ``retriever.model``, which is cut to the student when training is done.

    Raises:
        InputError: too few pairs, a missing or unfit teacher, ``out`` holds another configuration's checkpoints, or
            the settings do not go with FSDP2.
    """
    shared, targets = _teachers(retriever, config, teacher)
    folder = Path(out)
    torch.manual_seed(config.seed)
    device = join()
    rank, ranks = processes()
    batches = MixedTaskBatches(
        pairs, config.batch_size, seed=config.seed, balance=config.balance, ranks=ranks, rank=rank
    )
    run = Run(batches, _steps(config, batches))
    _same_configuration(folder, config, len(pairs))
    retriever.model.float().to(device).train()
    st = sentence_transformer(retriever)
    del st[1:]  # the objective pools; and accelerate's FSDP2 would take "Normalize" for the decoder's final norm
    choose_trainable(retriever, st, config)
    equalise(parameter for parameter in st.parameters() if parameter.requires_grad)
    objective = RetrievalObjective(
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
    dropout = ModalityDropout(config.modality_dropout, config.seed) if config.modality_dropout else None
    collator = PairCollator(
        pairs,
        retriever.inputs,
        config.chunks,
        vision,
        targets,
        hard_negatives=config.hard_negatives,
        transform=dropout,
    )
    trainer = make_trainer_class()(
        model=st,
        args=trainer_arguments(folder, config, run.steps),
        train_dataset=Rows(len(pairs)),
        batches=run,
        loss=objective,
        data_collator=EpochCollator(collator, dropout),
        show_progress=show_progress,
    )
    if trainer.is_fsdp_enabled:
        _fits_sharding(config, shared)
    # FSDP2 cuts the model up where it stands; what is trained goes back into this copy of the whole.
    whole = copy.deepcopy(st).cpu() if trainer.is_fsdp_enabled else None
    # Only where outputs are stored: not every family's tower takes the exchange of its class (LLaVA's does not).
    with stored_vision(retriever.model) if vision is not None else contextlib.nullcontext():
        outcome = trainer.train(resume_from_checkpoint=latest_checkpoint(folder, clean=rank == 0))
    if whole is not None:
        whole.load_state_dict(trainer.whole_weights(), strict=False)
        whole.to(device)
        st, retriever.model = whole, whole[0].model
    if config.lora_rank:
        retriever.model = st[0].model.merge_and_unload()
    if shared is not None:
        shared.cut()
    if config.gradient_checkpointing:
        _checkpoint_activations(retriever.model, "disable")
    retriever.model.requires_grad_(False).eval()
    log = [{k: float(v) for k, v in entry.items()} for entry in trainer.state.log_history if "loss" in entry]
    rate = run.steps * config.batch_size * ranks / max(outcome.metrics["train_runtime"], 1e-9)
    result = TrainResult(log=log, steps=run.steps, pairs_per_second=rate)
    if rank == 0:
        write_json(folder / "log.json", asdict(result))
    return result


def batches_of(pairs: Sequence[Pair], config: TrainConfig) -> Iterator[list[int]]:
    """The batches that :func:`train` will take on one process, in order, of all its epochs."""
    batches = MixedTaskBatches(pairs, config.batch_size, seed=config.seed, balance=config.balance)
    for batch in Run(batches, _steps(config, batches)):
        yield [row for _, row in batch]


class SharedTeacher:
    """A :class:`~puma.dual_depth.DualDepth` as the objective asks it: by way of the trained pipeline, whose forward
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


class EpochCollator:
    """The collator, told whose epoch the rows are of, in whatever process it runs.

    Args:
        collator: makes the tensors.
        dropout: its transform, if any.
    """

    def __init__(self, collator: PairCollator, dropout: ModalityDropout | None) -> None:
        self.collator, self.dropout = collator, dropout

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        if self.dropout is not None:
            self.dropout.epoch = rows[0]["epoch"]
        return self.collator(rows)


def _steps(config: TrainConfig, batches: MixedTaskBatches) -> int:
    return config.steps or math.ceil(config.epochs * len(batches))


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
            "distillation_weight > 0 needs a teacher: give one of puma.teacher's targets, or a DualDepth with "
            "teacher='shared'"
        )
    if isinstance(teacher, DualDepth) != (config.teacher == "shared"):
        raise InputError(
            f"teacher={config.teacher!r} in the configuration, but {type(teacher).__name__} was given: 'shared' takes "
            "a DualDepth of the retriever's model, 'store' one of puma.teacher's targets"
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
    if config.grad_cache and config.hard_negatives:
        faults.append(f"grad_cache={config.grad_cache}: hard negatives make unequal numbers of parts; give 0 to one")
    if faults:
        raise InputError("FSDP2 does not go with " + "; ".join(faults))


def _checkpoint_activations(model: Any, switch: str) -> None:
    """``enable`` or ``disable`` it in the decoder, which alone has a backward pass worth it. Not by the trainer's own
    setting, which asks sentence-transformers for a method that it lacks (6.2)."""
    decoder = decoder_of(model)
    # transformers renamed it in version 5.20 or so, and warns of the old name
    named = "activation" if hasattr(decoder, "activation_checkpointing_enable") else "gradient"
    options = ({"use_reentrant": False},) if switch == "enable" else ()
    getattr(decoder, f"{named}_checkpointing_{switch}")(*options)


def choose_trainable(retriever: Retriever, st: Any, config: TrainConfig) -> None:
    """Leave the vision tower and the token embeddings frozen; train the decoder's layers, in full or by adapters."""
    model = retriever.model
    model.requires_grad_(False)
    decoder = decoder_of(model)
    if config.lora_rank:
        from peft import LoraConfig, get_peft_model

        path = "".join(f"{name}." for name, module in model.named_modules() if module is decoder and name)
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            # On the decoder's own path: a bare layer pattern would also hit LLaVA's and Gemma3's vision towers.
            target_modules=rf"{path}layers\.\d+\..*({LORA_TARGETS})",
        )
        st[0].model = get_peft_model(model, lora)
    else:
        decoder.layers.requires_grad_(True)
        decoder.norm.requires_grad_(True)
    projector = getattr(model, "multi_modal_projector", None)
    if config.projector_rate:
        if projector is None:
            raise InputError("projector_rate: this family has no 'multi_modal_projector' of its own; set it to 0")
        projector.requires_grad_(True)
    if config.gradient_checkpointing:
        _checkpoint_activations(model, "enable")


def _same_configuration(folder: Path, config: TrainConfig, rows: int) -> None:
    rank, ranks = processes()
    described = {**asdict(config), "rows": rows, "processes": ranks}
    path = folder / "config.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != described:
            changed = sorted(k for k in described if before.get(k) != described[k])
            raise InputError(
                f"{folder}: holds a run with other settings ({', '.join(changed)}); give another folder or remove it"
            )
    elif rank == 0:
        write_json(path, described)
