"""Training a retriever in the method's two stages on sentence-transformers' trainer: configuration, the run, resume,
merge.

Here: :class:`TrainConfig`, :func:`train`. Not here: losses, batches (data), what the trainer is given to save and load
(checkpoints).

Source: method.md "The two stages".
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from puma.checkpoints import latest_checkpoint, make_trainer_class
from puma.data.collating import PairCollator, Targets
from puma.data.pairs import Pair
from puma.data.sampling import MixedTaskBatches
from puma.encoding import VisionFeatures, stored_vision
from puma.errors import InputError
from puma.folders import write_json
from puma.interchange import sentence_transformer
from puma.losses.objective import RetrievalObjective
from puma.model import Retriever
from puma.pruning import decoder_of
from puma.settings import TrainConfig

LORA_TARGETS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


@dataclass(frozen=True)
class TrainResult:
    """What a stage did: its log (one dict a logging step, with ``step``, ``loss`` and the terms), steps and pairs a
    second."""

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
    teacher: Targets | None = None,
    show_progress: bool = True,
) -> TrainResult:
    """Train a retriever in place for one stage; adapters are merged into its weights at the end.

    Args:
        retriever: trained in place, in fp32.
        pairs: rows, as :func:`puma.data.pairs.read_pairs` gives them.
        config: the stage.
        out: working folder: checkpoints while it runs, ``log.json`` at the end. A run that was killed goes on from its
            last checkpoint when called again with the same configuration.
        vision: stored outputs of the frozen vision tower.
        teacher: gives an item's target (:mod:`puma.teacher`); needed where ``distillation_weight`` >
            0.

    Raises:
        InputError: too few pairs, a missing teacher, or ``out`` holds another configuration's checkpoints.
    """
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers import SentenceTransformerTrainingArguments

    if config.distillation_weight > 0 and teacher is None:
        raise InputError("distillation_weight > 0 needs a teacher: give one of puma.teacher's targets")
    folder = Path(out)
    _same_configuration(folder, config, len(pairs))
    disable_progress_bars()
    torch.manual_seed(config.seed)
    retriever.model.float().train()
    st = sentence_transformer(retriever)
    _choose_trainable(retriever, st, config)
    sampler = batches_of(pairs, config)
    steps = config.steps or math.ceil(config.epochs * len(sampler))
    objective = RetrievalObjective(
        st,
        temperature=config.temperature,
        decay=config.decay,
        contrastive_weight=config.contrastive_weight,
        distillation_weight=config.distillation_weight,
        distillation=config.distillation,
        symmetric=config.symmetric,
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=f"{config.schedule}_with_min_lr" if config.schedule == "cosine" else "linear",
        lr_scheduler_kwargs={"min_lr_rate": config.final_rate} if config.schedule == "cosine" else {},
        warmup_steps=max(1, round(config.warmup * steps)),
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.clip,
        learning_rate_mapping={r".*multi_modal_projector.*": config.projector_rate} if config.projector_rate else {},
        bf16=config.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=config.save_steps or max(1, steps // 8),
        save_total_limit=2,
        logging_steps=max(1, steps // 100),
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        batch_sampler=lambda dataset, **_: sampler,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        **({_checkpointing_flag(): True} if config.gradient_checkpointing else {}),
    )
    trainer = make_trainer_class()(
        model=st,
        args=arguments,
        train_dataset=Dataset.from_dict({"row": list(range(len(pairs)))}),
        loss=objective,
        data_collator=PairCollator(
            pairs, retriever.inputs, config.chunks, vision, teacher if config.distillation_weight else None
        ),
        show_progress=show_progress,
    )
    with stored_vision(retriever.model):
        outcome = trainer.train(resume_from_checkpoint=latest_checkpoint(folder))
    if config.lora_rank:
        retriever.model = st[0].model.merge_and_unload()
    retriever.model.requires_grad_(False).eval()
    log = [{k: float(v) for k, v in entry.items()} for entry in trainer.state.log_history if "loss" in entry]
    rate = steps * config.batch_size / max(outcome.metrics["train_runtime"], 1e-9)
    result = TrainResult(log=log, steps=steps, pairs_per_second=rate)
    write_json(folder / "log.json", asdict(result))
    return result


def batches_of(pairs: Sequence[Pair], config: TrainConfig) -> MixedTaskBatches:
    """The batches that :func:`train` will take, in order."""
    return MixedTaskBatches(pairs, config.batch_size, seed=config.seed, balance=config.balance)


def _checkpointing_flag() -> str:
    """The setting's name: transformers renamed it in version 5.20 or so, and warns of the old one."""
    from transformers import TrainingArguments

    names = {field.name for field in fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def _choose_trainable(retriever: Retriever, st: Any, config: TrainConfig) -> None:
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
        model.enable_input_require_grads()


def _same_configuration(folder: Path, config: TrainConfig, rows: int) -> None:
    import json

    described = {**asdict(config), "rows": rows}
    path = folder / "config.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != described:
            changed = sorted(k for k in described if before.get(k) != described[k])
            raise InputError(
                f"{folder}: holds a run with other settings ({', '.join(changed)}); give another folder or remove it"
            )
    else:
        write_json(path, described)
