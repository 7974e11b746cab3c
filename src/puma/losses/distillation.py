"""Self-distillation: what the dropped deep layers made of ``[RET]``, learnt by the shallow ones. Pure functions.

Source: method.md "Structure" (paper section 3.1): mean squared error on raw features. The cosine is ours.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from puma.errors import InputError

KINDS = ("mse", "cosine")


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, kind: str = "mse") -> torch.Tensor:
    """Distance between ``[RET]`` states, in fp32; no gradient reaches the teacher.

    Args:
        student: [n, d], the pruned model's states after its final norm, not normalised to length one: on unit vectors
            the squared error would be at most 4/d, a thousandth of the contrastive term.
        teacher: [n, d], the targets.
        kind: ``mse`` (the paper) or ``cosine``: one minus the cosine, which leaves the length free.

    Returns:
        A scalar: the mean over rows; 0 for no rows.

    Raises:
        InputError: the shapes differ, or the kind is unknown.
    """
    if student.shape != teacher.shape:
        raise InputError(f"student {list(student.shape)} and teacher {list(teacher.shape)} must have one shape [n, d]")
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: give one of {KINDS}")
    if not len(student):
        return student.sum() * 0.0
    student, teacher = student.float(), teacher.detach().float()
    if kind == "mse":
        return functional.mse_loss(student, teacher)
    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()
