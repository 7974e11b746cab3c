"""How a step's items are divided: against every possible division, and against the model itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.items.item import Item
from puma.retriever.model import Retriever
from puma.training.chunking import cheapest_chunks, chunks_of, equal_chunks

lengths_of = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def cost(chunks, lengths, fixed):
    return sum(fixed + len(rows) * max(lengths[row] for row in rows) for rows in chunks)


@given(lengths_of, st.integers(1, 4), st.integers(0, 15))
def test_no_division_of_the_sorted_rows_is_cheaper(lengths, most, fixed):
    chunks = cheapest_chunks(lengths, most, fixed)
    ordered = sorted(lengths)
    divisions = (
        [list(range(a, b)) for a, b in itertools.pairwise((0, *inner, len(ordered)))]
        for cuts in range(min(most, len(ordered)))
        for inner in itertools.combinations(range(1, len(ordered)), cuts)
    )
    assert cost(chunks, lengths, fixed) == min(cost(division, ordered, fixed) for division in divisions)
    assert len(chunks) <= most


@given(lengths_of, st.integers(1, 12))
def test_every_row_is_in_one_chunk_and_shorter_rows_come_first(lengths, most):
    for chunks in (cheapest_chunks(lengths, most), equal_chunks(lengths, most)):
        assert sorted(itertools.chain(*chunks)) == list(range(len(lengths)))
        for before, after in itertools.pairwise(chunks):
            assert max(lengths[row] for row in before) <= min(lengths[row] for row in after)


@given(lengths_of, st.integers(1, 12))
def test_equal_chunks_differ_by_one_row_at_most(lengths, count):
    sizes = [len(rows) for rows in equal_chunks(lengths, count)]
    assert len(sizes) == min(count, len(lengths))
    assert max(sizes) - min(sizes) <= 1


def test_many_rows_of_few_lengths_are_quick_and_right():
    lengths = np.random.default_rng(0).integers(5, 40, 20_000).tolist()
    chunks = cheapest_chunks(lengths, 4)
    assert cost(chunks, lengths, 0) < cost(equal_chunks(lengths, 4), lengths, 0)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_lengths_are_those_that_the_model_gets(family_base, family):
    retriever = Retriever.from_base(family_base(family), layers=1, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    items = [Item(text="fox"), Item(image=image), Item(text="a red fox in the snow", image=image), Item(text="a fox")]
    instructions = [None, None, "Find the animal.", None]
    features = [retriever.inputs.features([item], [ask]) for item, ask in zip(items, instructions, strict=True)]
    true = [one["input_ids"].shape[1] for one in features]
    order = list(itertools.chain(*chunks_of(retriever.inputs, items, instructions, 4, equal=True)))
    assert order == list(np.argsort(true, kind="stable"))
