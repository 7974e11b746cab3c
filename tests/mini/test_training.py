"""puma-mini's training on a tiny base, end to end: tower, augmentation, minutes, a kill, the adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.test_quickstart import benchmark  # noqa: F401
from puma.cli import main
from puma.items import Item
from puma.mini import targets, training
from puma.mini.adapter.file import read_adapter, read_header
from puma.retriever.model import Retriever
from puma.training import budget
from puma.training.recipes.recipe import read_recipe
from support.text_models import text_model

SMALL = {
    "layers": 1,
    "image_size": 64,
    "extra_pairs": [],
    "retrieve.batch_size": 8,
    "retrieve.chunks": 2,
    "retrieve.precision": "fp32",
    "retrieve.learning_rate": 1e-3,
    "retrieve.tower_rate": 1e-3,
    "retrieve.workers": 0,
    "retrieve.dimensions": [8],
    "rounds": None,
    "published_tower": 0.0,
    "photo_classifier": False,
}
STEPS = {**SMALL, "retrieve.minutes": 0, "retrieve.steps": 5, "retrieve.save_steps": 2}


@pytest.fixture
def base(tiny_base, tmp_path, monkeypatch):
    """The tiny base and a tiny model of texts in the places of the mini base and its teacher."""
    folder = text_model(tmp_path / "texts")
    monkeypatch.setattr(training, "assemble", lambda *_, **__: tiny_base)
    monkeypatch.setattr(targets, "text_teacher_folder", lambda home=None: folder)
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    return tiny_base


def interrupted_at(monkeypatch, call):
    """Let a run be interrupted when it has looked at its clock so often (once at the start, then after every step)."""
    calls, update = [], budget.Budget.update

    def counted(self, *args):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return update(self, *args)

    monkeypatch.setattr(budget.Budget, "update", counted)


def test_a_killed_run_makes_the_same_adapter_as_one_that_was_not(base, benchmark, tmp_path, monkeypatch):  # noqa: F811
    recipe = read_recipe("puma-mini", STEPS)
    assert recipe.distil is None
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    logs = training.train_recipe(recipe, benchmark, tmp_path / "whole", adapter=whole)
    assert logs["retrieve"][-1]["step"] == 5
    with monkeypatch.context() as patched:
        interrupted_at(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            training.train_recipe(recipe, benchmark, tmp_path / "resumed", adapter=resumed)
    assert not resumed.exists()
    training.train_recipe(recipe, benchmark, tmp_path / "resumed", adapter=resumed)
    assert whole.read_bytes() == resumed.read_bytes()
    assert read_header(whole)["notes"]["steps"] == {"retrieve": 5}
    assert read_header(whole)["notes"]["recipe"]["retrieve"]["tower_rate"] == 1e-3

    made = Retriever.from_pretrained(tmp_path / "whole", device="cpu")
    back = read_adapter(whole, base, device="cpu")
    items = ["red circle", Item(image=next((Path(benchmark) / "mbeir_images").rglob("*.png")))]
    assert (made.encode(items) * back.encode(items)).sum(1).min() > 0.98
    assert made.instructions == back.instructions
    plain = Retriever.from_base(base, layers=1, prompt="short", dtype=torch.float32, device="cpu").model.state_dict()
    state = made.model.state_dict()
    moved = {name for name in plain if not torch.equal(plain[name], state[name].float())}
    assert any(name.startswith("vision_tower.") and name.endswith("conv.weight") for name in moved)
    assert not any("running" in name or "squeeze_excite" in name or "embed_tokens" in name for name in moved)


def test_minutes_end_a_run_and_count_over_a_kill(base, benchmark, tmp_path, monkeypatch, capsys):  # noqa: F811
    recipe = read_recipe("puma-mini", {**SMALL, "retrieve.minutes": 0.05, "retrieve.save_steps": 1})
    work = tmp_path / "out.work" / "retrieve"
    with monkeypatch.context() as patched:
        interrupted_at(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            training.train_recipe(recipe, benchmark, tmp_path / "out")
    before = max(json.loads(path.read_text())["seconds"] for path in work.glob("checkpoint-*/spent.json"))
    training.train_recipe(recipe, benchmark, tmp_path / "out")
    result = json.loads((work / "log.json").read_text())
    assert result["steps"] > 2
    assert 0.05 <= result["minutes"] < 1
    spent = max(json.loads(path.read_text())["seconds"] for path in work.glob("checkpoint-*/spent.json"))
    assert spent >= 3 >= before >= 0
    assert f"{result['steps']:,} steps in" in capsys.readouterr().err


def test_the_command_writes_the_adapter(base, benchmark, tmp_path):  # noqa: F811
    command = ["train", "puma-mini", "--data", str(benchmark), "--out", str(tmp_path / "out")]
    for name, value in {**STEPS, "retrieve.steps": 2}.items():
        command += ["--set", f"{name}={'null' if value is None else value}"]
    assert main([*command, "--adapter", str(tmp_path / "new" / "a.safetensors")]) == 0
    assert np.isfinite(read_adapter(tmp_path / "new" / "a.safetensors", base, device="cpu").encode(["red"])).all()


def test_a_frozen_tower_reads_stored_variants_and_mixtures(tiny_base, benchmark, tmp_path, monkeypatch):  # noqa: F811
    """Classes, variants and a resume: no image goes through the tower in a step, and the adapter is the same."""
    from puma.mini import features
    from puma.mini.base.classifier import Classifier
    from puma.mini.base.known_images import known_images

    rng = np.random.default_rng(0)
    names = ("red dots", "stripes", "tiger")
    classifier = Classifier(rng.normal(size=(3, 320)).astype(np.float32), np.zeros(3, np.float32), names)
    monkeypatch.setattr(features, "load_classifier", lambda *_: classifier)
    monkeypatch.setattr("puma.mini.extra_pairs.pairs.COUNT", 40)
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    changes = {
        **STEPS,
        "retrieve.tower_rate": 0.0,
        "retrieve.augment": False,
        "retrieve.steps": 3,
        "extra_pairs": ["classes"],
        "image_variants": 2,
    }
    recipe = read_recipe("puma-mini", changes)
    vision = known_images(tiny_base, benchmark, None, show_progress=False)
    mixtures = features.training_mixtures(vision, recipe, benchmark, None)
    pairs = training.training_rows(recipe, benchmark, None, mixtures=mixtures)
    varied, sources = features.with_more_features(vision, mixtures, pairs, recipe, tiny_base, None)
    items = [item for pair in varied for item in (pair.query, pair.candidate) if item.image is not None]
    kinds = {str(item.image).split(":")[0] for item in items}
    assert {"variant", "mixture"} <= kinds
    assert len(kinds) > 2  # and images as they are
    assert all(sources.lookup(item) is not None for item in items)
    variant = next(item for item in items if str(item.image).startswith("variant:"))
    plain = Item(image=Path(str(variant.image).split(":", 2)[2]))
    assert (sources.lookup(variant) != sources.lookup(plain)).any()
    assert [pair.candidate_id for pair in varied] == [pair.candidate_id for pair in pairs]

    retriever = training.student(tiny_base, recipe, vision)
    logs = training.train_stages(retriever, recipe, tiny_base, benchmark, tmp_path / "work", vision=vision)
    assert logs["retrieve"][-1]["step"] == 3


def test_rounds_and_a_part_of_the_published_tower(base, benchmark, tmp_path):  # noqa: F811
    """The recipe's own way of making puma-mini: a round that also follows a teacher of texts beside one that does not,
    the mean of both and stage 2, then a part of the base's tower."""
    rounds = {"rounds.minutes": 0, "rounds.steps": 3}
    made = {}
    for name, changes in {
        "plain": {"rounds": None, "published_tower": 0.0},
        "rounds": {**rounds, "published_tower": 0.0},
        "whole": {**rounds, "published_tower": 0.2},
    }.items():
        settings = {key: value for key, value in STEPS.items() if key != "rounds"} | changes
        logs = training.train_recipe(read_recipe("puma-mini", settings), benchmark, tmp_path / name)
        made[name] = Retriever.from_pretrained(tmp_path / name, device="cpu").model.state_dict()
    assert {name: log[-1]["step"] for name, log in logs.items()} == {"retrieve": 5, "round-1": 3, "round-2": 3}
    assert [name for name, log in logs.items() if "distillation" in log[0]] == ["round-1"]
    published = Retriever.from_base(
        base, layers=1, prompt="short", dtype=torch.float32, device="cpu"
    ).model.state_dict()
    changed = 0
    for name, tensor in made["whole"].items():
        if name.startswith("vision_tower.") and tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.8 * made["rounds"][name] + 0.2 * published[name])
            changed += not torch.equal(tensor, made["rounds"][name])
        else:
            assert torch.equal(tensor, made["rounds"][name])
    assert changed
    assert any(not torch.equal(tensor, made["plain"][name]) for name, tensor in made["rounds"].items())
