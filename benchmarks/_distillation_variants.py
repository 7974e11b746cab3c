"""What ``distillation_pays.py`` compares: distillation before the labelled pairs, on unlabelled items, or beside their
contrastive loss, on the pairs' own items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puma.training.distillation_settings import TEXT_TEACHER

STEPS = {500: 60, 2000: 100, 10000: 120}
"""Contrastive steps of 64 pairs by the number of labels."""
ROWS = {"distillation": "row-softmax", "distillation_within": "modality", "teacher": TEXT_TEACHER}
ALONE = {"items_only": True, "contrastive_weight": 0.0, "distillation_weight": 1.0}


@dataclass(frozen=True)
class Variant:
    """What is added to the contrastive stage.

    Args:
        distil: settings of a stage before it that distils on unlabelled items; None for no such stage.
        retrieve: settings that distil beside the contrastive loss.
        says: in a few words.
        deep: whether the teacher is a deep student of the same labels, trained first (``--deep-steps``).
        alone: the deep student itself is scored, and there is no other.
        captioned: the stage before is on pairs of an image with its caption, of all images; else on what ``distil``
            says, captions being known of labelled images alone.
        cut: the student starts as the deep teacher's first layers, not as the untrained base's.
    """

    says: str
    distil: Mapping[str, Any] | None = None
    retrieve: Mapping[str, Any] = field(default_factory=dict)
    deep: bool = False
    alone: bool = False
    captioned: bool = False
    cut: bool = False


BEFORE = {**ALONE, **ROWS, "distillation_within": "batch", "steps": 60, "batch_size": 64}
OWN_ROWS = {"distillation": "row-softmax", "distillation_within": "modality", "steps": 240}
CONTRAST = {"contrastive_weight": 1.0, "distillation_weight": 0.0, "temperature": 0.03}
VARIANTS = {
    "none": Variant("labelled pairs alone"),
    "none-longer": Variant("labelled pairs alone, at equal total compute"),
    "beside": Variant("text teacher's rows beside the contrastive loss", None, {**ROWS, "distillation_weight": 1.0}),
    "beside-3": Variant("the same, weight 3", None, {**ROWS, "distillation_weight": 3.0}),
    "beside-centred": Variant(
        "the same, weight 1, centred", None, {**ROWS, "distillation_weight": 1.0, "distillation_centre": "both"}
    ),
    "before": Variant("text teacher's rows on unlabelled texts, then labelled pairs", BEFORE),
    "before-240": Variant("the same, for 240 steps", {**BEFORE, "steps": 240}),
    "before-centred": Variant("the same, centred", {**BEFORE, "distillation_centre": "both"}),
    "before-cosine": Variant(
        "its centred states through a linear map on unlabelled texts, then labelled pairs",
        {**BEFORE, "distillation": "cosine", "distillation_centre": "teacher", "distillation_map": True},
    ),
    "both": Variant("on unlabelled texts first, then beside", BEFORE, {**ROWS, "distillation_weight": 1.0}),
    "captions": Variant(
        "contrast on all images with their captions, then labelled pairs", {"steps": 60, **CONTRAST}, captioned=True
    ),
    "captions-taught": Variant(
        "text teacher's rows on the same, then labelled pairs",
        {**BEFORE, "items_only": False},
        captioned=True,
    ),
    "captions-both": Variant(
        "contrast and text teacher's rows on the same, then labelled pairs",
        {**BEFORE, **CONTRAST, "items_only": False, "distillation_weight": 1.0},
        captioned=True,
    ),
    "paper": Variant(
        "the paper's: raw states of the untrained base, squared error, beside InfoNCE on pairs of texts",
        {
            "distillation": "mse",
            "steps": 60,
            "contrastive_weight": 0.9,
            "distillation_weight": 0.005,
            "temperature": 0.05,
            "loss": "infonce",
        },
    ),
    "deep-before": Variant(
        "softmaxed rows of 30 layers that were trained on the labels first, on unlabelled texts and images",
        {**BEFORE, **OWN_ROWS},
        deep=True,
    ),
    "deep-cut": Variant(
        "the first layers of the 30 that were trained on the labels, then labelled pairs", deep=True, cut=True
    ),
    "deep-cut-before": Variant(
        "the same layers, first with softmaxed rows of all 30 on unlabelled texts and images",
        {**BEFORE, **OWN_ROWS},
        deep=True,
        cut=True,
    ),
    "deep-alone": Variant("30 layers on the labels, as teacher below", deep=True, alone=True),
    **{
        f"deep-{name}": Variant(
            f"{says} of 30 layers that were trained on the labels first, beside the contrastive loss",
            None,
            {"distillation_weight": 1.0, **settings},
            deep=True,
        )
        for name, says, settings in (
            ("rows", "softmaxed rows", {"distillation": "row-softmax", "distillation_within": "modality"}),
            ("relational", "cosines", {"distillation": "relational", "distillation_within": "modality"}),
            ("cosine", "centred states", {"distillation": "cosine", "distillation_centre": "teacher"}),
            (
                "map",
                "centred states through a linear map",
                {"distillation": "cosine", "distillation_centre": "teacher", "distillation_map": True},
            ),
        )
    },
}
