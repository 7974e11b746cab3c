"""An image that cannot be used costs its pair, not the training: replaced, the same everywhere, listed, limited."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import DataError, ImageError, InputError
from puma.items import Item
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training.collating import PairCollator, id_key
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair
from puma.training.unreadable import FEWEST, Unreadable


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


@pytest.fixture
def pairs(tmp_path):
    """Twelve pairs of two tasks, each with an image as its candidate; rows 1 and 6 have broken ones."""
    made = []
    for n in range(12):
        path = tmp_path / f"{n}.png"
        Image.new("RGB", (40, 40), (20 * n, 0, 100)).save(path)
        did = f"1:{n}"
        query, candidate = Item(text=f"query {n}"), Item(image=path)
        made.append(Pair(query, candidate, "Find it.", n % 2, f"q{n}", did, frozenset([did])))
    (tmp_path / "1.png").write_bytes(b"\x89PNG cut off")
    (tmp_path / "6.png").unlink()
    return made


def rows(numbers, epoch=0):
    return [{"row": n, "epoch": epoch} for n in numbers]


def tensors(batch):
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in tensors(one).items():
        assert torch.equal(value, other[key]), key


def test_a_pair_gives_way_to_another_of_its_task(pairs, retriever):
    collator = PairCollator(pairs, retriever.inputs, chunks=2)
    batch = collator(rows([0, 1, 2, 3]))
    assert batch["chunk0_puma_replaced"].tolist() == [[1, 1]]
    keys = batch["chunk0_puma_candidate_key"].tolist()
    expected = [id_key(pair.candidate_id) for pair in pairs]
    assert [keys[0], keys[2], keys[3]] == [expected[0], expected[2], expected[3]]
    stand_in = expected.index(keys[1])
    assert stand_in in (5, 7, 9, 11), "of the same task, and not in the batch already"
    chosen = [pairs[0], pairs[stand_in], pairs[2], pairs[3]]
    plain = PairCollator(chosen, retriever.inputs, chunks=2)(rows(range(4)))
    assert plain["chunk0_puma_replaced"].shape == (0, 2)
    same(
        {k: v for k, v in batch.items() if "replaced" not in k}, {k: v for k, v in plain.items() if "replaced" not in k}
    )


def test_row_and_epoch_alone_decide(pairs, retriever):
    def drawn(epoch, numbers=(0, 1, 2, 3)):
        return PairCollator(pairs, retriever.inputs, chunks=2)(rows(numbers, epoch))

    same(drawn(3), drawn(3))
    used = PairCollator(pairs, retriever.inputs, chunks=2)
    used(rows([1, 6, 8, 9], 1))  # what it met before has no say
    same(used(rows([0, 1, 2, 3], 3)), drawn(3))
    assert len({drawn(epoch)["chunk0_puma_candidate_key"][1].item() for epoch in range(8)}) > 1


def test_a_stand_in_that_is_broken_itself_is_reported_too(pairs, retriever, tmp_path):
    for n in (3, 5, 7, 9):
        (tmp_path / f"{n}.png").write_bytes(b"nothing")
    batch = PairCollator(pairs, retriever.inputs, chunks=1)(rows([0, 1, 2]))
    met = batch["chunk0_puma_replaced"].tolist()
    assert met[0] == [1, 1]
    assert {row for row, _ in met} <= {1, 3, 5, 7, 9}
    (tmp_path / "11.png").write_bytes(b"nothing")  # none of its task is left: one of another's
    keys = PairCollator(pairs, retriever.inputs, chunks=1)(rows([0, 1, 2]))["chunk0_puma_candidate_key"].tolist()
    assert keys[1] in [id_key(f"1:{n}") for n in (4, 8, 10)]
    batch = PairCollator(pairs, retriever.inputs, chunks=1)(rows([0, 1, 2, 4, 8, 10]))  # nor is one of any: a twin
    keys = batch["chunk0_puma_candidate_key"].tolist()
    assert keys[1] in [*keys[:1], *keys[2:]]
    loss = RetrievalObjective(sentence_transformer(retriever), temperature=0.1)
    assert torch.isfinite(loss([{k.removeprefix("chunk0_"): v for k, v in batch.items()}])["contrastive"])
    with pytest.raises(DataError, match=r"query q1, task 1: .*1\.png.*no other pair was found that can be used"):
        PairCollator(pairs[1:2] * 3, retriever.inputs, chunks=1)(rows([0, 1]))


def test_an_unreadable_hard_negative_is_left_out(pairs, retriever, tmp_path):
    negatives = (("9:1", Item(image=tmp_path / "6.png")), ("9:2", Item(text="a sound one")))
    with_negatives = [replace(pairs[0], negatives=negatives), *pairs[1:]]
    batch = PairCollator(with_negatives, retriever.inputs, chunks=1, hard_negatives=2)(rows([0, 2]))
    assert batch["chunk0_puma_replaced"].tolist() == [[0, 2]]
    assert batch["chunk0_puma_candidate_modality"].tolist() == [1, 1, 0]


def test_an_image_that_only_the_processor_refuses_is_replaced_as_well(pairs, retriever):
    collator = PairCollator(pairs, retriever.inputs, chunks=2)
    features = collator.inputs.features

    def choosy(items, *more):
        for item in items:
            if item.image is not None and str(item.image).endswith("2.png"):
                raise ImageError(f"{item.image}: 3000 x 7 pixels: the processor takes at most 200 to 1")
        return features(items, *more)

    collator.inputs.features = choosy
    batch = collator(rows([0, 1, 2, 3]))
    assert batch["chunk0_puma_replaced"].tolist() == [[1, 1], [2, 1]]


def test_the_retrievers_own_inputs_keep_the_full_image(pairs, retriever):
    assert PairCollator(pairs, retriever.inputs).inputs.draft
    assert not retriever.inputs.draft


def entries(folder):
    return [json.loads(line) for line in (folder / "unreadable.jsonl").read_text().splitlines()]


def test_each_is_listed_once_with_its_reason(pairs, tmp_path):
    run = tmp_path / "run"
    ledger = Unreadable(run, pairs)
    assert ledger.add(torch.tensor([[1, 1], [6, 1], [1, 1]])) == 2
    assert ledger.add(torch.zeros(0, 2, dtype=torch.int64)) == 0
    assert ledger.add([(6, 1)]) == 0
    first, second = entries(run)
    assert (first["row"], first["part"], first["query"], first["ids"]) == (1, "candidate image", "q1", ["1:1"])
    assert "1.png" in first["reason"]
    assert second["reason"].endswith("6.png: no such file")
    again = Unreadable(run, pairs)
    assert again.count == 2
    assert again.add([(6, 1), (1, 1)]) == 0
    assert len(entries(run)) == 2


def test_a_line_that_a_kill_cut_off_is_written_anew(pairs, tmp_path):
    Unreadable(tmp_path, pairs).add([(1, 1), (6, 1)])
    path = tmp_path / "unreadable.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    ledger = Unreadable(tmp_path, pairs)
    assert ledger.count == 1
    assert ledger.add([(6, 1), (1, 1)]) == 1
    assert [entry["row"] for entry in entries(tmp_path)] == [1, 6]
    path.write_text("another file\n")
    with pytest.raises(DataError, match="none of its own"):
        Unreadable(tmp_path, pairs)


def test_two_processes_share_the_file_and_the_limit(pairs, tmp_path):
    one, other = Unreadable(tmp_path, pairs), Unreadable(tmp_path, pairs)
    one.add([(1, 1)])
    assert other.add([(6, 1), (1, 1)]) == 1
    assert [entry["row"] for entry in entries(tmp_path)] == [1, 6]


def test_too_many_end_the_run(tmp_path):
    item = Item(image=tmp_path / "gone.png")
    made = [Pair(Item(text="q"), item, None, 1, f"q{n}", f"1:{n}", frozenset()) for n in range(3000)]
    ledger = Unreadable(tmp_path / "a", made, 0.01)
    assert ledger.limit == 30
    ledger.add([(n, 1) for n in range(30)])
    ledger.add([(n, 2) for n in range(30)])  # of pairs that were counted
    with pytest.raises(DataError, match=r"31 of 3,000 training pairs \(1\.03%\).*limit of 30.*max_unreadable=0\.01"):
        ledger.add([(30, 0)])
    with pytest.raises(DataError, match="31 of 3,000"):
        Unreadable(tmp_path / "a", made, 0.01).add([(30, 0)])
    Unreadable(tmp_path / "a", made, 0.5).add([(30, 0)])
    assert Unreadable(tmp_path / "b", made[:100], 0.01).limit == FEWEST
    with pytest.raises(DataError, match="limit of 0"):
        Unreadable(tmp_path / "c", made, 0).add([(5, 0)])
    with pytest.raises(InputError, match=r"max_unreadable=1\.5"):
        Unreadable(tmp_path, made, 1.5)


KILLED = """
import sys
from pathlib import Path
from puma.training.pairs import Pair
from puma.training.unreadable import Unreadable
from puma.items import Item
item = Item(image=Path("/nowhere.png"))
pairs = [Pair(Item(text="q"), item, None, 1, f"q{n}", f"1:{n}", frozenset()) for n in range(400)]
ledger = Unreadable(sys.argv[1], pairs, 1.0)
print("ready", flush=True)
for n in range(400):
    ledger.add([(n, 1)])
    print(n, flush=True)
"""


def test_a_kill_loses_nothing_that_was_added_and_doubles_nothing(tmp_path):
    for stop in (3, 17):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        added = 0
        for line in child.stdout:
            if line.strip() == str(stop):
                added = stop + 1
                os.kill(child.pid, signal.SIGKILL)
                break
        child.stdout.close()
        child.wait()
        found = [entry["row"] for entry in entries(tmp_path)]
        assert found == list(range(len(found)))
        assert len(found) >= added > 0


def test_numbers_may_come_as_an_array(pairs, tmp_path):
    assert Unreadable(tmp_path, pairs).add(np.array([[1, 1]])) == 1
