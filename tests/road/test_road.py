"""The whole road on every family, with real processors: probe, prune, train, evaluate, mine, index, search, serve."""

import json

import numpy as np
import pytest
from PIL import Image

from puma.cli import main
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import read_pairs
from puma.training.teacher.dual_depth import DualDepth
from puma.training.teacher.store import FeatureStore
from support import benchmarks, families

TASKS = (0, 1, 3, 8)  # text, image and image+text on either side
SMALL = TrainConfig(
    steps=2,
    batch_size=3,
    chunks=2,
    lora_rank=2,
    lora_alpha=4,
    lora_dropout=0.0,
    precision="fp32",
    learning_rate=1e-3,
    save_steps=1,
    workers=0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return benchmarks.random_tasks(
        tmp_path_factory.mktemp("data") / "data",
        queries=6,
        candidates=8,
        splits=("train", "val", "test"),
        tasks=TASKS,
    )


def run(capsys, *arguments):
    """What a command prints as JSON; it must end well."""
    code = main([str(argument) for argument in (*arguments, "--json")])
    out = capsys.readouterr()
    assert code == 0, out.err
    return json.loads(out.out)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_from_a_base_to_answers(family_base, data, tmp_path, capsys, family):
    from fastapi.testclient import TestClient

    from puma.search import Searcher
    from puma.serve import create_app

    base = family_base(family)
    probed = run(
        capsys, "probe", "--base", base, "--data", data, "--out", tmp_path / "probe", "--queries", 3, "--pairs", 0
    )
    assert probed["suggestion"]["layers"] in range(1, 5)
    pruned = run(capsys, "prune", base, tmp_path / "pruned", "--layers", 2)
    assert pruned["kept_layers"] == [0, 1]
    small = [f"{name}={getattr(SMALL, name)}" for name in ("batch_size", "chunks", "lora_rank", "lora_alpha")]
    settings = [flag for setting in [*small, "workers=0"] for flag in ("--set", setting, "--distil-set", setting)]
    model = tmp_path / "model"
    trained = run(
        capsys, "train", "--base", base, "--data", data, "--out", model, "--layers", 2, "--distil-steps", 2,
        "--distil-set", "teacher=shared", "--set", "steps=2", *settings,
    )  # fmt: skip
    assert "distillation" in trained["log"]["distil"][0]
    assert np.isfinite(trained["log"]["retrieve"][-1]["loss"])
    table = run(capsys, "evaluate", "--model", model, "--root", data)
    assert {task: row["skipped"] for task, row in table["model"].items()} == {str(task): 0 for task in TASKS}
    mined = run(capsys, "mine", "--model", model, "--root", data, "--out", tmp_path / "hard", "--negatives", 2)
    assert set(mined["tasks"]) == {str(task) for task in TASKS}
    index = tmp_path / "pictures.index"
    images = sorted((data / "mbeir_images").iterdir())
    added = run(capsys, "index", "add", index, data / "mbeir_images", "--model", model)
    assert added["rows"] == len(images)
    found = run(capsys, "search", index, "--image", images[3], "--model", model, "--modality", "image")
    assert all(-1 <= hit["score"] <= 1.0001 for hit in found)
    searcher = Searcher(Retriever.from_pretrained(model, device="cpu"), index)
    with TestClient(create_app(searcher), base_url="http://127.0.0.1") as client:
        answer = client.post("/search", json={"text": "a red fox", "k": 3})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["hits"]) == 3, answer.json()


def trained_by(base, data, folder, config, *, teacher=None, layers=2):
    """A retriever after one stage, and the run's result."""
    shared = config.distillation_weight > 0 and config.teacher == "shared"
    made = Retriever.from_base(base, layers=None if shared else layers, dtype="fp32", device="cpu")
    target = None
    if config.distillation_weight > 0:
        whole = Retriever.from_base(base, dtype="fp32", device="cpu")
        pairs = read_pairs(data)
        if shared:
            target = DualDepth(made.model, layers, ret_id=made.inputs.ret_id)
        else:
            target = FeatureStore(folder / "teacher", whole)
            target.compute(whole, [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs])
    return made, train(made, read_pairs(data), config, folder / "run", teacher=target, show_progress=False)


WAYS = {
    "lora-shared-bf16-checkpointed": {
        "distillation_weight": 0.1,
        "teacher": "shared",
        "precision": "bf16",
        "gradient_checkpointing": True,
    },
    "full-store-gradcache": {"lora_rank": 0, "distillation_weight": 0.1, "teacher": "store", "grad_cache": 3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_way_of_training(family_base, data, tmp_path, family, way):
    from dataclasses import replace

    made, result = trained_by(family_base(family), data, tmp_path, replace(SMALL, **WAYS[way]))
    assert result.steps == 2
    assert all(np.isfinite(entry["loss"]) and entry["distillation"] > 0 for entry in result.log)
    items = ["a red fox", {"image": Image.new("RGB", (30, 20), (200, 30, 30))}]
    vectors = made.encode(items)
    untrained = Retriever.from_base(family_base(family), layers=2, dtype="fp32", device="cpu").encode(items)
    assert np.abs(vectors - untrained).max() > 1e-5
    saved = made.save_pretrained(tmp_path / "model", dtype=made.saved_dtype)
    assert np.abs(Retriever.from_pretrained(saved, device="cpu").encode(items) - vectors).max() < 1e-5


@pytest.mark.parametrize("family", families.FAMILIES)
def test_an_interrupted_run_goes_on_to_the_same_weights(family_base, data, tmp_path, family, monkeypatch):
    from puma.training import collating

    whole, _ = trained_by(family_base(family), data, tmp_path / "whole", SMALL)
    call, calls = collating.PairCollator.__call__, []

    def cut_off(self, rows):
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(collating.PairCollator, "__call__", cut_off)
        with pytest.raises(KeyboardInterrupt):
            trained_by(family_base(family), data, tmp_path / "cut", SMALL)
    again, _ = trained_by(family_base(family), data, tmp_path / "cut", SMALL)
    assert np.array_equal(again.encode(["a red fox"]), whole.encode(["a red fox"]))
