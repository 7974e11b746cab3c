"""Self-distillation: what the dropped deep layers made of ``[RET]``, learnt by the shallow ones. Pure functions.

Source: method.md "Structure" (paper section 3.1): mean squared error on raw features. The cosine is ours; the
relational loss follows "Relational Knowledge Distillation" (Park et al., CVPR 2019) and "Similarity-Preserving
Knowledge Distillation" (Tung and Mori, ICCV 2019).
"""

from __future__ import annotations

import torch
from torch.nn import functional

from puma.errors import InputError

KINDS = ("mse", "cosine", "relational")


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, kind: str = "mse") -> torch.Tensor:
    """Distance between ``[RET]`` states, in fp32; no gradient reaches the teacher.

    ============== ======================================= ================================== ==================
    kind           what of the teacher is to be matched    left free                          range
    ============== ======================================= ================================== ==================
    ``mse``        every feature                           nothing                            [0, inf)
    ``cosine``     every row's direction                   lengths                            [0, 2]
    ``relational`` the angles between the rows of a batch  lengths, and any common rotation   [0, 4]
    ============== ======================================= ================================== ==================

    Args:
        student: [n, d], the pruned model's states after its final norm, not normalised to length one: on unit vectors
            the squared error would be at most 4/d, a thousandth of the contrastive term.
        teacher: [n, d], the targets.
        kind: ``mse`` (the paper); ``cosine``: one minus the cosine; ``relational``: :func:`relational_loss`.

    Returns:
        A scalar: the mean over rows (over pairs of rows for ``relational``); 0 where there are none.

    Raises:
        InputError: the shapes differ, or the kind is unknown.
    """
    if student.shape != teacher.shape and not (
        kind == "relational" and student.ndim == teacher.ndim == 2 and len(student) == len(teacher)
    ):
        raise InputError(f"student {list(student.shape)} and teacher {list(teacher.shape)} must have one shape [n, d]")
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: give one of {KINDS}")
    if not len(student):
        return student.sum() * 0.0
    student, teacher = student.float(), teacher.detach().float()
    if kind == "mse":
        return functional.mse_loss(student, teacher)
    if kind == "relational":
        return relational_loss(student, teacher)
    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()


def relational_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """How far the student's matrix of cosines is from the teacher's: the mean squared difference over the n(n-1) pairs
    of different rows.

    Retrieval ranks by those cosines, so this asks for what is used and no more: a shallow model need not find the deep
    one's coordinates. The matrix is compared as it is, not row by row through a softmax: the states of an untrained
    base share a large offset, under which all cosines are near one, and a softmax would need a temperature of its own.
    The diagonal is one by definition and left out: it would only water down the mean.

    Args:
        student: [n, d].
        teacher: [n, e]; the widths may differ, as only angles are compared. Constant: no gradient reaches it.

    Returns:
        A scalar in [0, 4]; 0 for fewer than two rows.
    """
    count = len(student)
    if count < 2:
        return student.sum() * 0.0
    ours = functional.normalize(student.float(), dim=-1)
    theirs = functional.normalize(teacher.detach().float(), dim=-1)
    difference = ours @ ours.T - theirs @ theirs.T  # [n, n]
    # Rounding leaves the diagonal near zero, not at it: take it out, so that a row has no pull of its own.
    difference = difference - torch.diag(difference.diagonal())
    return difference.square().sum() / (count * (count - 1))
