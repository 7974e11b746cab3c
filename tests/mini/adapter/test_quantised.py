"""Quantisation within half a step, packing without gaps, factors no worse than any others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from puma.errors import InputError
from puma.mini.adapter.quantised import BITS, dequantised, limit, low_rank, pack, product, quantise, unpack

MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@given(st.integers(2, 8).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1)))))
@settings(deadline=None)
def test_packing_is_written_out_in_bits_and_comes_back(drawn: tuple[int, list[int]]) -> None:
    bits, codes = drawn
    packed = pack(np.array(codes, np.uint8), bits)
    text = "".join(f"{code:0{bits}b}" for code in codes)
    text += "0" * (-len(text) % 8)
    assert bytes(packed) == bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    assert unpack(packed, len(codes), bits).tolist() == codes


@given(MATRICES, st.sampled_from(BITS), st.integers(1, 10))
@settings(deadline=None)
def test_no_number_is_off_by_more_than_half_its_groups_step(values: np.ndarray, bits: int, group: int) -> None:
    found = dequantised(quantise(values, bits, group))
    assert found.dtype == np.float32
    largest = np.abs(values).max()
    for start in range(0, values.shape[1], group):
        block, back = (m[:, start : start + group].astype(np.float64) for m in (values, found))
        # the step from its definition; float16 rounds it up by 2**-10 at most, near its underflow by 2**-24 of the top
        step = np.abs(block).max(1, keepdims=True) / limit(bits) * (1 + 2**-10) + largest / limit(bits) * 2**-23
        assert (np.abs(back - block) <= step * 0.5001).all()
        assert (back[np.abs(block).max(1) == 0] == 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_the_bound_is_reached_so_it_is_not_idle(bits: int) -> None:
    top = np.float32(limit(bits))
    values = np.array([[top, 0.5, -top, -0.4]], np.float32)  # a step of one
    assert dequantised(quantise(values, bits, 4)).tolist() == [[top, 0.0, -top, 0.0]]
    assert quantise(values, bits, 4).codes.nbytes == -(-4 * bits // 8)


def test_tiny_differences_do_not_vanish() -> None:
    values = np.random.default_rng(0).normal(0, 1e-8, (8, 64)).astype(np.float32)
    found = dequantised(quantise(values, 8))
    assert np.linalg.norm(found - values) < 0.01 * np.linalg.norm(values)


def test_error_of_gaussian_numbers_is_that_of_uniform_rounding() -> None:
    values = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    steps = np.abs(values).reshape(256, 4, 64).max(2)
    for bits in (4, 6, 8):
        expected = np.sqrt((steps**2).mean() / limit(bits) ** 2 / 12)
        error = np.sqrt(np.square(dequantised(quantise(values, bits)) - values).mean())
        assert error == pytest.approx(expected, rel=0.03)


def test_bad_arguments() -> None:
    for arguments, message in (
        ((np.ones((2, 2)), 1), "bits=1"),
        ((np.ones((2, 2)), 9), "bits=9"),
        ((np.ones((2, 2)), 8, 0), "group=0"),
        ((np.ones(2), 8), r"shape \(2,\)"),
        ((np.full((1, 1), np.inf), 8), "finite"),
    ):
        with pytest.raises(InputError, match=message):
            quantise(*arguments)
    with pytest.raises(InputError, match="rank=0"):
        low_rank(np.ones((2, 2)), 0)


def test_low_rank_is_exact_at_the_matrix_own_rank_and_takes_no_more() -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(20, 3)) @ rng.normal(size=(3, 30))).astype(np.float32)
    left, right = low_rank(matrix, 8)
    assert left.shape == (3, 20)
    assert right.shape == (3, 30)
    np.testing.assert_allclose(product(left, right), matrix, atol=1e-5)
    assert len(low_rank(np.zeros((4, 5)), 2)[0]) == 1


def test_low_rank_is_the_best_of_its_rank() -> None:
    """Eckart and Young: what is lost is the tail of the singular values."""
    matrix = np.random.default_rng(1).normal(size=(12, 9)).astype(np.float32)
    values = np.linalg.svd(matrix, compute_uv=False)
    for rank in (1, 4, 8):
        left, right = low_rank(matrix, rank)
        lost = np.linalg.norm(product(left, right) - matrix)
        assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4)
        np.testing.assert_allclose(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1), rtol=1e-4)  # in balance


@given(MATRICES)
@settings(deadline=None, max_examples=30)
def test_low_rank_has_fixed_signs_and_is_finite(matrix: np.ndarray) -> None:
    left, right = low_rank(matrix, 3)
    assert np.isfinite(left).all()
    assert np.isfinite(right).all()
    # The largest entry is positive; of two that are equal but for rounding, either may have been taken for it.
    assert (left.max(1) >= np.abs(left).max(1) * (1 - 1e-6)).all()
