"""The losses MAC-Loss is compared with: each against its formula in loops, gradients too; one interface for all."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.losses import LOSS_FUNCTIONS, LOSSES, graph_cut_loss, infonce_loss, mac_loss, siglip_loss
from support.gradients import assert_same_with_gradients

TAU = 0.4


def cosine(a, b):
    return torch.dot(a, b) / (a.norm() * b.norm())


def outside(i, candidates, exclude):
    """The elements of V that are not in A_i."""
    return [j for j in range(len(candidates)) if j != i and not (exclude is not None and exclude[i, j])]


def slow_infonce(queries, candidates, exclude):
    total = 0.0
    for i, query in enumerate(queries):
        logits = [cosine(query, candidates[i]) / TAU]
        logits += [cosine(query, candidates[j]) / TAU for j in outside(i, candidates, exclude)]
        total = total - torch.log_softmax(torch.stack(logits), 0)[0]
    return total / len(queries)


def slow_siglip(queries, candidates, exclude, bias=-10.0):
    total = 0.0
    for i, query in enumerate(queries):
        total = total - torch.log(torch.sigmoid(cosine(query, candidates[i]) / TAU + bias))
        for j in outside(i, candidates, exclude):
            total = total - torch.log(1 - torch.sigmoid(cosine(query, candidates[j]) / TAU + bias))
    return total / len(queries)


def slow_set(queries, candidates, exclude, spread, weight=1.0):
    def kernel(a, b):
        return torch.exp(cosine(a, b) / TAU)

    total = 0.0
    for i, query in enumerate(queries):
        members = [query, candidates[i]]
        cut = 0.0
        for j in outside(i, candidates, exclude):
            cut = cut + spread(torch.stack([kernel(member, candidates[j]) for member in members]))
        total = total + torch.log(1 + cut / (weight * kernel(*members)))
    return total / len(queries)


SLOW = {
    "infonce": slow_infonce,
    "siglip": slow_siglip,
    "facility-location": lambda q, c, e: slow_set(q, c, e, torch.max),
    "graph-cut": lambda q, c, e: slow_set(q, c, e, torch.sum),
}


def case(q, c, d, seed):
    g = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(n, d, generator=g, dtype=torch.float64) for n in (q, c))
    codes = [torch.randint(0, 3, (n,), generator=g) for n in (q, c)]
    return queries, candidates, *codes, torch.rand(q, c, generator=g) < 0.3


@pytest.mark.parametrize("name", SLOW)
@settings(max_examples=15, deadline=None)
@given(
    q=st.integers(1, 4), extra=st.integers(0, 3), d=st.integers(2, 6), seed=st.integers(0, 10**6), masked=st.booleans()
)
def test_equals_the_slow_version_gradients_too(name, q, extra, d, seed, masked):
    queries, candidates, target, modality, exclude = case(q, q + extra, d, seed)
    mask = exclude if masked else None
    assert_same_with_gradients(
        lambda q, c: LOSS_FUNCTIONS[name](q, c, target, modality, temperature=TAU, hard_temperature=0.1, exclude=mask),
        lambda q, c: SLOW[name](q, c, mask),
        queries,
        candidates,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_one_interface(name):
    """Masks, margin, a lone pair, a false negative on the diagonal and bf16 mean the same to every loss."""
    queries, candidates, target, modality, exclude = case(4, 7, 3, 5)
    options = {"temperature": 0.2, "hard_temperature": 0.1}
    loss = LOSS_FUNCTIONS[name]
    near = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(candidates, dim=1).T
    beaten = near > near.diagonal()[:, None] + 0.05
    assert beaten.any()
    with_margin = loss(queries, candidates, target, modality, exclude=exclude, margin=0.05, **options)
    with_mask = loss(queries, candidates, target, modality, exclude=exclude | beaten, **options)
    assert float(with_margin) == pytest.approx(float(with_mask), abs=1e-6)
    assert float(with_mask) != pytest.approx(float(loss(queries, candidates, target, modality, **options)), abs=1e-3)
    alone = loss(queries[:1], candidates[:1], target[:1], modality[:1], **options)
    only = loss(queries, candidates, target, modality, exclude=torch.ones_like(exclude), **options)
    assert torch.isfinite(alone)
    assert torch.isfinite(only)
    if name != "siglip":  # which asks of the pair by itself
        assert (float(alone), float(only)) == (0.0, 0.0)
    rounded = [queries.bfloat16(), candidates.bfloat16()]
    assert torch.equal(
        loss(*rounded, target, modality, **options),
        loss(*(row.float() for row in rounded), target, modality, **options),
    )
    with pytest.raises(InputError, match="c >= q"):
        loss(queries, candidates[:2], target, modality[:2], **options)
    with pytest.raises(InputError, match="temperature=0"):
        loss(queries, candidates, target, modality, temperature=0.0, hard_temperature=0.1)


def test_infonce_is_mac_loss_at_one_temperature():
    queries, candidates, target, modality, exclude = case(4, 7, 3, 6)
    mac = mac_loss(queries, candidates, target, modality, temperature=0.2, hard_temperature=0.2, exclude=exclude)
    plain = infonce_loss(queries, candidates, target, modality, temperature=0.2, hard_temperature=0.01, exclude=exclude)
    assert torch.equal(mac, plain)


def test_closed_forms_at_equal_scores():
    """Four equal pairs: all cosines 1. Facility location sees 3 outside, graph cut twice 3, siglip 1 + 3 logits."""
    same, codes = torch.ones(4, 8), torch.zeros(4).long()
    values = {
        name: float(f(same, same, codes, codes, temperature=1.0, hard_temperature=1.0))
        for name, f in LOSS_FUNCTIONS.items()
    }
    assert values["infonce"] == pytest.approx(math.log(4), abs=1e-5)
    assert values["facility-location"] == pytest.approx(math.log(1 + 3), abs=1e-5)
    assert values["graph-cut"] == pytest.approx(math.log(1 + 6), abs=1e-5)
    assert values["siglip"] == pytest.approx(math.log(1 + math.exp(9)) + 3 * math.log(1 + math.exp(-9)), rel=1e-5)
    weighed = graph_cut_loss(same, same, codes, codes, temperature=1.0, weight=2.0)
    assert float(weighed) == pytest.approx(math.log(1 + 3), abs=1e-5)
    neutral = siglip_loss(same, same, codes, codes, temperature=1.0, bias=-1.0)
    assert float(neutral) == pytest.approx(4 * math.log(2), abs=1e-5)


def test_own_parameters_are_checked():
    same, codes = torch.ones(2, 3), torch.zeros(2).long()
    with pytest.raises(InputError, match="bias=inf"):
        siglip_loss(same, same, codes, codes, temperature=1.0, bias=float("inf"))
    with pytest.raises(InputError, match="weight=0"):
        graph_cut_loss(same, same, codes, codes, temperature=1.0, weight=0)
