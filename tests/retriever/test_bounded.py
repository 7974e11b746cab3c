"""A memory of a number of bytes: never over it, the ones used last stay."""

from collections import OrderedDict
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from puma.retriever.encoding.bounded import BoundedMemory


@dataclass
class Value:
    size: int


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), st.booleans()), max_size=60))
def test_it_is_a_list_of_the_last_used(steps):
    memory, plain = BoundedMemory[Value](20), OrderedDict()
    for key, size, put in steps:
        if put:
            memory.put(key, Value(size))
            plain.pop(key, None)
            plain[key] = size
            while sum(plain.values()) > 20:
                plain.popitem(last=False)
        else:
            found = memory.get(key)
            assert (found and found.size) == plain.get(key)
            if key in plain:
                plain.move_to_end(key)
        assert {key for key in range(6) if key in memory} == set(plain)
        assert memory.bytes == sum(plain.values()) <= 20
        assert len(memory) == len(plain)


def test_what_is_larger_than_all_of_it_is_not_kept():
    memory = BoundedMemory[Value](5)
    memory.put("a", Value(3))
    memory.put("b", Value(6))
    assert memory.get("b") is None
    assert memory.bytes == 0
