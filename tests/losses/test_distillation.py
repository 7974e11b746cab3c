"""The distillation term: its values by hand and against slow versions, and no gradient into the teacher."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.losses import distillation_loss
from puma.losses.distillation import CENTRED, KINDS, OF_SIMILARITIES, relational_loss, row_softmax_loss


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


def slow_row_softmax(student, teacher, temperature, groups=None):
    """Row by row, share by share."""
    rows = []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i and (groups is None or groups[i] == groups[j])]
        if len(others) < 2:
            continue
        weights = [
            torch.stack([(x[i] @ x[j] / (x[i].norm() * x[j].norm()) / temperature).exp() for j in others])
            for x in (teacher.double(), student.double())
        ]
        theirs, ours = (w / w.sum() for w in weights)
        rows.append(sum(p * (p / q).log() for p, q in zip(theirs, ours, strict=True)))
    return torch.stack(rows).mean().float() if rows else student.new_zeros(())


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


def test_row_softmax_by_hand():
    """Of three rows, the teacher's first two are one and the third is at a right angle; all of the student's are one.

    With a temperature of 1 the teacher's shares are e / (e + 1) and 1 / (e + 1) for the first two rows, a half each for
    the third; the student's are a half each everywhere.
    """
    teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    student = torch.ones(3, 4)
    share = math.e / (math.e + 1)
    expected = 2 / 3 * (share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share)))
    assert float(distillation_loss(student, teacher, "row-softmax", temperature=1.0)) == pytest.approx(expected)


def test_row_softmax_pulls_a_cosine_by_the_difference_of_shares():
    """d loss / d cosine(i, j) is (student's share - teacher's share) / (temperature * rows), by finite difference."""
    student, teacher, step = drawn(5, 4).double(), drawn(5, 3, 1).double(), 1e-4
    leaf = student.float().requires_grad_()
    row_softmax_loss(leaf, teacher.float(), 0.3).backward()
    for i, j in ((0, 0), (3, 2)):
        moved = [student.clone() for _ in range(2)]
        moved[0][i, j] += step
        moved[1][i, j] -= step
        up, down = (slow_row_softmax(x, teacher, 0.3).double() for x in moved)
        assert float(leaf.grad[i, j]) == pytest.approx(float((up - down) / (2 * step)), abs=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([0.02, 0.05, 1.0]), st.booleans())
def test_row_softmax_equals_the_slow_version_and_its_gradient(count, width, seed, temperature, grouped):
    groups = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed)) if grouped else None
    teacher = drawn(count, width + 2, seed + 1)
    fast, slow = (drawn(count, width + 1, seed).requires_grad_() for _ in range(2))
    value = distillation_loss(fast, teacher, "row-softmax", temperature=temperature, groups=groups)
    expected = slow_row_softmax(slow, teacher, temperature, groups)
    torch.testing.assert_close(value, expected, atol=2e-4, rtol=2e-4)
    assert float(value.detach()) >= -1e-5
    value.backward()
    if expected.requires_grad:
        expected.backward()
        torch.testing.assert_close(fast.grad, slow.grad, atol=2e-3, rtol=2e-3)
    else:
        assert torch.equal(fast.grad, torch.zeros_like(fast))


@pytest.mark.parametrize("kind", OF_SIMILARITIES)
def test_groups_are_compared_by_themselves(kind):
    """Rows of two groups: the loss is that of each alone, weighed by its pairs or rows; no gradient crosses."""
    student, teacher, groups = drawn(7, 4), drawn(7, 4, 1), torch.tensor([5, 2, 5, 2, 5, 2, 5])
    parts = [groups == 5, groups == 2]
    alone = [float(distillation_loss(student[part], teacher[part], kind)) for part in parts]
    weights = (12, 6) if kind == "relational" else (4, 3)
    expected = (weights[0] * alone[0] + weights[1] * alone[1]) / sum(weights)
    assert float(distillation_loss(student, teacher, kind, groups=groups)) == pytest.approx(expected, rel=1e-4)
    moved = student.clone()
    moved[groups == 2] += 1
    leaves = [x.requires_grad_() for x in (student, moved)]
    for leaf in leaves:
        distillation_loss(leaf, teacher, kind, groups=groups).backward()
    torch.testing.assert_close(leaves[0].grad[parts[0]], leaves[1].grad[parts[0]])


@pytest.mark.parametrize("kind", OF_SIMILARITIES)
def test_rows_that_are_alone_in_their_group_are_no_loss(kind):
    student = drawn(3, 4).requires_grad_()
    loss = distillation_loss(student, drawn(3, 4, 1), kind, groups=torch.arange(3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(student.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("centre", CENTRED)
@pytest.mark.parametrize("kind", KINDS)
def test_centring_moves_means_to_zero_first(kind, centre):
    student, teacher = drawn(6, 5) + 2, drawn(6, 5, 1) - 3
    moved = student - student.mean(0) if centre == "both" else student
    goal = teacher if centre == "none" else teacher - teacher.mean(0)
    expected = float(distillation_loss(moved, goal, kind))
    assert float(distillation_loss(student, teacher, kind, centre=centre)) == pytest.approx(expected, rel=1e-4)
    if centre != "none":
        assert float(distillation_loss(student, teacher + 100, kind, centre=centre)) == pytest.approx(
            expected, rel=1e-2
        )


def test_a_cosine_that_is_not_centred_is_met_by_the_cone_alone():
    """States with a large common part: a student of that part alone has learnt nothing, and only centring tells."""
    teacher = drawn(20, 8) + 30
    cone = torch.full((20, 8), 30.0)
    assert float(distillation_loss(cone, teacher, "cosine")) < 0.01
    assert float(distillation_loss(cone, teacher, "cosine", centre="teacher")) > 0.5


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
    assert (scaled < 1e-6) == (kind != "mse")
    assert (turned < 1e-4) == (kind in OF_SIMILARITIES)


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
    for count in {"relational": (0, 1), "row-softmax": (0, 1, 2)}.get(kind, (0,)):
        student = drawn(count, 3).requires_grad_()
        loss = distillation_loss(student, drawn(count, 3), kind)
        assert float(loss.detach()) == 0.0
        loss.backward()
        assert torch.equal(student.grad, torch.zeros(count, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_of_another_width_is_refused_by_what_compares_features(kind):
    student, teacher = drawn(5, 4), drawn(5, 9)
    if kind in OF_SIMILARITIES:
        assert torch.isfinite(distillation_loss(student, teacher, kind))
        return
    with pytest.raises(InputError, match=f"distillation='{kind}': .* 4 features, the teacher's 9.*distillation_map"):
        distillation_loss(student, teacher, kind)


def test_relational_compares_models_of_different_widths():
    student, teacher = drawn(5, 4), drawn(5, 9)
    torch.testing.assert_close(
        distillation_loss(student, teacher, "relational"), slow_relational(student, teacher), atol=1e-6, rtol=0
    )
    assert torch.equal(relational_loss(student, teacher), distillation_loss(student, teacher, "relational"))


@pytest.mark.parametrize("kind", OF_SIMILARITIES)
def test_a_row_of_zeros_gives_numbers(kind):
    student = torch.zeros(3, 4, requires_grad=True)
    loss = distillation_loss(student, drawn(3, 4), kind)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_shapes_must_agree_and_the_kind_be_known():
    with pytest.raises(InputError, match="one number of rows"):
        distillation_loss(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(InputError, match="one number of rows"):
        distillation_loss(torch.ones(2, 3), torch.ones(3, 3), "relational")
    with pytest.raises(InputError, match=r"groups \[3\]: give one number for each of 2 rows"):
        distillation_loss(torch.ones(2, 3), torch.ones(2, 3), "relational", groups=torch.zeros(3))
    with pytest.raises(InputError, match="centre='student'"):
        distillation_loss(torch.ones(2, 3), torch.ones(2, 3), centre="student")
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="distillation_temperature="):
            distillation_loss(torch.ones(2, 3), torch.ones(2, 3), "row-softmax", temperature=temperature)
    with pytest.raises(InputError, match="kind='l1'"):
        distillation_loss(torch.ones(2, 3), torch.ones(2, 3), "l1")
