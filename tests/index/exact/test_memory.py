"""Sizes as people write them, and what this process holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.errors import InputError
from puma.index.exact.memory import parse_memory, resident_bytes, shown_memory


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        ("4G", 4 * 10**9),
        ("4GiB", 4 * 2**30),
        ("0.5MiB", 2**19),
        ("512MB", 512 * 10**6),
        ("12k", 12_000),
        ("3TB", 3 * 10**12),
        ("77", 77),
        ("77B", 77),
        (123, 123),
    ],
)
def test_sizes_are_read(size, expected):
    assert parse_memory(size) == expected


@pytest.mark.parametrize("size", ["", "GB", "-4GB", "4 XB", "four", "4GB!", "0", 0, -1, True, 1.5, None, "1e9", "４GB"])
def test_what_is_no_size_is_refused_with_an_example(size):
    with pytest.raises(InputError, match=r"memory must be a size above zero such as '4GB'.*got"):
        parse_memory(size)


@given(st.integers(1, 10**15))
def test_a_shown_size_reads_back_as_no_less(size):
    assert 0 <= parse_memory(shown_memory(size)) - size < 10**6


def test_resident_bytes_follow_what_is_held():
    before = resident_bytes()
    held = np.ones(10**7)  # 80 MB, every page touched
    assert resident_bytes() - before > 0.9 * held.nbytes
