"""A stage's settings as the trainer's own arguments, and the check that the package for its report is installed."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from puma.errors import InputError
from puma.training.budget import UNBOUNDED
from puma.training.config import TrainConfig

UNBOUNDED_LOG = 10
"""Steps between log entries of a run that only its minutes end."""

REPORT_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
"""Packages that transformers reports with, one of which must be there."""


def check_report(report_to: str) -> None:
    """Raise InputError if the package that a log is reported with is not installed."""
    packages = REPORT_PACKAGES.get(report_to, ())
    if packages and not any(find_spec(name) for name in packages):
        raise InputError(f"report_to={report_to!r}: {packages[0]} is not installed; pip install {packages[0]}")


def trainer_arguments(folder: Path, config: TrainConfig, steps: int, workers: int = 0, tower: str = "") -> Any:
    """A stage's settings as sentence-transformers' training arguments. ``tower`` is the name of the model's vision
    tower."""
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments

    rates = {r".*multi_modal_projector.*": config.projector_rate} if config.projector_rate else {}
    if config.tower_rate:
        rates[rf"\.{re.escape(tower)}\."] = config.tower_rate
    cosine = config.schedule == "cosine"
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr" if cosine else "linear",
        lr_scheduler_kwargs={"min_lr_rate": config.final_rate} if cosine else {},
        # A warm-up's first step has a rate of 0: with a single step nothing would be trained.
        warmup_steps=0 if steps == 1 else max(1, round(config.warmup * steps)),
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.clip,
        learning_rate_mapping=rates,
        bf16=config.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=config.save_steps or max(1, steps // 8),
        save_total_limit=2,
        logging_steps=UNBOUNDED_LOG if steps >= UNBOUNDED else max(1, steps // 100),
        report_to=config.report_to,
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_drop_last=True,  # all our batches are whole; this spares a warning on several processes
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    # With several GPUs and no launcher the trainer would wrap the model in DataParallel, which cuts chunks by rows.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
