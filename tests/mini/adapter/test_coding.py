"""Which kind a tensor is written as, and that every kind comes back within its bound."""

from __future__ import annotations

import numpy as np
import pytest

from puma.mini.adapter.coding import Coded, Plan, decoded, digest, encoded, relative_error

RNG = np.random.default_rng(0)
BASE = RNG.normal(size=(40, 64)).astype(np.float32)
MOVE = RNG.normal(0, 0.05, size=(40, 64)).astype(np.float32)


def there_and_back(value, base, plan=None, keep_rows=()):
    coded = encoded(value, base, plan or Plan(), keep_rows)
    return coded, decoded(coded, base)


def test_what_did_not_change_takes_nothing():
    coded, back = there_and_back(BASE, BASE.copy())
    assert (coded.entry["kind"], coded.size) == ("same", 0)
    assert np.array_equal(back, BASE)


@pytest.mark.parametrize("value", [BASE[0], np.array(3.5, np.float32), np.array(7), np.arange(3)])
def test_vectors_and_whole_numbers_are_exact(value):
    coded, back = there_and_back(value, np.zeros_like(value))
    assert coded.entry == {"kind": "value"}
    assert back.shape == value.shape
    assert back.dtype == value.dtype
    assert np.array_equal(back, value)


def test_a_difference_is_taken_in_groups():
    for bits, most in ((8, 0.01), (6, 0.04), (4, 0.15)):
        coded, back = there_and_back(BASE + MOVE, BASE, Plan(bits))
        assert coded.entry["kind"] == "delta"
        assert coded.size == 40 * 64 * bits // 8 + 40 * 2
        assert 0 < relative_error(back, BASE + MOVE, BASE) < most


def test_convolutions_are_rows_by_output_channel():
    base = RNG.normal(size=(6, 3, 5, 5)).astype(np.float32)
    value = (
        base + RNG.normal(0, 0.1, base.shape).astype(np.float32) * np.array([1, 1e-3, 1, 1, 1, 1])[:, None, None, None]
    )
    coded, back = there_and_back(value.astype(np.float32), base, Plan(8, rank=1))  # a rank is for matrices
    assert coded.entry["kind"] == "delta"
    assert coded.arrays["delta_scales"].shape == (6, 2)
    small = relative_error(back[1], value[1].astype(np.float32), base[1])
    assert small < 0.01  # a channel that moved little has its own scale


def test_a_tensor_the_base_says_nothing_of_is_written_itself():
    """A projector at eight with a spread of a thousandth, against a random base: a difference would drown it."""
    value = 8 + RNG.normal(0, 1e-2, size=(20, 30)).astype(np.float32)
    coded, back = there_and_back(value, RNG.normal(size=(20, 30)).astype(np.float32))
    assert coded.entry == {"kind": "value"}
    assert coded.arrays["value"].dtype == np.float16
    assert np.linalg.norm(back - value) < 1e-3 * np.linalg.norm(value)
    for beyond in (1e5, 1e-7):  # float16 ends at 65504, and is coarse below 6e-5
        coded, back = there_and_back(value * np.float32(beyond), np.zeros_like(value))
        assert np.array_equal(back, value * np.float32(beyond))


def test_few_changed_rows_are_exact_and_carried_rows_need_not_agree():
    value = BASE.copy()
    value[[3, 39]] += 1
    coded, back = there_and_back(value, BASE, keep_rows=[5])
    assert coded.entry["kind"] == "rows"
    assert coded.arrays["rows"].tolist() == [3, 5, 39]
    assert np.array_equal(back, value)
    other = BASE.copy()
    other[[3, 5, 39]] = -7  # another machine's base
    assert digest(other, coded.arrays["rows"]) == coded.entry["base"]
    assert np.array_equal(decoded(coded, other), value)
    other[4, 0] += 1
    assert digest(other, coded.arrays["rows"]) != coded.entry["base"]


def test_a_whole_table_that_moved_still_has_its_carried_rows_in_full():
    coded, back = there_and_back(BASE + MOVE, BASE, Plan(4), keep_rows=[39])
    assert coded.entry["kind"] == "delta"
    assert np.array_equal(back[39], (BASE + MOVE)[39])
    assert not np.array_equal(back[38], (BASE + MOVE)[38])


def test_low_rank_is_used_where_it_is_smaller():
    move = (RNG.normal(size=(40, 2)) @ RNG.normal(size=(2, 64)) / 50).astype(np.float32)
    coded, back = there_and_back(BASE + move, BASE, Plan(8, rank=4))
    assert coded.entry["kind"] == "low-rank"
    assert coded.entry["left"]["shape"] == [2, 40]
    assert relative_error(back, BASE + move, BASE) < 0.02
    coded, _ = there_and_back(BASE + MOVE, BASE, Plan(8, rank=39))
    assert coded.entry["kind"] == "delta"  # 39 * 104 numbers are more than 40 * 64


def test_what_does_not_fit_is_said():
    coded, _ = there_and_back(BASE[0], BASE[1])
    with pytest.raises(ValueError, match="holds"):
        decoded(coded, BASE)
    with pytest.raises(ValueError, match="unknown way"):
        decoded(Coded({"kind": "new"}), BASE)
    coded, _ = there_and_back(BASE + MOVE, BASE)
    with pytest.raises(KeyError):
        decoded(Coded(coded.entry), BASE)
