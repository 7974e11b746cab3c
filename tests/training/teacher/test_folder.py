"""Teachers in folders: a trained retriever for every item, a model of texts for texts and captioned images."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import InputError
from puma.items import Item
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import Pair
from puma.training.planned import batches_of, met_pairs
from puma.training.teacher import folder as module
from puma.training.teacher.folder import captions_of, folder_targets, refuse_text_teacher
from puma.training.teacher.texts import TextTeacher
from support.shared import built_once
from support.text_models import WIDTH, text_model

CONFIG = TrainConfig(steps=3, batch_size=4, lora_rank=0, precision="fp32", workers=0, save_steps=3)


@pytest.fixture(scope="session")
def texts_folder(tmp_path_factory):
    return built_once(tmp_path_factory, "text-model", text_model) / "model"


@pytest.fixture(scope="module")
def retriever_folder(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep") / "deep"
    Retriever.from_base(base, prompt="open-quote", device="cpu").save_pretrained(folder)
    return folder


def pictures(folder, count):
    for number in range(count):
        Image.fromarray(np.full((64, 64, 3), number * 30, np.uint8)).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(count)]


def make_pairs(folder, count=8):
    """Names to pictures and pictures to titles, half of them each; and texts to texts."""
    made = []
    for i, path in enumerate(pictures(folder, count)):
        image, name = Item(image=path), Item(text=f"name {i}")
        query, candidate, task = (name, image, 0) if i % 2 else (image, Item(text=f"title {i}"), 3)
        made.append(Pair(query, candidate, "Find it.", task, f"q{i}", f"c{i}", frozenset({f"c{i}"})))
        made.append(Pair(name, Item(text=f"word {i}"), "Find it.", 1, f"t{i}", f"w{i}", frozenset({f"w{i}"})))
    return made


def test_a_trained_retriever_teaches_every_item_its_own_state(base, retriever_folder, tmp_path):
    pairs = make_pairs(tmp_path)
    targets = folder_targets(retriever_folder, pairs, store=tmp_path / "store")
    teacher = Retriever.from_pretrained(retriever_folder, device="cpu")
    assert targets.dim == teacher.dim
    for item, instruction in ((pairs[0].query, "Find it."), (pairs[1].candidate, None), (pairs[2].candidate, None)):
        with torch.no_grad():
            state = forward_states(teacher.model, teacher.inputs.features([item], instruction))[0].numpy()
        np.testing.assert_allclose(targets(item, instruction), state, rtol=2e-2, atol=2e-2)  # bf16 where it is fast
    assert targets(pairs[0].query, None) is None, "another instruction, another state"


def test_states_are_kept_and_another_teacher_has_its_own(base, retriever_folder, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path)
    folder_targets(retriever_folder, pairs, store=tmp_path / "store")
    with monkeypatch.context() as patched:
        patched.setattr("puma.training.teacher.store._states", lambda *_: pytest.fail("computed again"))
        folder_targets(retriever_folder, pairs[:5], store=tmp_path / "store")
    other = Retriever.from_pretrained(retriever_folder, device="cpu")
    with torch.no_grad():
        other.model.get_decoder().layers[0].mlp.up_proj.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    folder_targets(tmp_path / "other", pairs[:5], store=tmp_path / "store")
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_a_model_of_texts_teaches_texts_and_captioned_images(texts_folder, tmp_path):
    pairs = make_pairs(tmp_path)
    targets = folder_targets(texts_folder, pairs, store=tmp_path / "store")
    assert targets.dim == WIDTH
    states = TextTeacher(texts_folder, device="cpu").states(["name 1", "title 0"])
    assert np.array_equal(targets(Item(text="name 1"), "Find it."), states["name 1"].astype(np.float32))
    assert np.array_equal(targets(Item(text="name 1"), None), targets(Item(text="name 1"), "Find it."))
    assert np.array_equal(targets(pairs[0].query, "Find it."), states["title 0"].astype(np.float32)), "image -> text"
    assert np.array_equal(targets(pairs[2].candidate, None), states["name 1"].astype(np.float32)), "text -> image"
    assert targets(Item(image=tmp_path / "other.png"), None) is None
    assert targets(Item(text="name 1", image=tmp_path / "1.png"), None) is None
    without = folder_targets(texts_folder, pairs, store=tmp_path / "store", captions={})
    assert without(pairs[0].query, None) is None


def test_a_text_teachers_store_goes_on_after_a_kill(texts_folder, tmp_path, monkeypatch):
    teacher, words = TextTeacher(texts_folder, device="cpu"), [f"word {i}" for i in range(5)]
    monkeypatch.setattr("puma.training.teacher.texts.SHARD", 2)
    first = teacher.states([*words, words[0]], store=tmp_path)
    shards = sorted(tmp_path.rglob("shard-*"))
    assert (len(first), len(shards)) == (5, 3)
    shards[-1].unlink()
    computed = []
    vectors = TextTeacher._vectors
    monkeypatch.setattr(
        TextTeacher, "_vectors", lambda self, texts, size: (computed.extend(texts), vectors(self, texts, size))[1]
    )
    again = teacher.states(words, store=tmp_path)
    assert computed == ["word 4"]
    assert all(np.array_equal(first[word], again[word]) for word in words)
    memory = teacher.states(words)
    assert all(np.allclose(memory[word], first[word], atol=1e-3) for word in words)
    assert teacher.states([]) == {}


def test_text_teachers_are_told_apart_by_their_weights(texts_folder, tmp_path):
    other = TextTeacher(text_model(tmp_path, seed=1), device="cpu")
    mine = TextTeacher(texts_folder, device="cpu")
    assert {key for key, value in mine.facts().items() if value != other.facts()[key]} == {"weights"}
    assert mine.facts() == TextTeacher(texts_folder, device="cpu").facts()


def test_the_caption_of_image_to_text_goes_before_that_of_text_to_image(tmp_path):
    image, other = (Item(image=path) for path in pictures(tmp_path, 2))
    pairs = [
        Pair(Item(text="a name"), image, None, 0, "a", "a", frozenset("a")),
        Pair(image, Item(text="a title"), None, 3, "b", "b", frozenset("b")),
        Pair(Item(text="two"), other, None, 0, "c", "c", frozenset("c")),
        Pair(Item(image=image.image, text="in red"), Item(text="no caption"), None, 3, "d", "d", frozenset("d")),
        Pair(Item(text="an entry"), Item(image=other.image, text="keywords"), None, 2, "e", "e", frozenset("e")),
    ]
    assert captions_of(pairs) == {os.fspath(image.image): "a title", os.fspath(other.image): "two"}


def test_met_pairs_are_those_of_the_batches(tmp_path):
    pairs = make_pairs(tmp_path)
    config = TrainConfig(steps=2, batch_size=4, seed=3)
    expected = {pairs[row].query_id for batch in batches_of(pairs, config) for row in batch}
    met = met_pairs(pairs, config)
    assert {pair.query_id for pair in met} == expected
    assert len(met) == len(expected) == 8
    assert met_pairs(pairs, TrainConfig(minutes=1, batch_size=4)) == pairs


@pytest.mark.parametrize(
    ("kind", "learns"), [("row-softmax", False), ("relational", False), ("cosine", True), ("mse", True)]
)
def test_a_stage_follows_a_teacher_of_another_width(base, texts_folder, tmp_path, kind, learns):
    """By similarities as it is, by features through a learned map, which is trained and not saved."""
    pairs = make_pairs(tmp_path)
    targets = folder_targets(texts_folder, pairs, store=tmp_path / "store")
    student = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
    names = set(student.model.state_dict())
    settings = {**vars(CONFIG), "stage": "distil", "contrastive_weight": 0.0, "distillation_weight": 1.0, "steps": 20}
    settings |= {"distillation": kind, "distillation_map": learns, "learning_rate": 3e-3, "save_steps": 20}
    result = train(student, pairs, TrainConfig(**settings), tmp_path / "run", teacher=targets, show_progress=False)
    assert result.log[-1]["distillation"] < result.log[0]["distillation"]
    assert result.log[0].keys().isdisjoint({"contrastive"})
    assert set(student.model.state_dict()) == names
    student.save_pretrained(tmp_path / "out")
    assert Retriever.from_pretrained(tmp_path / "out", device="cpu").encode(["a"]).shape == (1, student.dim)


def test_a_run_with_a_map_that_was_cut_goes_on_as_one_that_was_not(base, texts_folder, tmp_path):
    pairs = make_pairs(tmp_path)
    targets = folder_targets(texts_folder, pairs, store=tmp_path / "store")
    settings = {**vars(CONFIG), "stage": "distil", "distillation_weight": 1.0, "distillation": "cosine"}
    config = TrainConfig(**{**settings, "distillation_map": True, "steps": 4, "save_steps": 2, "learning_rate": 1e-2})
    made = []
    for name in ("whole", "cut"):
        if name == "cut":
            shutil.copytree(tmp_path / "whole", tmp_path / "cut")
            shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
        student = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
        train(student, pairs, config, tmp_path / name, teacher=targets, show_progress=False)
        made.append(student.model.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_faults_are_told_before_a_step(base, texts_folder, tmp_path):
    pairs = make_pairs(tmp_path)
    student = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
    targets = folder_targets(texts_folder, pairs, store=tmp_path / "store")
    wide = TrainConfig(**{**vars(CONFIG), "distillation_weight": 1.0, "distillation": "cosine"})
    with pytest.raises(InputError, match=f"{student.dim} features, the teacher's {WIDTH}.*distillation_map: true"):
        train(student, pairs, wide, tmp_path / "run", teacher=targets)
    mapped = TrainConfig(**{**vars(wide), "distillation_map": True})
    with pytest.raises(InputError, match="does not tell its width; give it an attribute dim"):
        train(student, pairs, mapped, tmp_path / "run", teacher=lambda item, instruction: np.zeros(WIDTH))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"no model of sentence-transformers \(no modules.json in it\)"):
        folder_targets(tmp_path / "nothing", pairs, store=tmp_path / "store")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "modules.json").write_text("[]no")
    with pytest.raises(InputError, match=r"broken.*cannot be loaded"):
        folder_targets(tmp_path / "broken", pairs, store=tmp_path / "store")
    refuse_text_teacher(TrainConfig(teacher="all-minilm-l6-v2"))
    with pytest.raises(InputError, match="fetched for base: mini alone"):
        refuse_text_teacher(TrainConfig(teacher="all-minilm-l6-v2", distillation_weight=1.0))


def test_two_processes_share_the_work(retriever_folder, tmp_path, monkeypatch):
    """Each computes its part into the one store; what both need is there after they have waited for one another."""
    pairs = make_pairs(tmp_path)
    monkeypatch.setattr(module, "wait", lambda: None)
    monkeypatch.setattr(module, "processes", lambda: (0, 2))
    half = len(folder_targets(retriever_folder, pairs, store=tmp_path / "store"))
    monkeypatch.setattr(module, "processes", lambda: (1, 2))
    whole = folder_targets(retriever_folder, pairs, store=tmp_path / "store")
    assert 0 < half < len(whole)
    assert all(whole(pair.query, pair.instruction) is not None for pair in pairs)
    assert Path(whole.shards.folder).parent == tmp_path / "store"
