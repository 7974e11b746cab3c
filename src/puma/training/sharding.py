"""What goes with accelerate's FSDP2, which cuts the weights up over processes, and what does not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed, nn

from puma.errors import InputError
from puma.training.config import TrainConfig
from puma.training.teacher.dual_depth import PROJECTOR


def is_sharded() -> bool:
    """Whether accelerate's environment asks to cut the weights up over processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


def check_sharding(config: TrainConfig) -> None:
    """Raise InputError with all settings that do not go with FSDP2: there all processes must reach the same weights
    equally often, and what cannot promise that would hang."""
    faults = []
    if config.distillation_map:
        faults.append("distillation_map=True: a layer outside the model's forward pass cannot be cut up; give false")
    if config.exits:
        faults.append(f"exits={list(config.exits)}: the final norm would run outside the forward pass; give none")
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


class TiedProjector:
    """Gives a trained projector a gradient of zero where a process has no image: under FSDP2 all processes must reduce
    the same tensors, and one that has no gradient for the projector would leave the others with other sizes.

    The zero is added to the token embeddings, since a weight that is cut up can be used only within the model's forward
    pass. A step in which no process has an image must not move the projector, as it would not on a single process:
    :meth:`forget_unseen` takes the zeros away again.

    Args:
        model: the retriever's.
        projector: trained in it.
    """

    def __init__(self, model: Any, projector: nn.Module) -> None:
        self.table, self.projector = model.get_input_embeddings(), projector
        self._seen = False

    @contextlib.contextmanager
    def tied(self) -> Iterator[None]:
        """Within the block every forward pass reaches the projector's weights."""
        hooks = [
            self.projector.register_forward_hook(self._note),
            self.table.register_forward_hook(self._add_zero),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def forget_unseen(self) -> None:
        """Call before each optimisation step, on all processes: drops the gradients of a step without any image."""
        weights = [weight for weight in self.projector.parameters() if weight.requires_grad]
        seen = torch.tensor([int(self._seen)], device=weights[0].device)
        distributed.all_reduce(seen)
        self._seen = False
        if not int(seen):
            for weight in weights:
                weight.grad = None

    def _note(self, _module: nn.Module, _args: Any, _out: Any) -> None:
        self._seen = self._seen or torch.is_grad_enabled()

    def _add_zero(self, _module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return out
        zero = torch.zeros((), device=out.device)
        for weight in self.projector.parameters():
            if weight.requires_grad:
                zero = zero + weight.sum() * 0.0
        return out + zero.to(out.dtype)


def tied_projector(model: Any, config: TrainConfig) -> TiedProjector | None:
    """The tie of a model's projector, where one is trained and the weights are cut up."""
    if not config.projector_rate or not is_sharded():
        return None
    name = next(name for name, _ in model.named_modules() if name.endswith(PROJECTOR))
    return TiedProjector(model, model.get_submodule(name))
