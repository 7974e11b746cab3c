"""Distillation losses: a student learns from the ``[RET]`` states of a teacher. Pure functions.

Sources: mean squared error on raw features is the paper's (section 3.1). The relational loss follows "Relational
Knowledge Distillation" (Park et al., CVPR 2019) and "Similarity-Preserving Knowledge Distillation" (Tung and Mori, ICCV
2019); the divergence of softmaxed rows of similarities is that of "Self-Supervised Representation Distillation" (Fang
et al., ICLR 2021) without its queue. The cosine and the centring are ours.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from puma.errors import InputError

KINDS = ("mse", "cosine", "relational", "row-softmax")
OF_SIMILARITIES = ("relational", "row-softmax")
"""Kinds that compare rows with one another: the teacher's states may have another width than the student's."""
CENTRED = ("none", "teacher", "both")


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    kind: str = "mse",
    *,
    temperature: float = 0.05,
    centre: str = "none",
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Distance between ``[RET]`` states, in fp32; no gradient reaches the teacher.

    =============== ============================================= ================================== ==================
    kind            what of the teacher is to be matched          left free                          range
    =============== ============================================= ================================== ==================
    ``mse``         every feature                                 nothing                            [0, inf)
    ``cosine``      every row's direction                         lengths                            [0, 2]
    ``relational``  the angles between the rows of a batch        lengths, and any common rotation   [0, 4]
    ``row-softmax`` which rows of a batch are nearest to a row    the same, and a constant added to  [0, inf)
                                                                  all cosines of a row
    =============== ============================================= ================================== ==================

    Args:
        student: [n, d], the pruned model's states after its final norm, not normalised to length one: on unit vectors
            the squared error would be at most 4/d, a thousandth of the contrastive term.
        teacher: [n, e], the targets; e = d but for the kinds in :data:`OF_SIMILARITIES`.
        kind: ``mse`` (the paper); ``cosine``: one minus the cosine; ``relational``: :func:`relational_loss`;
            ``row-softmax``: :func:`row_softmax_loss`.
        temperature: of ``row-softmax``, > 0; the others have none.
        centre: what is moved so that its mean over the batch is zero, first of all: ``none``, the ``teacher``'s states,
            or ``both``. States lie in a narrow cone around their mean, which a cosine would teach before anything else.
        groups: int64 [n]: the kinds of similarities compare a row only with rows of its group; None: with all.

    Returns:
        A scalar: the mean over rows (over pairs of rows for ``relational``); 0 where there are none.

    Raises:
        InputError: the shapes do not fit, a value is out of range, or the kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: give one of {KINDS}")
    if centre not in CENTRED:
        raise InputError(f"centre={centre!r}: give one of {CENTRED}")
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise InputError(
            f"student {list(student.shape)} and teacher {list(teacher.shape)} must have one number of rows, [n, d] and "
            "[n, e]"
        )
    if kind not in OF_SIMILARITIES:
        check_widths(student.shape[1], teacher.shape[1], kind)
    if not len(student):
        return student.sum() * 0.0
    student, teacher = student.float(), teacher.detach().float()
    if centre != "none":
        teacher = teacher - teacher.mean(0)
    if centre == "both":
        student = student - student.mean(0)
    if kind == "mse":
        return functional.mse_loss(student, teacher)
    if kind == "cosine":
        return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()
    if kind == "relational":
        return relational_loss(student, teacher, groups)
    return row_softmax_loss(student, teacher, temperature, groups)


def check_widths(student: int, teacher: int, kind: str) -> None:
    """Refuse a teacher of another width for a kind that compares features.

    Raises:
        InputError: the widths differ; the message names both and what to do.
    """
    if kind not in OF_SIMILARITIES and student != teacher:
        raise InputError(
            f"distillation={kind!r}: the student's states have {student} features, the teacher's {teacher}, and this "
            "kind compares feature by feature; set distillation_map: true (a linear map between them is learned), or "
            f"distillation to one of {OF_SIMILARITIES}"
        )


def relational_loss(student: torch.Tensor, teacher: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
    """How far the student's matrix of cosines is from the teacher's: the mean squared difference over the n(n-1) pairs
    of different rows.

    Retrieval ranks by those cosines, so this asks for what is used and no more: a shallow model need not find the deep
    one's coordinates. The diagonal is one by definition and left out: it would only water down the mean.

    Args:
        student: [n, d].
        teacher: [n, e]; the widths may differ, as only angles are compared. Constant: no gradient reaches it.
        groups: int64 [n]: only pairs of rows of one group are compared; None: all.

    Returns:
        A scalar in [0, 4]; 0 where no two rows are compared.
    """
    pairs = _pairs(len(student), groups, student.device)
    # "where" and not a product: rounding leaves the diagonal near zero, not at it, and a row has no pull of its own.
    difference = torch.where(pairs, _cosines(student) - _cosines(teacher.detach()), 0.0)
    return difference.square().sum() / pairs.sum().clamp(min=1)


def row_softmax_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """Which rows a row has for neighbours: the divergence KL(teacher, student) of softmaxed cosines, mean over rows.

    Row i's cosines with all other rows, divided by ``temperature``, are softmaxed for teacher and student; the row
    itself is left out. A low temperature asks for the nearest neighbours and lets the far ones be. There is no factor
    of the squared temperature: the gradient with respect to a cosine is at most ``1 / temperature`` a row.

    Args:
        student: [n, d].
        teacher: [n, e]; the widths may differ. Constant: no gradient reaches it.
        temperature: > 0; 0.02 to 0.05 suit states that were trained contrastively.
        groups: int64 [n]: a row's softmax runs over the rows of its group; None: over all.

    Returns:
        A scalar >= 0, the mean over the rows that have two others to choose between; 0 where there are none.

    Raises:
        InputError: the temperature is not a positive number.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"distillation_temperature={temperature!r}: give a positive number, such as 0.05")
    pairs = _pairs(len(student), groups, student.device)
    pairs = pairs & (pairs.sum(1, keepdim=True) > 1)  # with one row to choose from both softmaxes are 1
    rows = pairs.any(1)
    if not bool(rows.any()):
        return student.sum() * 0.0

    def log_shares(states: torch.Tensor) -> torch.Tensor:
        # The lowest finite number, not -inf: a row without pairs would be NaN, also in the gradient.
        return (_cosines(states) / temperature).masked_fill(~pairs, torch.finfo(torch.float32).min).log_softmax(1)

    ours, theirs = log_shares(student), log_shares(teacher.detach())
    divergence = torch.where(pairs, theirs.exp() * (theirs - ours), 0.0).sum(1)
    return divergence.sum() / rows.sum()


def _pairs(count: int, groups: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """bool [n, n]: the pairs of different rows that are compared."""
    different = ~torch.eye(count, dtype=torch.bool, device=device)
    if groups is None:
        return different
    if groups.shape != (count,):
        raise InputError(f"groups {list(groups.shape)}: give one number for each of {count} rows")
    return different & (groups[:, None] == groups[None, :])


def _cosines(states: torch.Tensor) -> torch.Tensor:
    """[n, n], in fp32, also under autocast."""
    with torch.autocast(states.device.type, enabled=False):
        unit = functional.normalize(states.float(), dim=-1)
        return unit @ unit.T
