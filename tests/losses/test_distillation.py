"""The distillation term: its value by hand, and no gradient into the teacher."""

import pytest
import torch

from puma.errors import InputError
from puma.losses import distillation_loss


def test_mean_square_by_hand_and_no_gradient_to_the_teacher():
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0], [0.0, 4.0]], requires_grad=True)
    loss = distillation_loss(student, teacher)
    assert float(loss.detach()) == (1 + 4 + 0 + 16) / 4
    loss.backward()
    assert teacher.grad is None
    assert torch.equal(student.grad, torch.tensor([[0.5, 1.0], [0.0, -2.0]]))


def test_shapes_must_agree():
    with pytest.raises(InputError, match="one shape"):
        distillation_loss(torch.ones(2, 3), torch.ones(3, 2))
