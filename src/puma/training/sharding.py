"""What goes with accelerate's FSDP2, which cuts the weights up over processes, and what does not."""

from __future__ import annotations

import os

from puma.errors import InputError
from puma.training.config import TrainConfig
from puma.training.teacher.dual_depth import DualDepth


def is_sharded() -> bool:
    """Whether accelerate's environment asks to cut the weights up over processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


def check_sharding(config: TrainConfig, shared: DualDepth | None) -> None:
    """Raise InputError with all settings that do not go with FSDP2: there all processes must reach the same weights
    equally often, and what cannot promise that would hang."""
    faults = []
    if shared is not None:
        faults.append("teacher='shared': its deep layers are not cut up; take 'store'")
    if config.distillation_map:
        faults.append("distillation_map=True: a layer outside the model's forward pass cannot be cut up; give false")
    if config.exits:
        faults.append(f"exits={list(config.exits)}: the final norm would run outside the forward pass; give none")
    if config.projector_rate:
        faults.append(f"projector_rate={config.projector_rate}: a process without images has no gradient; give 0")
    if config.tower_rate:
        faults.append(f"tower_rate={config.tower_rate}: a process without images has no gradient; give 0")
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
