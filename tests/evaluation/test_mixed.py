"""Figures of orders in which all modalities stand, by hand."""

import pytest

from puma.errors import InputError
from puma.evaluation.metrics import precision_at_k
from puma.evaluation.mixed import mixed_table

KINDS = {"a": "text", "b": "image", "c": "image,text", "d": "text"}


def test_by_hand():
    grades = {"q": {"a": 1, "b": 2}, "r": {"c": 2}, "none": {"d": 0}}
    found = mixed_table(grades, {"q": ["b", "d"], "r": ["d", "a"]}, KINDS, k=2)
    assert found.queries == 2
    assert found.precision == pytest.approx((1 / 2 + 0) / 2)
    assert found.first == pytest.approx(1 / 2)
    best = 2 + 1 / 1.584962500721156
    assert found.ndcg == pytest.approx((2 / best + 0) / 2)
    assert found.shares == {"text": 3 / 4, "image": 1 / 4, "image,text": 0}


def test_only_the_first_k_count_and_a_missing_query_found_nothing():
    grades = {"q": {"a": 1}, "r": {"b": 1}}
    found = mixed_table(grades, {"q": ["b", "a", "c"]}, KINDS, k=1)
    assert (found.precision, found.first, found.ndcg) == (0, 0, 0)
    assert found.shares == {"text": 0, "image": 1, "image,text": 0}


def test_precision_counts_empty_places_as_wrong_and_ties_against_us():
    assert precision_at_k({"q": {"a": 1}}, {"q": {"a": 0.5}}, 10) == pytest.approx(0.1)
    assert precision_at_k({"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.5}}, 1) == 0
    with pytest.raises(InputError, match="k must be"):
        precision_at_k({"q": {"a": 1}}, {}, 0)


def test_bad_input():
    with pytest.raises(InputError, match="'q' holds an item twice"):
        mixed_table({"q": {"a": 1}}, {"q": ["a", "b", "a"]}, KINDS)
    with pytest.raises(InputError, match="for item 'x'"):
        mixed_table({"q": {"a": 1}}, {"q": ["x"]}, KINDS)
    with pytest.raises(InputError, match="no query with a positive"):
        mixed_table({"q": {"a": 0}}, {"q": ["a"]}, KINDS)
