"""MAC-Loss: closed forms, a slow version beside it, gradients, false negatives, precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.losses import hard_temperature, mac_loss, negative_shares
from support.gradients import assert_same_with_gradients


def slow(queries, candidates, target, modality, temperature, hard, exclude=None):
    """The definition, one number at a time."""
    total = 0.0
    for i, query in enumerate(queries):
        terms = []
        for j, candidate in enumerate(candidates):
            if exclude is not None and exclude[i, j] and i != j:
                continue
            tau = hard if modality[j] == target[i] else temperature
            cosine = torch.dot(query, candidate) / (query.norm() * candidate.norm())
            terms.append((j, cosine / tau))
        logs = torch.logsumexp(torch.stack([t for _, t in terms]), 0)
        total = total + logs - next(t for j, t in terms if j == i)
    return total / len(queries)


def case(q, c, d, seed):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(q, d, generator=g, dtype=torch.float64),
        torch.randn(c, d, generator=g, dtype=torch.float64),
        torch.randint(0, 3, (q,), generator=g),
        torch.randint(0, 3, (c,), generator=g),
        torch.rand(q, c, generator=g) < 0.3,
    )


@settings(max_examples=25, deadline=None)
@given(
    q=st.integers(1, 5), extra=st.integers(0, 4), d=st.integers(2, 6), seed=st.integers(0, 10**6), masked=st.booleans()
)
def test_equals_the_slow_version_gradients_too(q, extra, d, seed, masked):
    queries, candidates, target, modality, exclude = case(q, q + extra, d, seed)
    mask = exclude if masked else None
    assert_same_with_gradients(
        lambda q, c: mac_loss(q, c, target, modality, temperature=0.5, hard_temperature=0.3, exclude=mask),
        lambda q, c: slow(q, c, target, modality, 0.5, 0.3, mask),
        queries,
        candidates,
    )


def test_equal_scores_give_log_of_the_candidates():
    same = torch.ones(4, 8)
    loss = mac_loss(same, same, torch.zeros(4).long(), torch.zeros(4).long(), temperature=0.03, hard_temperature=0.02)
    assert float(loss) == pytest.approx(math.log(4), abs=1e-5)


def test_two_candidates_by_hand():
    """Scores 1 (positive, hard) and 0 (other modality): loss = log(1 + exp(0/tau - 1/tau_hard))."""
    queries = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = mac_loss(queries, candidates, torch.tensor([1]), torch.tensor([1, 0]), temperature=0.9, hard_temperature=0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(0 / 0.9 - 1 / 0.5)), abs=1e-6)


def test_one_temperature_is_plain_infonce_whatever_the_modalities():
    queries, candidates, target, modality, _ = case(5, 7, 6, 3)
    loss = mac_loss(queries, candidates, target, modality, temperature=0.07, hard_temperature=0.07)
    scores = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(candidates, dim=1).T
    plain = torch.nn.functional.cross_entropy(scores / 0.07, torch.arange(5))
    assert float(loss) == pytest.approx(float(plain), abs=1e-5)


def test_a_lower_hard_temperature_weighs_same_modality_negatives_more():
    """At equal scores, the gradient on same-modality negatives grows as their temperature falls."""
    queries = torch.tensor([[1.0, 0.0, 0.0]])
    base = torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.0, 0.8], [0.6, 0.0, -0.8]])
    shares = []
    for hard in (0.5, 0.2):
        candidates = base.clone().requires_grad_()
        codes = torch.tensor([1, 1, 0])  # positive image, negative image, negative text
        mac_loss(queries, candidates, torch.tensor([1]), codes, temperature=0.5, hard_temperature=hard).backward()
        pull = candidates.grad.norm(dim=1)
        shares.append(float(pull[1] / pull[2]))
    assert shares[0] == pytest.approx(1.0, abs=1e-4)
    assert shares[1] > 2.0


def test_excluded_candidates_leave_the_sum_and_positives_never_do():
    queries, candidates, target, modality, _ = case(3, 3, 4, 0)
    everything = torch.ones(3, 3, dtype=torch.bool)
    loss = mac_loss(queries, candidates, target, modality, temperature=0.1, hard_temperature=0.1, exclude=everything)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


def test_masks_apply_before_the_temperatures():
    """A false negative of the positive's modality leaves the sum whole, at either temperature."""
    queries, candidates, target, modality, _ = case(3, 6, 5, 2)
    exclude = torch.zeros(3, 6, dtype=torch.bool)
    exclude[:, 4] = True
    options = {"temperature": 0.3, "hard_temperature": 0.1}
    masked = mac_loss(queries, candidates, target, modality, exclude=exclude, **options)
    left = [0, 1, 2, 3, 5]
    without = mac_loss(queries, candidates[left], target, modality[left], **options)
    assert float(masked) == pytest.approx(float(without), abs=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.1, -0.2])
def test_margin_masks_what_beats_the_positive(margin):
    queries, candidates, target, modality, _ = case(4, 9, 3, 7)
    cosine = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(candidates, dim=1).T
    beaten = cosine > cosine.diagonal()[:, None] + margin
    assert beaten.any()
    options = {"temperature": 0.3, "hard_temperature": 0.1}
    got = mac_loss(queries, candidates, target, modality, margin=margin, **options)
    assert float(got) == pytest.approx(float(slow(queries, candidates, target, modality, 0.3, 0.1, beaten)), abs=1e-5)


def test_no_negative_of_the_positives_modality():
    """Then the hard temperature touches the positive alone; and no negative at all gives 0, with a gradient of 0."""
    queries, candidates, _, _, _ = case(3, 3, 4, 11)
    codes = torch.tensor([0, 1, 2])
    options = {"temperature": 0.5, "hard_temperature": 0.2}
    loss = mac_loss(queries, candidates, codes, codes, **options)
    assert float(loss) == pytest.approx(float(slow(queries, candidates, codes, codes, 0.5, 0.2)), abs=1e-5)
    shares = negative_shares(queries, candidates, codes, codes, **options)
    assert (float(shares["hard"]), float(shares["other"])) == (0.0, 1.0)
    alone = [queries[:1].clone().requires_grad_(), candidates[:1].clone().requires_grad_()]
    nothing = mac_loss(*alone, codes[:1], codes[:1], **options)
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert all(torch.equal(row.grad, torch.zeros_like(row)) for row in alone)


def test_shares_by_definition_and_without_negatives():
    queries, candidates, target, modality, exclude = case(4, 8, 5, 1)
    exclude[2] = True  # query 2 has no negative
    options = {"temperature": 0.4, "hard_temperature": 0.2}
    shares = negative_shares(queries, candidates, target, modality, exclude=exclude, **options)
    hard = []
    for i in (0, 1, 3):
        groups = {True: 0.0, False: 0.0}
        for j in range(8):
            if j != i and not exclude[i, j]:
                same = bool(modality[j] == target[i])
                cosine = torch.cosine_similarity(queries[i], candidates[j], dim=0)
                groups[same] += math.exp(float(cosine) / (0.2 if same else 0.4))
        hard.append(groups[True] / (groups[True] + groups[False]))
    assert float(shares["hard"]) == pytest.approx(sum(hard) / 3, abs=1e-5)
    assert float(shares["other"]) == pytest.approx(1 - sum(hard) / 3, abs=1e-5)
    everything = torch.ones_like(exclude)
    none = negative_shares(queries, candidates, target, modality, exclude=everything, **options)
    assert (float(none["hard"]), float(none["other"])) == (0.0, 0.0)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_states_are_scored_in_fp32(kind):
    queries, candidates, target, modality, _ = case(6, 6, 64, 5)
    half = [queries.to(kind), candidates.to(kind)]
    options = {"temperature": 0.03, "hard_temperature": 0.02}
    assert torch.equal(
        mac_loss(*half, target, modality, **options),
        mac_loss(half[0].float(), half[1].float(), target, modality, **options),
    )


def test_scores_are_fp32_under_bf16_autocast():
    queries, candidates, target, modality, _ = case(6, 6, 64, 5)
    exact = mac_loss(queries, candidates, target, modality, temperature=0.03, hard_temperature=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = mac_loss(queries.float(), candidates.float(), target, modality, temperature=0.03, hard_temperature=0.02)
    assert cast.dtype == torch.float32
    assert float(cast) == pytest.approx(float(exact), rel=1e-5)


def test_schedule_is_exact_and_stops_at_half():
    assert hard_temperature(0.03, 0.5, 0.0) == 0.03
    assert hard_temperature(0.03, 0.5, 0.25) == 0.03 * math.exp(-0.25)
    assert hard_temperature(0.03, 0.5, 0.5) == hard_temperature(0.03, 0.5, 1.0) == 0.03 * math.exp(-0.5)
    assert round(hard_temperature(0.03, 0.5, 1.0), 3) != hard_temperature(0.03, 0.5, 1.0)
    assert hard_temperature(0.03, 0.0, 0.7) == 0.03


@pytest.mark.parametrize(
    ("t", "d", "p"),
    [(0, 0.5, 0), (-1, 0.5, 0), (float("nan"), 0.5, 0), (0.1, -1, 0), (0.1, 0.5, 1.1), (0.1, 0.5, -0.1)],
)
def test_schedule_refuses(t, d, p):
    with pytest.raises(InputError):
        hard_temperature(t, d, p)


def test_shapes_are_checked_by_name():
    codes = torch.zeros(3).long()
    good = {"temperature": 0.1, "hard_temperature": 0.1}
    with pytest.raises(InputError, match="c >= q"):
        mac_loss(torch.ones(3, 2), torch.ones(2, 2), codes, codes[:2], **good)
    with pytest.raises(InputError, match="target_modality"):
        mac_loss(torch.ones(3, 2), torch.ones(3, 2), codes[:2], codes, **good)
    with pytest.raises(InputError, match="exclude"):
        mac_loss(torch.ones(3, 2), torch.ones(3, 2), codes, codes, exclude=torch.zeros(2, 2).bool(), **good)
    with pytest.raises(InputError, match="positive"):
        mac_loss(torch.ones(3, 2), torch.ones(3, 2), codes, codes, temperature=0.1, hard_temperature=0.0)
