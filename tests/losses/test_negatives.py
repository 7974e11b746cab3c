"""Which candidates are negatives: against the definition in loops, and by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.losses.negatives import compared, false_negatives, repeated


def slow(known, positive_key, candidate_key, content_key, positive):
    """The definition, one pair at a time."""
    q, c = len(positive_key), len(candidate_key)
    mask = torch.zeros(q, c, dtype=torch.bool)
    for i in range(q):
        right = {int(key) for key in known[i] if key >= 0} | {int(positive_key[i])}
        by_id = [j for j in range(c) if int(candidate_key[j]) in right or j == positive[i]]
        contents = {int(content_key[j]) for j in by_id} - {-1}
        for j in range(c):
            mask[i, j] = (j in by_id or int(content_key[j]) in contents) and j != positive[i]
    return mask


@settings(max_examples=60, deadline=None)
@given(
    q=st.integers(1, 5),
    extra=st.integers(0, 5),
    m=st.integers(0, 3),
    kinds=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    shuffled=st.booleans(),
)
def test_equals_the_definition(q, extra, m, kinds, seed, shuffled):
    g = torch.Generator().manual_seed(seed)
    c = q + extra
    candidate = torch.randint(0, kinds, (c,), generator=g) * 2**52  # keys are large: fp32 must not touch them
    content = torch.randint(-1, kinds, (c,), generator=g)
    known = torch.where(torch.rand(q, m, generator=g) < 0.3, -1, torch.randint(0, kinds, (q, m), generator=g) * 2**52)
    positive = torch.randperm(c, generator=g)[:q] if shuffled else torch.arange(q)
    got = false_negatives(known, candidate[positive], candidate, content, positive if shuffled else None)
    assert torch.equal(got, slow(known, candidate[positive], candidate, content, positive))


def test_each_reason_by_hand():
    """Query 0's positive is a; candidates: a, a again, another known positive, the same content, that content's
    stranger, a true negative of unknown content."""
    candidate = torch.tensor([10, 10, 11, 12, 13, 14])
    content = torch.tensor([5, 6, 7, 5, 8, -1])
    mask = false_negatives(torch.tensor([[10, 11]]), torch.tensor([10]), candidate, content)
    assert mask.tolist() == [[False, True, True, True, False, False]]
    by_id = false_negatives(torch.tensor([[10, 11]]), torch.tensor([10]), candidate)
    assert by_id.tolist() == [[False, True, True, False, False, False]]


def test_a_known_positives_twin_in_content_is_right_too():
    mask = false_negatives(
        torch.tensor([[1, 2]]), torch.tensor([1]), torch.tensor([1, 2, 3]), torch.tensor([20, 21, 21])
    )
    assert mask.tolist() == [[False, True, True]]


def test_repeats_count_once():
    assert repeated(torch.tensor([7, 3, 7, 9, 3, 7])).tolist() == [False, False, True, False, True, True]
    assert repeated(torch.tensor([1, 2])).tolist() == [False, False]


def test_the_margin_is_additive_also_below_zero():
    scores = torch.tensor([[-0.5, -0.41, -0.39, -0.9], [0.9, 0.5, 0.61, 0.59]])
    keep = compared(scores, None, 0.1)
    assert keep.tolist() == [[True, True, False, True], [False, True, False, True]]
    assert compared(scores, None, 0.0).tolist() == [[True, False, False, True], [False, True, False, False]]
    exclude = torch.tensor([[True, False, False, True], [False, False, True, False]])
    assert compared(scores, exclude).tolist() == [[True, True, True, False], [True, True, False, True]]


def test_faults_are_named():
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(InputError, match=r"\[q, m\]"):
        false_negatives(one, one, one)
    with pytest.raises(InputError, match="content_key"):
        false_negatives(one[None], one, one, torch.zeros(2))
    with pytest.raises(InputError, match="c >= q"):
        false_negatives(torch.zeros(2, 1), torch.zeros(2), one)
    with pytest.raises(InputError, match="margin=nan"):
        compared(torch.zeros(1, 1), None, float("nan"))
