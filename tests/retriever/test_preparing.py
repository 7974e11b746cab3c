"""Batches prepared ahead on threads: in order, bounded, closed; tokenizers that several threads share."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item
from puma.retriever import cores
from puma.retriever.encoding.batches import prefetched, preparing_threads
from puma.retriever.inputs import for_threads
from puma.retriever.model import Retriever

GROUPS = [[n] for n in range(20)]


@pytest.mark.parametrize("threads", [1, 3])
def test_order_is_kept_and_few_are_prepared_ahead(threads):
    begun, taken, ahead = [], 0, []

    def prepare(rows):
        begun.append(rows[0])
        ahead.append(rows[0] - taken)
        time.sleep(0.002 * (3 - rows[0] % 3))  # later ones are done first
        return rows[0] * 2

    for rows, made in prefetched(GROUPS, prepare, threads):
        assert made == 2 * rows[0] == 2 * taken
        taken += 1
    assert taken == 20
    assert sorted(begun) == list(range(20))
    assert max(ahead) <= threads
    assert list(prefetched([], prepare, threads)) == []


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_while_the_model_works_every_thread_prepares(threads):
    """Between two batches the consumer holds until the next ones are ready: it would hold for ever if they were not
    prepared while it works."""
    ready, changed = set(), threading.Condition()

    def prepare(rows):
        with changed:
            ready.add(rows[0])
            changed.notify_all()
        return rows

    for rows, _ in prefetched(GROUPS, prepare, threads):
        with changed:
            after = set(range(rows[0] + 1, min(rows[0] + 1 + threads, 20)))
            assert changed.wait_for(lambda after=after: after <= ready, timeout=60)


def test_an_error_comes_at_its_batch_and_nothing_goes_on():
    begun = []

    def prepare(rows):
        begun.append(rows[0])
        if rows[0] == 4:
            raise ImageError("4.png: no such file")
        return rows

    ready = prefetched(GROUPS, prepare, 3)
    assert [next(ready)[0] for _ in range(4)] == GROUPS[:4]
    with pytest.raises(ImageError, match=r"4\.png"):
        next(ready)
    assert max(begun) <= 4 + 3
    with pytest.raises(InputError, match="threads=0"):
        next(prefetched(GROUPS, prepare, 0))


def test_who_stops_early_leaves_no_thread():
    ready = prefetched(GROUPS, lambda rows: rows, 3)
    next(ready)
    assert any(thread.name.startswith("puma-prepare") for thread in threading.enumerate())
    ready.close()
    assert not any(thread.name.startswith("puma-prepare") for thread in threading.enumerate())


def test_threads_share_a_tokenizer_and_make_the_same(base):
    """Each thread cuts long texts (no padding) and pads batches: without a lock the tokenizer says "Already borrowed"
    or pads as the other asked."""
    retriever = Retriever.from_base(base, layers=1, prompt="open-quote", device="cpu")
    generator = np.random.default_rng(0)
    items = [
        Item(text="red fox blue heart " * int(generator.integers(1, 300)), image=Image.new("RGB", (9, 9), (n, 0, 0)))
        for n in range(60)
    ]
    groups = [list(range(n, n + 4)) for n in range(0, 60, 4)]
    shared = for_threads(retriever.inputs)
    plain = {rows[0]: retriever.inputs.features([items[i] for i in rows]) for rows in groups}
    for rows, made in prefetched(groups, lambda rows: shared.features([items[i] for i in rows]), 4):
        for key, value in plain[rows[0]].items():
            assert torch.equal(value, made[key]), key
    assert retriever.inputs.tokenizer is retriever.processor.tokenizer
    assert for_threads(shared) is shared


def test_encoding_with_threads_is_encoding_without(base, monkeypatch):
    retriever = Retriever.from_base(base, layers=1, prompt="open-quote", device="cpu")
    items = [Item(image=Image.new("RGB", (30, 20 + n), (9 * n, 0, 90)), text="a" * n or None) for n in range(20)]
    items += [Item(image=items[n].image, text=f"again {n}") for n in range(20)]  # is seen, and tokenised, in between
    plain = retriever.encode(items, batch_size=3)
    monkeypatch.setattr("puma.retriever.encoding.feeding.preparing_threads", lambda device: 3)
    np.testing.assert_array_equal(plain, retriever.encode(items, batch_size=3))


def test_threads_and_cores(monkeypatch, tmp_path):
    assert preparing_threads(torch.device("cpu")) == 1
    for here, expected in ((1, 1), (2, 1), (4, 3), (64, 4)):
        monkeypatch.setattr("puma.retriever.encoding.batches.usable_cores", lambda here=here: here)
        assert preparing_threads(torch.device("cuda")) == expected
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    free = cores.usable_cores()
    for text, expected in (("max 100000", free), ("100000 100000", 1), ("50000 100000", 1), ("9900000 100000", free)):
        (tmp_path / "cpu.max").write_text(text)
        assert cores.usable_cores() == expected
