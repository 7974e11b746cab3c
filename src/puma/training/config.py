"""The settings of one training stage: plain values, checked all together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from puma.errors import ConfigError
from puma.training.config_rules import OTHER_WEIGHT, rules_of

LENGTHS = ("steps", "minutes", "least_steps", "epochs")
"""The settings that say how long a stage is."""
FREE = (*LENGTHS, "eval_every", "patience", "save_steps", "workers", "report_to", "max_unreadable")
"""Settings that may differ when a run goes on from its checkpoints: all others shape what is already trained."""


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training. The defaults are those of stage 2 (docs/method.md), the machine's own aside.

    Args:
        stage: ``distil`` (contrastive and distillation terms) or ``retrieve`` (the contrastive term).
        steps: optimisation steps; 0 takes ``epochs``.
        epochs: passes over the queries where ``steps`` and ``minutes`` are 0.
        minutes: wall time after which training ends, if ``steps`` do not end it before; 0 for none. Learning rate and
            ``decay`` follow the time spent. A resumed run goes on with what was left at its last checkpoint.
        least_steps: with ``minutes``, steps that are taken even if the minutes are over before: what a slow machine
            needs for a useful model. Learning rate and ``decay`` then follow these steps. ``steps`` still end it.
        batch_size: pairs a batch, on each device.
        accumulate: batches whose gradients are averaged before a step. Each batch is contrasted by itself, so this
            brings no more negatives; for one large batch in little memory give ``grad_cache``.
        chunks: length-sorted parts that a step's items are cut into at most, so that little is padding; exactly as
            many under FSDP2 and where ``teacher_share`` is below 1.
        learning_rate: peak; it warms up linearly over ``warmup`` of the steps and falls by ``schedule`` to
            ``final_rate`` of itself.
        schedule: ``cosine`` or ``linear``.
        warmup, final_rate: fractions in [0, 1].
        projector_rate: learning rate of the vision projector; 0 leaves it frozen (the recipe).
        tower_rate: learning rate of the vision tower; 0 leaves it frozen (the recipe). Its batch statistics stay.
        augment: whether images are turned, scaled, shifted, mirrored and recoloured a little
            (:class:`puma.training.augmenting.Augmentation`). With this or ``tower_rate`` stored vision features are
            not used.
        weight_decay, beta2, clip: AdamW's decay and second beta, gradient norm limit.
        loss: the contrastive term, one of :data:`puma.losses.LOSSES`; ``mac`` is the paper's, ``split-mac`` also keeps
            candidates of the wrong modality away.
        other_weight: of the second term of ``split-mac``, candidates of other modalities
            (:func:`puma.losses.split_mac_loss`); no other loss reads it. 0.5 measured best (docs/results.md).
        temperature, decay: tau_norm and the decay of the hard temperature (0: plain InfoNCE).
        margin: a candidate that scores above the positive by more than this (in cosine) is taken for a false negative;
            None masks known ones only (the paper).
        dimensions: lengths that vectors may be cut to, rising, below the model's width, as ``(64, 128, 256)``: the
            contrastive term is the mean over them and the full width (:mod:`puma.losses.matryoshka`). ``()`` for none.
        hard_negatives: explicit negatives of each query that join its batch, of those the data names.
        grad_cache: items a forward pass where a batch is too large for the memory: the gradients are those of the
            whole batch (GradCache). 0 runs it in one piece.
        symmetric: average the candidates' view into the contrastive loss.
        contrastive_weight, distillation_weight: of the two terms.
        distillation: ``mse`` on raw states (the paper), ``cosine``, ``relational`` or ``row-softmax``
            (:func:`puma.losses.distillation_loss`).
        distillation_temperature, distillation_centre: its temperature, for ``row-softmax``, and whose mean over a batch
            is subtracted first: ``none``, the ``teacher``'s, or ``both``.
        distillation_within: ``relational`` and ``row-softmax`` compare an item with all of its ``batch``, or only with
            those that are searched for alike (``modality``): queries for a modality, and the candidates of it.
        distillation_map: learn a linear map from the student's states to the teacher's, for the distillation alone;
            needed by ``mse`` and ``cosine`` where their widths differ.
        items_only: with ``stage="distil"``: read the data's items without its pairs, so unlabelled ones too.
        teacher: with distillation, ``store`` reads targets from where they were kept; ``shared`` computes them with the
            very backbone that is trained, adapters off, all layers (:mod:`puma.training.teacher.dual_depth`); a path
            with a slash is the folder of a trained retriever or of a sentence-transformers model of texts;
            ``all-minilm-l6-v2`` is such a model, fetched for ``base: mini``.
        teacher_share: with a shared teacher, the part of a step's ``chunks`` that it is asked about, drawn anew each
            step: 0.25 of four chunks costs a quarter of the teacher and is the same loss in expectation.
        exits: elastic depth: numbers of decoder layers, below the model's own, at which it is trained to be cut too
            (:mod:`puma.training.exits`); ``--layers`` then loads it with so few.
        exit_weight: of an exit's contrastive loss, beside 1 for the model's end.
        exit_distillation: of a further term, in which each exit learns the end's similarities in the batch, as rows
            softmaxed at ``distillation_temperature``; 0 for none.
        modality_dropout: how often the image or the text of an image+text query is withheld, in [0, 1]
            (:class:`puma.training.dropout.ModalityDropout`).
        any_share: the share of the rows whose query asks for no modality, in [0, 1): they get the general instruction
            of a search for any modality, and the losses count all candidates as of the query's own
            (:class:`puma.training.any_modality.AnyModality`). It needs data that tells what else is right
            (``same_concept`` of a recipe does): what it does not tell is a negative, in every modality. A target that
            was stored for the row's own instruction is not used for such a query.
        balance: how a task's size weighs in the draw of a batch's tasks: 1 in proportion to the queries left, 0 all
            alike.
        lora_rank: 0 trains the decoder layers in full; else LoRA adapters of that rank on them.
        lora_alpha, lora_dropout: LoRA's scale and dropout.
        precision: ``fp32`` or ``bf16`` (autocast; what is trained and the optimiser stay fp32).
        base_precision: the type that the frozen weights under LoRA adapters are held in: ``fp32``, ``bf16``, ``4bit``
            (bitsandbytes' nf4, the decoder layers' linear weights, CUDA only), or ``auto``: ``bf16`` with LoRA and
            ``precision="bf16"``, else ``fp32``. What is trained is always fp32.
        gradient_checkpointing: trade time for memory: activations are computed again in the backward pass.
        eval_every: steps between evaluations on the data's val split; 0 for none. The last step is evaluated too.
        eval_queries: queries of a task that an evaluation asks at most; 0 for all.
        keep_best: with ``eval_every``, the weights of the best evaluation are the result, not the last ones.
        patience: evaluations without a gain after which training stops; 0 never stops early.
        report_to: where the log goes beside its files: ``none``, ``tensorboard``, ``wandb`` or ``trackio``.
        max_unreadable: the share of the rows met whose image may be unreadable, in [0, 1]; they are replaced, and
            training stops above it.
        workers: processes that prepare batches ahead; 0 prepares them in the training process, -1 goes by the cores.
        save_steps: steps between checkpoints; 0 for an eighth of the run.
        seed: of batches and dropout.
    """

    stage: str = "retrieve"
    steps: int = 0
    epochs: float = 2.0
    minutes: float = 0.0
    least_steps: int = 0
    batch_size: int = 150
    accumulate: int = 1
    chunks: int = 4
    learning_rate: float = 3e-4
    schedule: str = "cosine"
    warmup: float = 0.03
    final_rate: float = 0.0
    projector_rate: float = 0.0
    tower_rate: float = 0.0
    augment: bool = False
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip: float = 1.0
    loss: str = "split-mac"
    other_weight: float = OTHER_WEIGHT
    temperature: float = 0.03
    decay: float = 0.5
    margin: float | None = None
    dimensions: tuple[int, ...] = ()
    hard_negatives: int = 0
    grad_cache: int = 0
    symmetric: bool = False
    contrastive_weight: float = 1.0
    distillation_weight: float = 0.0
    distillation: str = "mse"
    distillation_temperature: float = 0.05
    distillation_centre: str = "none"
    distillation_within: str = "batch"
    distillation_map: bool = False
    items_only: bool = False
    teacher: str = "store"
    teacher_share: float = 1.0
    exits: tuple[int, ...] = ()
    exit_weight: float = 1.0
    exit_distillation: float = 0.0
    modality_dropout: float = 0.0
    any_share: float = 0.0
    balance: float = 1.0
    lora_rank: int = 128
    lora_alpha: int = 256
    lora_dropout: float = 0.1
    precision: str = "bf16"
    base_precision: str = "auto"
    gradient_checkpointing: bool = False
    eval_every: int = 0
    eval_queries: int = 200
    keep_best: bool = True
    patience: int = 0
    report_to: str = "none"
    max_unreadable: float = 0.01
    workers: int = -1
    save_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {field.name: _KINDS[str(field.type)] for field in fields(self) if not self._has_its_type(field)}
        # Every rule is checked, so that all faults come together, but none that reads a value of a wrong type.
        broken = [
            (name, rule) for name, names, holds, rule in rules_of(self) if not wrong.keys() & set(names) and not holds()
        ]
        faults = [f"{name}={getattr(self, name)!r}: {rule}" for name, rule in [*wrong.items(), *broken]]
        if faults:
            raise ConfigError("training configuration:\n  " + "\n  ".join(faults))

    def _has_its_type(self, field: Any) -> bool:
        value, kind = getattr(self, field.name), str(field.type)
        if kind == "float | None" and value is None:
            return True
        if kind == "tuple[int, ...]":
            return isinstance(value, tuple) and all(type(number) is int for number in value)
        if kind in ("str", "bool"):
            return isinstance(value, str if kind == "str" else bool)
        number = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value)

    @property
    def reads_pixels(self) -> bool:
        """Whether images must go through the vision tower, so that stored features are of no use."""
        return self.tower_rate > 0 or self.augment

    @property
    def frozen_type(self) -> str:
        """What ``base_precision`` comes to: ``fp32``, ``bf16`` or ``4bit``."""
        if self.base_precision != "auto":
            return self.base_precision
        return "bf16" if self.lora_rank > 0 and self.precision == "bf16" else "fp32"

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
            config = cls(**{key: _as_tuple(value) for key, value in values.items() if key in known})
        except ConfigError as error:
            raise ConfigError("\n  ".join([str(error), *faults])) from None
        except TypeError as error:
            raise ConfigError("\n  ".join([f"training configuration: {error}", *faults])) from None
        if faults:
            raise ConfigError("training configuration:\n  " + "\n  ".join(faults))
        return config


def _as_tuple(value: Any) -> Any:
    """A list of a recipe file as the tuple that a setting is."""
    return tuple(value) if isinstance(value, list) else value


_KINDS = {
    "str": "give a string",
    "int": "give a whole number",
    "float": "give a number (in YAML 3e-4 is a string: write 3.0e-4)",
    "float | None": "give a number, or None",
    "bool": "give true or false",
    "tuple[int, ...]": "give a list of whole numbers",
}
"""What to give a key of each type."""
