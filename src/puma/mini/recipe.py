"""What the quickstart trains, and how long: found by measurement on two cores (docs/log.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from puma.mini.base.settings import BaseSettings
from puma.retriever.encoding import has_fast_bf16
from puma.training.config import TrainConfig

SHARED: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 1e-3,
    "projector_rate": 1e-5,
    "lora_rank": 0,
    "symmetric": True,
    "balance": 0.3,
    "warmup": 0.05,
    "final_rate": 0.1,
    "weight_decay": 0.01,
    "beta2": 0.98,
}
"""What both stages have in common: the six layers in full, at a rate that ten times more steps would not bear."""


@dataclass(frozen=True)
class Recipe:
    """The quickstart's plan.

    Args:
        base: how the mini base is put together.
        layers: decoder layers kept of 30.
        prompt: the student's prompt format by name, and ``teacher_prompt`` the teacher's, which may differ: what passes
            between them is a state, not a reading.
        rows_per_query: positives of one query that are read.
        distil: stage 1, on pairs of texts; 0 steps leave it out.
        retrieve: stage 2, on all tasks.
    """

    base: BaseSettings = field(default_factory=lambda: BaseSettings(image_size=96))
    layers: int = 6
    prompt: str = "short"
    teacher_prompt: str = "open-quote"
    rows_per_query: int = 4
    distil: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            stage="distil",
            steps=25,
            contrastive_weight=0.3,
            distillation_weight=3.0,
            distillation="cosine",
            decay=0.0,
            temperature=0.05,
            **SHARED,
        )
    )
    retrieve: TrainConfig = field(default_factory=lambda: TrainConfig(steps=480, temperature=0.03, decay=0.5, **SHARED))

    def for_this_machine(self) -> Recipe:
        """The same plan in fp32 where bf16 would be emulated."""
        if has_fast_bf16():
            return self
        stages = {name: replace(getattr(self, name), precision="fp32") for name in ("distil", "retrieve")}
        return replace(self, **stages)

    def describe(self) -> dict[str, Any]:
        """Plain values, for telling one plan from another."""
        return asdict(self)
