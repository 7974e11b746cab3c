"""Split MAC-Loss: closed forms, a slow version beside it, gradients, empty groups, queries that ask for no modality."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.losses import infonce_loss, mac_loss, negative_shares, split_losses, split_mac_loss
from puma.losses.batch_keys import ANY
from support.gradients import assert_same_with_gradients

TAUS = {"temperature": 0.5, "hard_temperature": 0.3}


def slow(queries, candidates, target, modality, *, weight=1.0, exclude=None):
    """The definition, one number at a time."""
    total = 0.0
    for i, query in enumerate(queries):
        for same, tau, factor in ((True, 0.3, 1.0), (False, 0.5, weight)):
            terms = []
            for j, candidate in enumerate(candidates):
                cosine = torch.dot(query, candidate) / (query.norm() * candidate.norm())
                if j == i:
                    positive = cosine / tau
                    terms.append(positive)
                elif (exclude is None or not exclude[i, j]) and (target[i] in (modality[j], ANY)) == same:
                    terms.append(cosine / tau)
            total = total + factor * (torch.logsumexp(torch.stack(terms), 0) - positive)
    return total / len(queries)


def case(q, c, d, seed, any_share=0.0):
    g = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(n, d, generator=g, dtype=torch.float64) for n in (q, c))
    modality = torch.randint(0, 3, (c,), generator=g)
    target = torch.where(torch.rand(q, generator=g) < any_share, ANY, modality[:q])
    return queries, candidates, target, modality, torch.rand(q, c, generator=g) < 0.3


@settings(max_examples=30, deadline=None)
@given(
    q=st.integers(1, 5),
    extra=st.integers(0, 4),
    d=st.integers(2, 6),
    seed=st.integers(0, 10**6),
    masked=st.booleans(),
    weight=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    any_share=st.sampled_from([0.0, 0.5]),
)
def test_equals_the_slow_version_gradients_too(q, extra, d, seed, masked, weight, any_share):
    queries, candidates, target, modality, exclude = case(q, q + extra, d, seed, any_share)
    mask = exclude if masked else None
    assert_same_with_gradients(
        lambda q, c: split_mac_loss(q, c, target, modality, exclude=mask, other_weight=weight, **TAUS),
        lambda q, c: slow(q, c, target, modality, weight=weight, exclude=mask),
        queries,
        candidates,
    )


def test_equal_scores_give_the_log_of_each_group():
    """Query 0 meets one candidate of its modality and three of another: log 2 + weight * log 4; and so on."""
    same, codes = torch.ones(5, 8), torch.tensor([0, 0, 1, 1, 1])
    of_zero, of_one = (math.log(2), math.log(4)), (math.log(3), math.log(3))
    first, second = ((2 * a + 3 * b) / 5 for a, b in zip(of_zero, of_one, strict=True))
    for weight in (1.0, 0.25):
        loss = split_mac_loss(same, same, codes, codes, temperature=0.03, hard_temperature=0.02, other_weight=weight)
        assert float(loss) == pytest.approx(first + weight * second, abs=1e-5)


def test_three_candidates_by_hand():
    """Cosines 0.6 (positive), 0.8 (its modality), 1 (another): each group at its own temperature, the positive too."""
    queries = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[0.6, 0.8], [0.8, -0.6], [1.0, 0.0]])
    loss = split_mac_loss(queries, candidates, torch.tensor([1]), torch.tensor([1, 1, 0]), other_weight=2.0, **TAUS)
    same = math.log(1 + math.exp((0.8 - 0.6) / 0.3))
    other = math.log(1 + math.exp((1.0 - 0.6) / 0.5))
    assert float(loss) == pytest.approx(same + 2 * other, abs=1e-6)


def test_the_wrong_modality_is_felt_where_mac_loss_tolerates_it():
    """The paper's temperatures; a wrong-modality candidate at 0.6 against a positive at 0.5. MAC-Loss: its pull is
    exp(0.6 / 0.03 - 0.5 / 0.0182); split: exp(0.1 / 0.03) against 1."""
    hard = 0.03 * math.exp(-0.5)
    queries, codes = torch.tensor([[1.0, 0.0]]), torch.tensor([1, 0])
    pulls = {}
    for loss in (mac_loss, split_mac_loss):
        candidates = torch.tensor([[0.5, 0.75**0.5], [0.6, 0.8]], requires_grad=True)
        loss(queries, candidates, codes[:1], codes, temperature=0.03, hard_temperature=hard).backward()
        # the derivative with respect to the cosine, times the temperature, is the softmax weight
        pulls[loss] = float(candidates.grad[1].norm() / 0.8) * 0.03
    ratio = math.exp(0.6 / 0.03 - 0.5 / hard)
    assert ratio == pytest.approx(0.0006, abs=1e-4)
    assert pulls[mac_loss] == pytest.approx(ratio / (1 + ratio), rel=1e-3)
    odds = math.exp(0.1 / 0.03)
    assert pulls[split_mac_loss] == pytest.approx(odds / (1 + odds), rel=1e-3)
    assert pulls[split_mac_loss] > 1000 * pulls[mac_loss]


def test_a_batch_of_one_modality_is_infonce_at_the_hard_temperature():
    queries, candidates, _, _, exclude = case(4, 7, 5, 3)
    codes = torch.full((7,), 2)
    rows = [queries.clone().requires_grad_(), candidates.clone().requires_grad_()]
    plain_rows = [queries.clone().requires_grad_(), candidates.clone().requires_grad_()]
    loss = split_mac_loss(*rows, codes[:4], codes, exclude=exclude, other_weight=3.0, **TAUS)
    plain = infonce_loss(*plain_rows, codes[:4], codes, exclude=exclude, temperature=0.3)
    assert torch.equal(loss, plain)
    loss.backward()
    plain.backward()
    for one, other in zip(rows, plain_rows, strict=True):
        assert torch.equal(one.grad, other.grad)
    parts = split_losses(*rows, codes[:4], codes, exclude=exclude, other_weight=3.0, **TAUS)
    assert (float(parts["same"]), float(parts["other"])) == (float(loss.detach()), 0.0)


def test_no_negative_of_the_positives_modality_leaves_the_second_term():
    queries, candidates, _, _, _ = case(3, 3, 4, 11)
    codes = torch.tensor([0, 1, 2])
    parts = split_losses(queries, candidates, codes, codes, **TAUS)
    plain = infonce_loss(queries, candidates, codes, codes, temperature=0.5)
    assert (float(parts["same"]), float(parts["other"])) == (0.0, float(plain))


@pytest.mark.parametrize("temperature", [0.03, 1e-4])
def test_no_negative_at_all_is_zero_with_a_gradient_of_zero(temperature):
    queries, candidates, _, _, _ = case(3, 5, 4, 2)
    codes = torch.tensor([0, 1, 0, 1, 2])
    everything = torch.ones(3, 5, dtype=torch.bool)
    rows = [queries.clone().requires_grad_(), candidates.clone().requires_grad_()]
    options = {"temperature": temperature, "hard_temperature": temperature, "other_weight": 2.0}
    loss = split_mac_loss(*rows, codes[:3], codes, exclude=everything, **options)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(torch.equal(row.grad, torch.zeros_like(row)) for row in rows)


def test_parts_add_up_and_have_no_gradient():
    queries, candidates, target, modality, exclude = case(4, 8, 5, 1)
    rows = [queries.requires_grad_(), candidates]
    options = {"exclude": exclude, "other_weight": 0.3, "margin": 0.1, **TAUS}
    parts = split_losses(*rows, target, modality, **options)
    loss = split_mac_loss(*rows, target, modality, **options)
    assert min(float(part) for part in parts.values()) > 0
    assert float(sum(parts.values())) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert not any(part.requires_grad for part in parts.values())
    assert loss.requires_grad


def test_margin_masks_in_both_groups():
    queries, candidates, target, modality, _ = case(4, 9, 3, 0)
    cosine = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(candidates, dim=1).T
    beaten = cosine > cosine.diagonal()[:, None] + 0.1
    same = target[:, None] == modality[None, :]
    assert (beaten & same).any()
    assert (beaten & ~same).any()
    got = split_mac_loss(queries, candidates, target, modality, margin=0.1, **TAUS)
    assert float(got) == pytest.approx(float(slow(queries, candidates, target, modality, exclude=beaten)), abs=1e-5)


@pytest.mark.parametrize("loss", [mac_loss, split_mac_loss])
def test_a_query_that_asks_for_no_modality_has_one_softmax_at_the_hard_temperature(loss):
    queries, candidates, target, modality, exclude = case(4, 8, 5, 1)
    assert len(set(modality.tolist())) == 3
    nothing = torch.full_like(target, ANY)
    got = loss(queries, candidates, nothing, modality, exclude=exclude, **TAUS)
    assert torch.equal(got, infonce_loss(queries, candidates, target, modality, exclude=exclude, temperature=0.3))
    # Row by row: one such query among others changes its own term alone.
    mixed = target.clone()
    mixed[2] = ANY
    rows = [
        loss(
            queries[[i, *(n for n in range(4) if n != i)]],
            candidates[[i, *(n for n in range(8) if n != i)]],
            *(codes[[i, *(n for n in range(len(codes)) if n != i)]] for codes in (mixed, modality)),
            exclude=torch.arange(4)[:, None].expand(4, 8) > 0,  # the other queries have no negative: their terms are 0
            **TAUS,
        )
        for i in range(4)
    ]
    whole = loss(queries, candidates, mixed, modality, **TAUS)
    assert float(sum(rows)) == pytest.approx(float(whole), rel=1e-5)
    shares = negative_shares(queries, candidates, nothing, modality, **TAUS)
    assert float(shares["other"]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", [mac_loss, split_mac_loss])
def test_such_a_query_is_of_every_modality_in_the_candidates_view_too(loss):
    """There it stands among the candidates; what counts is the pair."""
    candidates, queries, _, _, _ = case(4, 4, 5, 8)
    modality = torch.tensor([0, 1, 1, 2])
    targets = torch.tensor([0, ANY, 1, 2])
    got = loss(candidates, queries, modality, targets, **TAUS)
    total = 0.0
    cosine = torch.nn.functional.normalize(candidates, dim=1) @ torch.nn.functional.normalize(queries, dim=1).T
    for j in range(4):
        same = [i for i in range(4) if i == j or targets[i] in (ANY, modality[j])]
        other = [i for i in range(4) if i not in same]
        hard, soft = cosine[j] / 0.3, cosine[j] / 0.5
        if loss is mac_loss:
            total += torch.logsumexp(torch.cat([hard[same], soft[other]]), 0) - hard[j]
        else:
            total += torch.logsumexp(hard[same], 0) - hard[j] + torch.logsumexp(soft[[j, *other]], 0) - soft[j]
    assert float(got) == pytest.approx(float(total) / 4, abs=1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_states_are_scored_in_fp32(kind):
    queries, candidates, target, modality, _ = case(6, 6, 64, 5)
    half = [queries.to(kind), candidates.to(kind)]
    options = {"temperature": 0.03, "hard_temperature": 0.02}
    assert torch.equal(
        split_mac_loss(*half, target, modality, **options),
        split_mac_loss(*(row.float() for row in half), target, modality, **options),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = split_mac_loss(queries.float(), candidates.float(), target, modality, **options)
    exact = split_mac_loss(queries, candidates, target, modality, **options)
    assert cast.dtype == torch.float32
    assert float(cast) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_wrong_weight_is_named(weight):
    same, codes = torch.ones(2, 3), torch.zeros(2).long()
    with pytest.raises(InputError, match=f"other_weight={weight!r}: give a number of at least 0"):
        split_mac_loss(same, same, codes, codes, other_weight=weight, **TAUS)
