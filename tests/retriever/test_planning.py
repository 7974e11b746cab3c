"""Which items go through the model together: every one once, cheapest division, kinds apart, images by their tokens."""

import io
import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from puma.items import Item
from puma.retriever.encoding.batches import GPU_PASS_TOKENS, length_sorted_batches
from puma.retriever.encoding.planning import image_token_counts, item_heads, kinds_by_head, planned_batches
from puma.retriever.model import Retriever

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=1, prompt="short", device="cpu")


def plan(retriever, items, instructions=None, **options):
    options = {"batch_size": 2, "device": CPU, **options}
    return list(planned_batches(retriever.inputs, items, instructions or [None] * len(items), **options))


@given(
    lengths=st.lists(st.integers(1, 60), max_size=9),
    size=st.integers(1, 9),
    fixed=st.integers(0, 100),
    most=st.integers(40, 300),
)
def test_rows_are_divided_into_the_cheapest_batches(lengths, size, fixed, most):
    batches = length_sorted_batches(lengths, size, fixed=fixed, most_tokens=most)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    ordered = [lengths[i] for batch in batches for i in batch]
    assert ordered == sorted(lengths, reverse=True)  # a shortage of memory shows at once

    def allowed(start, end):
        return end - start <= size and (end - start == 1 or (end - start) * ordered[start] <= most)

    def cost(ends):
        return sum(fixed + (end - start) * ordered[start] for start, end in itertools.pairwise([0, *ends]))

    n = len(lengths)
    every = [
        [*inner, n]
        for count in range(n)
        for inner in itertools.combinations(range(1, n), count)
        if all(allowed(start, end) for start, end in itertools.pairwise([0, *inner, n]))
    ]
    found = list(itertools.accumulate(map(len, batches)))
    assert all(allowed(start, end) for start, end in itertools.pairwise([0, *found]))
    assert cost(found) == min(map(cost, every), default=0)


@given(lengths=st.lists(st.integers(1, 60), max_size=30), size=st.integers(1, 9), most=st.integers(1, 200))
def test_where_a_pass_is_dear_batches_are_full(lengths, size, most):
    batches = length_sorted_batches(lengths, size, most_tokens=most)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch, after in itertools.pairwise(batches):
        longest = lengths[batch[0]]
        assert len(batch) == size or (len(batch) + 1) * longest > most
        assert longest >= lengths[after[0]]
    assert all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= most for batch in batches)


def test_every_item_once_and_kinds_apart(retriever, monkeypatch):
    items = [Item(text="a " * n) for n in (5, 1, 9, 2, 2, 7)] + [Item(image=np.zeros((8, 8), np.uint8))]
    items += [Item(text="b", image=np.ones((8, 8), np.uint8))]
    for windows, device in (((1,), CPU), ((1, 2), GPU), ((64,), CPU)):  # several are planned on a thread
        monkeypatch.setattr("puma.retriever.encoding.planning.WINDOWS", windows)
        batches = plan(retriever, items, device=device)
        assert sorted(row for batch in batches for row in batch.rows) == list(range(8))
        for batch in batches:
            assert len(batch.rows) <= 2
            assert {items[row].image is not None for row in batch.rows} == {batch.with_images}
            written = retriever.inputs.tokenizer(
                retriever.inputs.written([items[row] for row in batch.rows]), add_special_tokens=False
            )
            assert batch.ids == written["input_ids"]
        assert batches[0].with_images
        assert not batches[-1].with_images


def test_lengths_are_those_of_the_tokens_and_instructions_count(retriever):
    # The second has fewer letters and more tokens.
    items = [Item(text="picture picture picture"), Item(text="ÄÖÜ ŞÇĞ ÑÕ")]
    assert [batch.rows for batch in plan(retriever, items, batch_size=1)] == [[1], [0]]
    assert [b.rows for b in plan(retriever, items, ["Find a picture. " * 4, None], batch_size=1)] == [[0], [1]]


def test_images_seen_before_come_after_the_others(retriever):
    items = [Item(image=np.full((8, 8), n, np.uint8)) for n in range(3)] + [Item(text="a")]
    batches = plan(retriever, items, again=[False, True, False, False])
    assert [(batch.rows, batch.again) for batch in batches] == [([0, 2], False), ([1], True), ([3], False)]


def test_instructions_go_apart_where_that_pays(retriever):
    items = [Item(text=f"a {n}") for n in range(9)]
    instructions = ["Find a picture that matches this sentence."] * 8 + ["Find a dog."]
    heads = item_heads(retriever.inputs, items, instructions)
    tokens = retriever.inputs.tokenizer(instructions[0] + " ", add_special_tokens=False)["input_ids"]
    assert list(heads[0]) == tokens
    assert kinds_by_head(heads, CPU) == [heads[0]] * 8 + [None]
    assert kinds_by_head(heads, GPU) == [None] * 9
    many = GPU_PASS_TOKENS // len(heads[0]) + 2
    assert kinds_by_head([heads[0]] * many, GPU) == [heads[0]] * many
    batches = plan(retriever, items, instructions, batch_size=64, kinds=kinds_by_head(heads, CPU))
    assert sorted(map(len, (batch.rows for batch in batches)))[0] == 1
    assert all(len({instructions[row] for row in batch.rows}) == 1 for batch in batches)


def encoded(size):
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm", "idefics3", "gemma3", "llava"])
def test_an_images_tokens_are_known_from_its_size(family, family_base, tmp_path):
    retriever = Retriever.from_base(family_base(family), layers=1, device="cpu")
    sizes = [(16, 16), (64, 32), (30, 61), (64, 64)]
    path = tmp_path / "last.png"
    path.write_bytes(encoded(sizes[3]))
    images = [Image.new("RGB", sizes[0]), encoded(sizes[1]), np.zeros((61, 30, 3), np.uint8), path]
    counts = image_token_counts(retriever.processor, [Item(image=image) for image in images])
    true = [len(retriever.inputs.features([Item(image=image)])["input_ids"][0]) for image in images]
    if family in ("qwen2_vl", "idefics3"):  # to the token; others leave out what is written around tiles
        assert [one - counts[0] for one in counts] == [one - true[0] for one in true]
    assert min(counts) > 0
    assert sorted(range(4), key=lambda n: (counts[n], true[n])) == sorted(range(4), key=lambda n: (true[n], counts[n]))


def test_images_of_unknown_size_or_processors_count_nothing(tmp_path):
    class Counting:
        def _get_num_multimodal_tokens(self, image_sizes):
            return {"num_image_tokens": [height * width for height, width in image_sizes]}

    os.mkfifo(tmp_path / "pipe.png")  # would be waited for without end
    items = [Item(image=tmp_path / "gone.png"), Item(image=b"no image"), Item(image=Image.new("RGB", (3, 5)))]
    items += [Item(image=tmp_path), Item(image=tmp_path / "pipe.png")]
    assert image_token_counts(Counting(), items) == [0, 0, 15, 0, 0]
    assert image_token_counts(object(), items) == [0] * 5
