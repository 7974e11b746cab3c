"""Nested dimensions: closed forms, a slow version beside the fast one with gradients, one mask for all widths."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.losses import (
    LOSS_FUNCTIONS,
    LOSSES,
    infonce_loss,
    mac_loss,
    mean_over_widths,
    nested_comparisons,
    split_mac_loss,
)
from support.gradients import assert_same_with_gradients

TAUS = {"temperature": 0.5, "hard_temperature": 0.3}


def nested(name, queries, candidates, target, modality, dimensions, *, own=None, **more):
    comparisons = nested_comparisons(queries, candidates, target, modality, dimensions=dimensions, **TAUS, **more)
    return mean_over_widths(LOSS_FUNCTIONS[name].of, comparisons, **(own or {}))


def slow_infonce(queries, candidates, tau, exclude):
    total = 0.0
    for i, query in enumerate(queries):
        logits = [
            torch.dot(query, candidate) / (query.norm() * candidate.norm()) / tau
            for j, candidate in enumerate(candidates)
            if j == i or not exclude[i, j]
        ]
        positive = torch.dot(query, candidates[i]) / (query.norm() * candidates[i].norm()) / tau
        total = total + torch.logsumexp(torch.stack(logits), 0) - positive
    return total / len(queries)


def slow(queries, candidates, dimensions, exclude):
    """Each prefix cut, scored and summed by itself, one number at a time."""
    widths = [*dimensions, queries.shape[1]]
    return sum(slow_infonce(queries[:, :n], candidates[:, :n], TAUS["temperature"], exclude) for n in widths) / len(
        widths
    )


def case(q, c, d, seed):
    g = torch.Generator().manual_seed(seed)
    # At width 1 the gradient is zero in theory and the losses' float32 rounding over the coordinate in practice, so no
    # coordinate comes close to 0.
    queries, candidates = (torch.randn(n, d, generator=g, dtype=torch.float64) for n in (q, c))
    queries, candidates = (each + each.sign() * 0.1 for each in (queries, candidates))
    modality = torch.randint(0, 3, (c,), generator=g)
    return queries, candidates, modality[:q], modality, torch.rand(q, c, generator=g) < 0.3


@settings(max_examples=30, deadline=None)
@given(
    q=st.integers(1, 4),
    extra=st.integers(0, 3),
    dimensions=st.sets(st.integers(1, 7), max_size=3).map(sorted),
    seed=st.integers(0, 10**6),
)
def test_equals_the_slow_version_gradients_too(q, extra, dimensions, seed):
    queries, candidates, target, modality, exclude = case(q, q + extra, 8, seed)
    assert_same_with_gradients(
        lambda a, b: nested("infonce", a, b, target, modality, dimensions, exclude=exclude),
        lambda a, b: slow(a, b, dimensions, exclude),
        queries,
        candidates,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_the_mean_of_itself_on_each_prefix(name):
    queries, candidates, target, modality, exclude = case(4, 7, 8, seed=1)
    own = {"other_weight": 0.4} if name == "split-mac" else {}
    parts = [
        LOSS_FUNCTIONS[name](queries[:, :n], candidates[:, :n], target, modality, exclude=exclude, **TAUS, **own)
        for n in (2, 5, 8)
    ]
    found = nested(name, queries, candidates, target, modality, (2, 5), exclude=exclude, own=own)
    assert float(found) == pytest.approx(float(sum(parts)) / 3, rel=1e-6)
    assert max(parts) - min(parts) > 0.01  # the prefixes do differ


def test_by_hand_at_two_widths():
    """By their first number query and positive agree and the negative is opposed; by both it is orthogonal."""
    queries = torch.tensor([[1.0, 1.0]])
    candidates = torch.tensor([[2.0, 2.0], [-3.0, 3.0]])
    codes = torch.tensor([0, 0])
    loss = nested("infonce", queries, candidates, codes[:1], codes, (1,))
    at_one = math.log(1 + math.exp((-1 - 1) / 0.5))
    at_two = math.log(1 + math.exp((0 - 1) / 0.5))
    assert float(loss) == pytest.approx((at_one + at_two) / 2, abs=1e-6)


def test_equal_scores_give_log_b_at_every_width():
    same, codes = torch.ones(5, 8), torch.zeros(5, dtype=torch.long)
    for name in ("infonce", "mac", "split-mac"):
        assert float(nested(name, same, same, codes, codes, (1, 3, 7))) == pytest.approx(math.log(5), abs=1e-5)


@pytest.mark.parametrize("function", [mac_loss, infonce_loss, split_mac_loss])
def test_without_dimensions_it_is_the_loss_itself(function):
    queries, candidates, target, modality, exclude = case(3, 5, 6, seed=2)
    comparisons = nested_comparisons(queries, candidates, target, modality, exclude=exclude, margin=0.1, **TAUS)
    plain = function(queries, candidates, target, modality, exclude=exclude, margin=0.1, **TAUS)
    assert len(comparisons) == 1
    assert torch.equal(mean_over_widths(function.of, comparisons), plain)


def test_the_margin_looks_at_the_full_width_alone():
    """At one number the negative beats the positive, at the full width it does not: it stays a negative at both. The
    third candidate beats the positive at the full width, and is left out at both."""
    queries = torch.tensor([[1.0, 2.0]])
    candidates = torch.tensor([[-0.5, 2.0], [1.0, 0.2], [1.0, 2.0]])
    codes = torch.tensor([0, 0, 0])
    whole, cut = nested_comparisons(queries, candidates, codes[:1], codes, dimensions=(1,), margin=0.05, **TAUS)
    assert whole.scores[0, 1] < whole.scores[0, 0]
    assert cut.scores[0, 1] > cut.scores[0, 0] + 0.05
    assert whole.keep.tolist() == cut.keep.tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("dimensions", "says"),
    [
        ((4, 2), "rising whole numbers"),
        ((2, 2), "rising whole numbers"),
        ((0,), "rising whole numbers"),
        ((2.0,), "rising whole numbers"),
        ((True,), "rising whole numbers"),
        ((2, 6), "have 6 numbers"),
        ((7,), "have 6 numbers"),
    ],
)
def test_dimensions_that_are_none(dimensions, says):
    queries, candidates, target, modality, _ = case(2, 3, 6, seed=3)
    with pytest.raises(InputError, match=says):
        nested_comparisons(queries, candidates, target, modality, dimensions=dimensions, **TAUS)
