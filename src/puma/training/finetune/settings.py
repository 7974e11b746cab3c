"""How a table of pairs is trained on by default: a retriever gently, and for longer where there is more data; a base by
its recipe, in batches and steps that the table has enough pairs for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from puma.pruning import count_parameters
from puma.retriever.devices import has_fast_bf16
from puma.retriever.dimensions import nested_dimensions
from puma.training.config import TrainConfig
from puma.training.pairs import Pair

BATCH = 64
EPOCHS = 5
LEAST_STEPS, MOST_STEPS = 40, 1000
EVALUATIONS = 8
"""Evaluations of a run that is not stopped early."""
PATIENCE = 3
MINUTES = 10.0
MOST_NEGATIVES = 4
LARGE = 300_000_000
"""Parameters above which LoRA adapters are trained and not the decoder layers themselves."""


FEWEST_BASE_STEPS, MOST_BASE_EPOCHS = 200, 40
"""A base has everything to learn: it takes at least so many steps, but passes a small table at most so often."""


def fitted_stage(stage: TrainConfig, pairs: Sequence[Pair], given: Collection[str] = ()) -> TrainConfig:
    """A recipe's stage with the batch size, length and evaluations that fit a table of pairs, and, in stage 2, with the
    table's wrong answers as hard negatives.

    Recipes are made for millions of pairs: two passes over a small table would be a few steps, in batches that it does
    not fill.

    Args:
        pairs: those that the stage trains on; none leaves the stage as it is.
        given: names of settings that somebody chose for this run: they stay.
    """
    queries, candidates = len({pair.query_id for pair in pairs}), len({pair.candidate_id for pair in pairs})
    if not queries:
        return stage
    batch = stage.batch_size
    if "batch_size" not in given:
        batch = max(2, min(batch, queries // 2, candidates // 2))
    stage = replace(stage, batch_size=batch)
    if "hard_negatives" not in given and stage.stage == "retrieve":
        stage = replace(stage, hard_negatives=_hard_negatives(pairs))
    if stage.steps or stage.minutes:
        return stage
    passed = math.ceil(stage.epochs * queries / batch)
    if "epochs" not in given and passed < FEWEST_BASE_STEPS:
        passed = max(passed, min(FEWEST_BASE_STEPS, math.ceil(MOST_BASE_EPOCHS * queries / batch)))
        stage = replace(stage, steps=passed)
    if "eval_every" not in given and stage.stage == "retrieve":
        stage = replace(stage, eval_every=max(1, passed // EVALUATIONS))
    return stage


def default_config(model: Any, pairs: Sequence[Pair], changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """The settings of a fine-tuning.

    Args:
        model: the retriever's.
        pairs: what is trained on.
        changes: settings that go before the defaults, as ``{"learning_rate": 1e-5}``.

    Raises:
        ConfigError: a change is unknown or out of range.
    """
    queries = len({pair.query_id for pair in pairs})
    candidates = len({pair.candidate_id for pair in pairs})
    # Half of what there is: a batch holds no candidate twice, and there must be one whatever rows are drawn.
    batch = max(2, min(BATCH, queries // 2, candidates // 2))
    changes = dict(changes or {})
    batch = int(changes.get("batch_size", batch)) if isinstance(changes.get("batch_size", batch), int) else batch
    steps = max(LEAST_STEPS, min(MOST_STEPS, math.ceil(EPOCHS * queries / max(1, batch))))
    if isinstance(changes.get("steps"), int) and changes["steps"] > 0:
        steps = changes["steps"]
    large = count_parameters(model)["total"] > LARGE
    values: dict[str, Any] = {
        "steps": steps,
        "minutes": MINUTES,
        "batch_size": batch,
        "learning_rate": 1e-4,
        "lora_rank": 32 if large else 0,
        "lora_alpha": 64,
        "lora_dropout": 0.05,
        "warmup": 0.1,
        "final_rate": 0.1,
        "weight_decay": 0.01,
        "loss": "split-mac",
        "dimensions": nested_dimensions(model.config, model.get_input_embeddings().weight.shape[1]),
        "symmetric": True,
        "balance": 0.5,
        "hard_negatives": _hard_negatives(pairs),
        "precision": "bf16" if has_fast_bf16() else "fp32",
        "eval_every": max(1, steps // EVALUATIONS),
        "eval_queries": 0,
        "patience": PATIENCE,
    }
    return replace(TrainConfig.from_dict({**values, **changes}), stage="retrieve", keep_best=True)


def _hard_negatives(pairs: Sequence[Pair]) -> int:
    return min(MOST_NEGATIVES, max((len(pair.negatives) for pair in pairs), default=0))
