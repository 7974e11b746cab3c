"""Self-distillation: what the dropped deep layers made of ``[RET]``, learnt by the shallow ones. Pure functions.

Source: method.md "Structure" (paper section 3.1): mean squared error on raw features.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from puma.errors import InputError


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error between raw ``[RET]`` states, in fp32; no gradient reaches the teacher.

    Args:
        student: [n, d], the pruned model's states after its final norm, not normalised to length one: on unit vectors this
            would be at most 4/d, a thousandth of the contrastive term.
        teacher: [n, d], the unpruned base's.

    Returns:
        A scalar.

    Raises:
        InputError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise InputError(f"student {list(student.shape)} and teacher {list(teacher.shape)} must have one shape [n, d]")
    return functional.mse_loss(student.float(), teacher.detach().float())
