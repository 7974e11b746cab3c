"""Rows that ask for no modality: which they are, what they read, what is no negative of them, and what search uses."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from puma.errors import ConfigError, InputError
from puma.index import Index
from puma.items import MODALITIES, Item
from puma.losses import split_mac_loss
from puma.losses.batch_keys import ANY
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.search import Searcher
from puma.search.queries import INSTRUCTIONS
from puma.training import train
from puma.training.any_modality import AnyModality, with_any_instructions
from puma.training.collating import PairCollator
from puma.training.config import TrainConfig
from puma.training.dropout import ModalityDropout
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair
from puma.training.transforms import EpochCollator, InTurn
from training.test_stage import FULL, difference, fresh, make_pairs, weights


def pair(name, task=1, alike=(), **more):
    did = f"d{name}"
    query, candidate = Item(text=f"query {name}"), Item(text=f"text {name}")
    made = Pair(query, candidate, "Find a text.", task, f"q{name}", did, frozenset([did]), alike=frozenset(alike))
    return replace(made, **more)


def drawn(share, seed=0, epoch=0, rows=1000):
    transform = AnyModality(share, seed)
    transform.epoch = epoch
    return [transform(pair("a"), row).any_modality for row in range(rows)]


def test_the_share_is_drawn_by_seed_epoch_and_row_alone():
    marks = drawn(0.3)
    assert 0.26 < sum(marks) / len(marks) < 0.34
    assert drawn(0.3) == marks
    for other in (drawn(0.3, seed=1), drawn(0.3, epoch=1)):
        assert 0.5 < sum(a == b for a, b in zip(marks, other, strict=True)) / len(marks) < 0.7  # chance: 0.58
    later = AnyModality(0.3)
    assert [later(pair("a"), row).any_modality for row in reversed(range(1000))] == marks[::-1], "not by the order"
    assert sum(drawn(0.0)) == 0


def test_such_a_row_reads_the_general_instruction_of_what_is_left_of_its_query(red):
    both = pair("a", query=Item(text="this", image=red), alike=["x"])
    always = AnyModality(1 - 1e-12)
    made = always(both, 3)
    assert (made.instruction, made.known) == (INSTRUCTIONS["image,text", None], {"da", "x"})
    assert (made.query, made.candidate, made.negatives) == (both.query, both.candidate, both.negatives)
    chain = InTurn([ModalityDropout(1.0), always])
    seen = {(made.query.modality, made.instruction) for made in (chain(both, row) for row in range(9))}
    assert seen == {(name, INSTRUCTIONS[name, None]) for name in ("text", "image")}
    assert InTurn([])(both, 1) is both


@pytest.fixture
def red():
    from PIL import Image

    return Image.new("RGB", (48, 48), (200, 0, 0))


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


def test_a_batch_with_such_rows_is_the_loss_by_hand(retriever, red):
    """Row 1 asks for no modality: its concept's image and captioned image are no negatives of it, another's are."""
    pairs = [
        pair("a", task=0, candidate=Item(image=red)),
        pair("b", any_modality=True, instruction=INSTRUCTIONS["text", None], known=frozenset(["db", "da", "dc"])),
        pair("c", task=2, candidate=Item(text="text c", image=red.rotate(90).resize((40, 48)))),
        pair("d"),
    ]
    batch = EpochCollator(PairCollator(pairs, retriever.inputs, chunks=2))([{"row": n, "epoch": 0} for n in range(4)])
    chunks = [
        {key.removeprefix(f"chunk{n}_"): v for key, v in batch.items() if key.startswith(f"chunk{n}_")} for n in (0, 1)
    ]
    codes = torch.tensor([MODALITIES.index(p.candidate.modality) for p in pairs])
    assert sorted(codes.tolist()) == [0, 0, 1, 2]
    asked = torch.tensor([1, ANY, 2, 0])
    assert chunks[0]["puma_target_modality"].tolist() == asked.tolist()
    assert chunks[0]["puma_candidate_modality"].tolist() == codes.tolist()
    exclude = torch.zeros(4, 4, dtype=torch.bool)
    exclude[1, 0] = exclude[1, 2] = True
    objective = RetrievalObjective(sentence_transformer(retriever), temperature=0.1, decay=1.0, loss="split-mac")
    objective.progress = 0.5
    with torch.no_grad():
        loss = float(objective(chunks)["contrastive"])
        features = retriever.inputs.features
        queries = torch.cat([forward_states(retriever.model, features([p.query], p.instruction)) for p in pairs])
        rows = torch.cat([forward_states(retriever.model, features([p.candidate])) for p in pairs])
    taus = {"temperature": 0.1, "hard_temperature": 0.1 * float(torch.tensor(-1.0).exp())}
    assert loss == pytest.approx(float(split_mac_loss(queries, rows, asked, codes, exclude=exclude, **taus)), abs=1e-5)
    assert loss != pytest.approx(float(split_mac_loss(queries, rows, asked, codes, **taus)), abs=1e-3)


def test_a_run_goes_on_as_if_never_stopped_and_the_share_matters(base, tmp_path):
    config = replace(FULL, steps=5, batch_size=6, save_steps=3, any_share=0.4, loss="split-mac")
    whole, resumed, plain = fresh(base), fresh(base), fresh(base)
    train(whole, make_pairs(12), config, tmp_path / "run", show_progress=False)
    (tmp_path / "run" / "checkpoint-5" / "complete").unlink()
    train(resumed, make_pairs(12), config, tmp_path / "run", show_progress=False)
    assert difference(weights(whole), weights(resumed)) == 0.0
    train(plain, make_pairs(12), replace(config, any_share=0.0), tmp_path / "plain", show_progress=False)
    assert difference(weights(whole), weights(plain)) > 1e-6


def test_workers_and_cached_gradients_draw_the_same(base, tmp_path):
    config = replace(FULL, steps=2, batch_size=6, any_share=0.4, loss="split-mac")
    plain, spared = fresh(base), fresh(base)
    train(plain, make_pairs(12), config, tmp_path / "plain", show_progress=False)
    spared_config = replace(config, workers=1, grad_cache=4)
    train(spared, make_pairs(12), spared_config, tmp_path / "spared", show_progress=False)
    assert difference(weights(plain), weights(spared)) < 1e-5


def test_the_retriever_keeps_the_instruction_and_search_uses_it(retriever, tmp_path):
    own = {("text", "image"): "Find a picture of this:"}
    assert with_any_instructions(own, [0.0]) == own
    taught = with_any_instructions(own, [0.0, 0.25])
    assert taught == {**own, ("text", None): INSTRUCTIONS["text", None]}, "no image was ever a query"
    try:
        for instructions, expected in ((own, None), (taught, INSTRUCTIONS["text", None])):
            retriever.instructions = instructions
            folder = retriever.save_pretrained(tmp_path / f"model-{len(instructions)}")
            read = Retriever.from_pretrained(folder, device="cpu")
            assert read.instructions == instructions
            index = Index(tmp_path / f"index-{len(instructions)}", dim=read.dim, fingerprint=read.fingerprint)
            searcher = Searcher(read, index)
            assert searcher.instruction_for("text") == expected
            assert searcher.instruction_for("text", "image") == own["text", "image"]
            assert searcher.instruction_for("image") is None
    finally:
        retriever.instructions = {}


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_wrong_share_is_named(share):
    with pytest.raises(InputError, match="share="):
        AnyModality(share)
    with pytest.raises(ConfigError, match=r"any_share=.*(\[0, 1\)|give a number)"):
        TrainConfig(any_share=share)


def test_both_draws_of_a_row_are_independent():
    both = pair("a", query=Item(text="this", image="a.png"))
    dropout, anything = ModalityDropout(0.5), AnyModality(0.5)
    counts = Counter((dropout(both, row).query is both.query, anything(both, row).any_modality) for row in range(2000))
    assert all(400 < count < 600 for count in counts.values())
    assert len(counts) == 4
