"""Prefixes: which tokens are shared, and what is kept of them in how much memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from puma.retriever.encoding.bounded import BoundedMemory
from puma.retriever.onnx.prefixes import Prefix, common_length

TOKENS = st.lists(st.integers(0, 2), max_size=6)


@given(TOKENS, st.lists(TOKENS.filter(len), min_size=1, max_size=4))
def test_the_common_length_is_the_slow_ones(head, sequences):
    def fits(length):
        return all(s[:length] == head[:length] and length < len(s) for s in sequences)

    assert common_length(head, sequences) == max(n for n in range(len(head) + 1) if all(map(fits, range(n + 1))))


def prefix(tokens):
    keys = np.arange(2 * 3 * tokens * 4, dtype=np.float32).reshape(2, 3, tokens, 4)
    return Prefix(keys, -keys)


def test_the_first_tokens_of_a_prefix_are_a_copy_of_their_keys_and_values():
    whole = prefix(5)
    part = whole.first(2)
    assert (len(whole), len(part), part.size) == (5, 2, 2 * 2 * 3 * 2 * 4 * 4)
    np.testing.assert_array_equal(part.values, whole.values[:, :, :2])
    assert part.keys.base is None  # the whole one is not kept alive
    assert len(Prefix.empty((2, 3, 4))) == 0


def test_what_was_used_longest_ago_makes_room():
    memory = BoundedMemory[Prefix](most_bytes=3 * prefix(2).size)
    for name in range(3):
        memory.put((name,), prefix(2))
    assert memory.get((0,)) is not None  # now the last used
    memory.put((2,), prefix(2))  # the same again takes no more room
    assert all(memory.get((name,)) is not None for name in (1, 2, 0))
    memory.put((3,), prefix(4))
    assert [memory.get((name,)) is not None for name in range(4)] == [True, False, False, True]
    memory.put((4,), prefix(100))  # larger than all there may be
    assert all(memory.get((name,)) is None for name in range(5))
