"""The settings of one training stage: plain values, checked all together. Not here: the training (training)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from puma.errors import ConfigError
from puma.losses.distillation import KINDS

STAGES = ("distil", "retrieve")


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training. The defaults are the recipe's second stage (method.md) where they do not depend on the
    machine.

    Args:
        stage: ``distil`` (contrastive and distillation terms) or ``retrieve`` (MAC-Loss).
        steps: optimisation steps; 0 takes ``epochs``.
        epochs: passes over the queries where ``steps`` is 0.
        batch_size: pairs a step, on each device.
        chunks: length-sorted parts that a step's items are cut into.
        learning_rate: peak; it warms up linearly over ``warmup`` of the steps and falls by ``schedule`` to
            ``final_rate`` of itself.
        schedule: ``cosine`` or ``linear``.
        warmup, final_rate: fractions in [0, 1].
        projector_rate: learning rate of the vision projector; 0 leaves it frozen (the recipe).
        weight_decay, beta2, clip: AdamW's decay and second beta, gradient norm limit.
        temperature, decay: tau_norm and the decay of the hard temperature (0: plain InfoNCE).
        symmetric: average the candidates' view into the contrastive loss.
        contrastive_weight, distillation_weight: of the two terms.
        distillation: ``mse`` on raw states (the paper) or ``cosine``.
        balance: how a task's size weighs in the draw of a batch's tasks: 1 in proportion to the queries left, 0 all
            alike.
        lora_rank: 0 trains the decoder layers in full; else LoRA adapters of that rank on them.
        lora_alpha, lora_dropout: LoRA's scale and dropout.
        precision: ``fp32`` or ``bf16`` (autocast; weights and optimiser stay fp32).
        gradient_checkpointing: trade time for memory.
        save_steps: steps between checkpoints; 0 for an eighth of the run.
        seed: of batches and dropout.
    """

    stage: str = "retrieve"
    steps: int = 0
    epochs: float = 2.0
    batch_size: int = 150
    chunks: int = 4
    learning_rate: float = 3e-4
    schedule: str = "cosine"
    warmup: float = 0.03
    final_rate: float = 0.0
    projector_rate: float = 0.0
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip: float = 1.0
    temperature: float = 0.03
    decay: float = 0.5
    symmetric: bool = False
    contrastive_weight: float = 1.0
    distillation_weight: float = 0.0
    distillation: str = "mse"
    balance: float = 1.0
    lora_rank: int = 128
    lora_alpha: int = 256
    lora_dropout: float = 0.1
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    save_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [f"{name}={getattr(self, name)!r}: {rule}" for name, ok, rule in self._rules() if not ok]
        if faults:
            raise ConfigError("training configuration:\n  " + "\n  ".join(faults))

    def _rules(self) -> list[tuple[str, bool, str]]:
        def fraction(value: float) -> bool:
            return 0 <= value <= 1

        positive = [
            (n, getattr(self, n) > 0, "give a positive number") for n in ("learning_rate", "temperature", "clip")
        ]
        natural = [
            (n, isinstance(getattr(self, n), int) and getattr(self, n) >= 0, "give a whole number of at least 0")
            for n in ("steps", "save_steps", "lora_rank", "seed")
        ]
        return [
            *positive,
            *natural,
            ("stage", self.stage in STAGES, f"give one of {STAGES}"),
            ("schedule", self.schedule in ("cosine", "linear"), "give 'cosine' or 'linear'"),
            ("precision", self.precision in ("fp32", "bf16"), "give 'fp32' or 'bf16'"),
            ("epochs", self.steps > 0 or self.epochs > 0, "give a positive number, or steps"),
            ("batch_size", self.batch_size >= 2, "give at least 2: a contrastive loss needs negatives"),
            ("chunks", self.chunks >= 1, "give at least 1"),
            ("warmup", fraction(self.warmup), "give a fraction in [0, 1]"),
            ("final_rate", fraction(self.final_rate), "give a fraction in [0, 1]"),
            ("distillation", self.distillation in KINDS, f"give one of {KINDS}"),
            ("balance", fraction(self.balance), "give a number in [0, 1]"),
            ("decay", self.decay >= 0, "give at least 0"),
            ("projector_rate", self.projector_rate >= 0, "give at least 0"),
            ("distillation_weight", self.distillation_weight >= 0, "give at least 0"),
            ("lora_dropout", 0 <= self.lora_dropout < 1, "give a fraction in [0, 1)"),
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """From plain values, as in a recipe file.

        Raises:
            ConfigError: on unknown keys and unusable values, all of them in one message.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        faults = [f"{key}: no such setting; there are {sorted(known)}" for key in unknown]
        try:
            config = cls(**{key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            raise ConfigError("\n  ".join([str(error), *faults])) from None
        except TypeError as error:
            raise ConfigError("\n  ".join([f"training configuration: {error}", *faults])) from None
        if faults:
            raise ConfigError("training configuration:\n  " + "\n  ".join(faults))
        return config
