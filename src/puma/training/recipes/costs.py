"""What a training stage costs, from a base's shape alone: parameters, memory, FLOPs. No weights, no download.

Parameters are counted on a model on the meta device, each in the type that training holds it in. Activations and FLOPs
are not put together from formulas but read off the real decoder's layers (step_work).

What is left out: the optimiser's own temporaries, fragmentation, the loss, what a trained tower keeps for its backward
pass. ``benchmarks/shape.py`` puts the estimate
beside what a GPU measures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from puma.errors import ConfigError
from puma.pruning import count_parameters, decoder_of
from puma.pruning.shapes import counted_model, image_shape
from puma.training.chunking import equal_chunks
from puma.training.config import TrainConfig
from puma.training.recipes.step_work import decoder_work, trainable_parameters, vision_bytes, vision_flops, weight_bytes

RULE = (
    "Parameters of the vision tower, the projector, the decoder layers, the norms, and (first figure) the token "
    "embeddings, each counted once. A retriever has no LM head; the base as published is counted with its own."
)
GRADIENT_BYTES, OPTIMISER_BYTES = 4, 8
"""Of each parameter that moves: its gradient in fp32, and AdamW's two fp32 moments."""
TEACHER_BYTES = 2
"""What only a teacher reads, a second model or the deep layers of the same, stays as it was saved: bf16."""


@dataclass(frozen=True)
class Workload:
    """What a step is assumed to hold; a dry run has no data to look at.

    Args:
        text_tokens: of an item without its image: instruction, text, template, ``[RET]``.
        image_tokens: of an image, where the family reads images at their own size; None for 256.
        distil_images, retrieve_images: the share of a stage's items that hold an image, in [0, 1].
    """

    text_tokens: int = 64
    image_tokens: int | None = None
    distil_images: float = 0.0
    retrieve_images: float = 0.5

    def __post_init__(self) -> None:
        faults = []
        if self.text_tokens < 1:
            faults.append(f"text_tokens={self.text_tokens}: give at least 1")
        if self.image_tokens is not None and self.image_tokens < 1:
            faults.append(f"image_tokens={self.image_tokens}: give at least 1")
        for name in ("distil_images", "retrieve_images"):
            if not 0 <= getattr(self, name) <= 1:
                faults.append(f"{name}={getattr(self, name)}: give a fraction in [0, 1]")
        if faults:
            raise ConfigError("workload:\n  " + "\n  ".join(faults))

    def images(self, stage: str) -> float:
        """The share of a stage's items that hold an image."""
        return self.distil_images if stage == "distil" else self.retrieve_images


@dataclass(frozen=True)
class StageCost:
    """One step of one stage on one device.

    Args:
        items: queries and candidates of a step; ``tokens`` is what the decoder reads of them, padding included.
        trainable: parameters that move.
        memory: bytes: ``weights`` (frozen ones in the stage's ``frozen_type``), ``gradients``, ``optimiser``,
            ``activations`` (kept for the backward pass) with and without checkpointing, ``working`` (one layer's
            gradients, the vision tower's inside), ``teacher``, and ``total`` as the stage is set; ``total_plain`` and
            ``total_checkpointed`` as it might be.
        flops: ``vision`` (forward), ``forward``, ``backward`` and ``recompute`` of the decoder, ``teacher``, ``total``.
            A multiplication and an addition are two. Attention is counted whole, not its causal half.
    """

    stage: str
    layers: int
    items: int
    tokens: int
    trainable: int
    memory: dict[str, int] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)


def estimate(
    config: Any, layers: int | None, stages: list[TrainConfig], workload: Workload, *, keep_last: bool = False
) -> dict[str, Any]:
    """What ``puma train --dry-run`` tells: parameters, and every stage beside the unpruned model.

    Args:
        config: of the unpruned base.
        layers: decoder layers kept; None keeps all.
        stages: in order.
        workload: what a step holds.

    Returns:
        Plain values: ``rule``, ``layers``, ``parameters`` (``base``, ``unpruned``, ``kept``, each with
        ``total`` and ``without_embeddings``), ``stages``: for each ``cost``, ``unpruned`` (the same step at full
        depth, no teacher) and, where it distils, ``two_models`` (a second full model as teacher).

    Raises:
        InputError: ``layers`` out of range.
    """
    student = counted_model(config, layers, keep_last=keep_last)
    full = counted_model(config)
    depth, whole = len(decoder_of(student).layers), len(decoder_of(full).layers)
    rows = []
    for stage in stages:
        cost = stage_cost(config, stage, workload, depth)
        row: dict[str, Any] = {"cost": asdict(cost), "unpruned": asdict(stage_cost(config, _alone(stage), workload))}
        if stage.distillation_weight > 0:
            row["two_models"] = asdict(stage_cost(config, stage, workload, depth, teacher="second model"))
        rows.append(row)
    return {
        "rule": RULE,
        "layers": {"kept": depth, "of": whole, "keep_last": keep_last},
        "parameters": {
            "base": count_parameters(counted_model(config, head=True)),
            "unpruned": count_parameters(full),
            "kept": count_parameters(student),
        },
        "workload": asdict(workload),
        "stages": rows,
    }


def stage_cost(
    config: Any, train: TrainConfig, workload: Workload, layers: int | None = None, *, teacher: str | None = None
) -> StageCost:
    """One step of a stage at a depth.

    Args:
        config: of the unpruned base.
        train: the stage.
        workload: what a step holds.
        layers: decoder layers; None for all. Which ones they are costs nothing.
        teacher: ``store`` (states read from disk), ``shared`` (the same backbone, deep) or ``second model``; None for
            what the stage says, which has none where it does not distil.
    """
    model = counted_model(config, layers)
    depth = len(decoder_of(model).layers)
    total = sum(p.numel() for p in model.parameters())
    trainable, _ = trainable_parameters(config, train, depth)
    tokens, patches = image_shape(config, workload.image_tokens)
    chunks = step_chunks(train, workload, tokens)
    measured = [decoder_work(config, train, n, length, depth) for n, length, _ in chunks]
    images = sum(with_image for _, _, with_image in chunks)
    vision = vision_flops(config, tokens, patches)
    cached = train.grad_cache > 0  # then one chunk's graph is alive at a time, after a pass without
    gather = max if cached else sum
    plain = gather(saved for saved, _, _ in measured)
    layer = max(saved for saved, _, _ in measured) // depth
    # What checkpointing keeps: each layer's input, in the type of the token embeddings.
    stream = (4 if train.frozen_type == "fp32" else 2) * config.get_text_config().hidden_size
    checkpointed = gather(depth * n * length * stream for n, length, _ in chunks) + layer
    memory = {
        "weights": weight_bytes(config, train, depth),
        "gradients": GRADIENT_BYTES * trainable,
        "optimiser": OPTIMISER_BYTES * trainable,
        "activations_plain": plain,
        "activations_checkpointed": checkpointed,
        "working": layer + max(vision_bytes(config, train, count * patches) for _, _, count in chunks),
    }
    forward = sum(f for _, f, _ in measured)
    flops = {
        "vision": images * vision["total"] * (2 if cached else 1),
        "forward": forward,
        "backward": sum(both - f for _, f, both in measured)
        + (2 * images * vision["projector"] if train.projector_rate or train.tower_rate else 0)
        + (2 * images * (vision["total"] - vision["projector"]) if train.tower_rate else 0),
        "recompute": forward * (bool(train.gradient_checkpointing) + cached),
    }
    if teacher is None:
        teacher = train.teacher if train.distillation_weight > 0 else "none"
    memory["teacher"], flops["teacher"] = 0, 0
    if teacher in ("shared", "second model"):
        full = counted_model(config)
        everything = sum(p.numel() for p in full.parameters())
        whole = len(decoder_of(full).layers)
        second = teacher == "second model"
        # Both are only read: in the type they were saved in, taken to be bf16.
        memory["teacher"] = TEACHER_BYTES * (everything if second else everything - total)
        flops["teacher"] = sum(decoder_work(config, train, n, length, whole)[1] for n, length, _ in chunks) + (
            images * vision["total"] if second else 0
        )
    fixed = sum(memory[name] for name in ("weights", "gradients", "optimiser", "working", "teacher"))
    memory["total_plain"], memory["total_checkpointed"] = fixed + plain, fixed + checkpointed
    memory["total"] = memory["total_checkpointed" if train.gradient_checkpointing else "total_plain"]
    flops["total"] = sum(flops.values())
    return StageCost(
        stage=train.stage,
        layers=depth,
        items=sum(n for n, _, _ in chunks),
        tokens=sum(n * length for n, length, _ in chunks),
        trainable=trainable,
        memory=memory,
        flops=flops,
    )


def _alone(stage: TrainConfig) -> TrainConfig:
    """The stage without its teacher: what the unpruned model is compared at."""
    return replace(stage, distillation_weight=0.0)


def step_chunks(train: TrainConfig, workload: Workload, image_tokens: int) -> list[tuple[int, int, int]]:
    """A step's chunks, shortest items first, all of as many items (training cuts where padding costs less): (items,
    padded length, images) each."""
    items = train.batch_size * (2 + train.hard_negatives)
    images = round(items * workload.images(train.stage))
    lengths = [workload.text_tokens] * (items - images) + [workload.text_tokens + image_tokens] * images
    size = train.grad_cache
    count = -(-items // size) if size else train.chunks
    parts = [[lengths[row] for row in rows] for rows in equal_chunks(lengths, min(count, items))]
    return [(len(p), max(p), sum(length > workload.text_tokens for length in p)) for p in parts]
