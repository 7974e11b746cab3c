"""The distillation term: its values by hand and against slow versions, and no gradient into the teacher."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.losses import distillation_loss
from puma.losses.distillation import KINDS, relational_loss


def drawn(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def slow_relational(student, teacher):
    """Pair by pair."""
    total, pairs = student.new_zeros(()), 0
    for i in range(len(student)):
        for j in range(len(student)):
            if i != j:
                ours = student[i] @ student[j] / (student[i].norm() * student[j].norm())
                theirs = teacher[i] @ teacher[j] / (teacher[i].norm() * teacher[j].norm())
                total, pairs = total + (ours - theirs) ** 2, pairs + 1
    return total / pairs


def test_mean_square_by_hand_and_no_gradient_to_the_teacher():
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0], [0.0, 4.0]], requires_grad=True)
    loss = distillation_loss(student, teacher)
    assert float(loss.detach()) == (1 + 4 + 0 + 16) / 4
    loss.backward()
    assert teacher.grad is None
    assert torch.equal(student.grad, torch.tensor([[0.5, 1.0], [0.0, -2.0]]))


def test_cosine_by_hand():
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, -5.0], [1.0, 0.0]])
    expected = (0 + 2 + (1 - 1 / math.sqrt(2))) / 3
    assert float(distillation_loss(student, teacher, "cosine")) == pytest.approx(expected)


def test_relational_by_hand():
    """Two student rows at a right angle, the teacher's at 60 degrees: both pairs are off by a half."""
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert float(distillation_loss(student, teacher, "relational")) == pytest.approx(0.25, abs=1e-6)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    same = torch.tensor([[1.0, 0.0], [7.0, 0.0]])
    assert float(distillation_loss(opposite, same, "relational")) == pytest.approx(4.0), "the largest there is"


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 10_000))
def test_relational_equals_the_slow_version_and_its_gradient(count, width, seed):
    teacher = drawn(count, width, seed + 1)
    fast, slow = (drawn(count, width, seed).requires_grad_() for _ in range(2))
    value, expected = distillation_loss(fast, teacher, "relational"), slow_relational(slow, teacher)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-5, rtol=1e-4)
    assert 0 <= float(value.detach()) <= 4 + 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_kind_leaves_free(kind):
    teacher = drawn(6, 5)
    rotation = torch.linalg.qr(drawn(5, 5, 1))[0]
    longer = teacher * torch.tensor([[1.0], [2.0], [3.0], [0.5], [0.1], [4.0]])
    assert float(distillation_loss(teacher.clone(), teacher, kind)) == pytest.approx(0, abs=1e-6)
    scaled = float(distillation_loss(longer, teacher, kind))
    turned = float(distillation_loss(teacher @ rotation, teacher, kind))
    assert (scaled < 1e-6) == (kind in ("cosine", "relational"))
    assert (turned < 1e-6) == (kind == "relational")


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_gets_no_gradient_and_half_precision_is_widened(kind):
    student, teacher = drawn(4, 8).requires_grad_(), drawn(4, 8, 1).requires_grad_()
    distillation_loss(student, teacher, kind).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0
    rough = distillation_loss(student.detach().bfloat16(), teacher.detach().half(), kind)
    assert rough.dtype == torch.float32
    exact = distillation_loss(student.detach().bfloat16().float(), teacher.detach().half().float(), kind)
    assert torch.equal(rough, exact)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_no_loss_and_keep_the_graph(kind):
    for count in (0, 1) if kind == "relational" else (0,):
        student = drawn(count, 3).requires_grad_()
        loss = distillation_loss(student, drawn(count, 3), kind)
        assert float(loss.detach()) == 0.0
        loss.backward()
        assert torch.equal(student.grad, torch.zeros(count, 3))


def test_relational_compares_models_of_different_widths():
    student, teacher = drawn(5, 4), drawn(5, 9)
    torch.testing.assert_close(
        distillation_loss(student, teacher, "relational"), slow_relational(student, teacher), atol=1e-6, rtol=0
    )
    assert torch.equal(relational_loss(student, teacher), distillation_loss(student, teacher, "relational"))


def test_a_row_of_zeros_gives_numbers():
    student = torch.zeros(3, 4, requires_grad=True)
    loss = distillation_loss(student, drawn(3, 4), "relational")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_shapes_must_agree_and_the_kind_be_known():
    with pytest.raises(InputError, match="one shape"):
        distillation_loss(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(InputError, match="one shape"):
        distillation_loss(torch.ones(2, 3), torch.ones(3, 3), "relational")
    with pytest.raises(InputError, match="kind='l1'"):
        distillation_loss(torch.ones(2, 3), torch.ones(2, 3), "l1")
