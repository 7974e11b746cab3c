"""puma-mini's training on a tiny base, end to end: tower, augmentation, minutes, a kill, the adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.test_quickstart import benchmark  # noqa: F401
from puma.cli import main
from puma.items import Item
from puma.mini import training
from puma.mini.adapter.file import read_adapter, read_header
from puma.retriever.model import Retriever
from puma.training import budget
from puma.training.recipes.recipe import read_recipe

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
}
STEPS = {**SMALL, "retrieve.minutes": 0, "retrieve.steps": 5, "retrieve.save_steps": 2}


@pytest.fixture
def base(tiny_base, monkeypatch):
    """The tiny base in the mini base's place."""
    monkeypatch.setattr(training, "assemble", lambda *_, **__: tiny_base)
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
        command += ["--set", f"{name}={value}"]
    assert main([*command, "--adapter", str(tmp_path / "new" / "a.safetensors")]) == 0
    assert np.isfinite(read_adapter(tmp_path / "new" / "a.safetensors", base, device="cpu").encode(["red"])).all()
