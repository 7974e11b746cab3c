"""Shortened vectors: what is cut, for whom it may be cut, and what an encoder that is cut still is."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from puma.errors import InputError
from puma.items import Item
from puma.items.dimensions import ShortenedEncoder, checked_dimensions, of_length, shortened, trained_dimensions
from support.encoders import ToyEncoder


class Nested(ToyEncoder):
    dimensions = (4, 8)
    counts_tokens = True


@given(
    vectors=arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 6)), elements=st.floats(-1, 1, width=32)),
    share=st.floats(0, 1),
)
def test_cut_rows_have_unit_length_and_keep_their_direction(vectors, share):
    length = max(1, round(share * vectors.shape[1]))
    cut = shortened(vectors, length)
    assert (cut.shape, cut.dtype) == ((len(vectors), length), np.float32)
    for row, whole in zip(cut, vectors, strict=True):
        norm = float(np.linalg.norm(whole[:length].astype(np.float64)))
        if length < vectors.shape[1] and norm > 1e-6:
            assert abs(float(np.linalg.norm(row)) - 1) < 1e-5
            np.testing.assert_allclose(row * norm, whole[:length], atol=1e-5)
    assert shortened(vectors, vectors.shape[1]) is vectors


def test_only_lengths_that_were_trained():
    encoder = Nested(16)
    assert trained_dimensions(encoder) == (4, 8, 16)
    assert [checked_dimensions(encoder, length) for length in (4, 8, 16)] == [4, 8, 16]
    for wrong in (0, 5, 17, True, 8.0, "8"):
        with pytest.raises(InputError, match="trained for vectors of 4, 8, 16 numbers; give one of them, or leave "):
            checked_dimensions(encoder, wrong)
    with pytest.raises(InputError, match=r"--dimensions=8: .* of 16 numbers; leave --dimensions out, or train a model"):
        checked_dimensions(ToyEncoder(16), 8, "--dimensions")


def test_an_encoder_that_is_cut():
    encoder = Nested(16)
    cut = ShortenedEncoder(encoder, 8)
    items = [Item(text="red fox"), Item(text="blue")]
    assert np.array_equal(cut.encode(items, instruction="x"), shortened(encoder.encode(items, instruction="x"), 8))
    assert (cut.dim, cut.dimensions, cut.fingerprint, cut.counts_tokens) == (8, (4,), "toy-1:8", True)
    assert (ShortenedEncoder(cut, 4).fingerprint, ShortenedEncoder(cut, 4).encoder) == ("toy-1:4", encoder)
    assert np.array_equal(copy.copy(cut).encode(items), cut.encode(items))
    assert of_length(encoder, None) is of_length(encoder, 16) is encoder
    assert of_length(encoder, 4).dim == 4
    for wrong in (16, 5):
        with pytest.raises(InputError, match=f"dimensions={wrong}"):
            ShortenedEncoder(cut, wrong)
