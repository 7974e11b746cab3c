"""Stages of the mini base with each kind of teacher, on a tiny base: by recipe, end to end."""

import json

import pytest
import torch

from mini.test_quickstart import benchmark  # noqa: F401
from puma.errors import InputError
from puma.mini import targets, training
from puma.mini.fetch.packages import Package
from puma.mini.text_teacher import MODEL, PACKAGE
from puma.retriever.model import Retriever
from puma.training.recipes.recipe import read_recipe
from support.text_models import text_model

SMALL = {
    "layers": 1,
    "image_size": 64,
    **{
        f"{stage}.{key}": value
        for stage in ("distil", "retrieve")
        for key, value in {"batch_size": 8, "chunks": 2, "precision": "fp32", "steps": 2, "workers": 0}.items()
    },
}
ALONE = {"distil.items_only": True, "distil.contrastive_weight": 0, "distil.distillation_weight": 1}
ROWS = {"distil.distillation": "row-softmax"}


@pytest.fixture
def home(tiny_base, tmp_path, monkeypatch):
    """The tiny base and a tiny model of texts in the places of those that are fetched."""
    folder = text_model(tmp_path / "texts")
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(training, "assemble", lambda *_, **__: tiny_base)
    monkeypatch.setattr(targets, "text_teacher_folder", lambda home=None: folder)
    return tmp_path


def log_of(out, stage):
    return json.loads((out.with_name(out.name + ".work") / stage / "log.json").read_text())["log"]


def config_of(out, stage):
    return json.loads((out.with_name(out.name + ".work") / stage / "config.json").read_text())


def test_a_text_teacher_on_items_without_pairs_and_beside_the_contrast(home, benchmark):  # noqa: F811
    beside = {"retrieve.distillation": "row-softmax", "retrieve.distillation_weight": 1}
    teacher = {f"{stage}.teacher": "all-minilm-l6-v2" for stage in ("distil", "retrieve")}
    recipe = read_recipe("mini-distilled", {**SMALL, **ALONE, **ROWS, **beside, **teacher})
    training.train_recipe(recipe, benchmark, home / "out")
    assert {"distillation", "loss"} <= log_of(home / "out", "distil")[0].keys()
    assert "contrastive" not in log_of(home / "out", "distil")[0]
    assert {"distillation", "contrastive"} <= log_of(home / "out", "retrieve")[0].keys()
    assert config_of(home / "out", "distil")["rows"] == 18 + 36, "two to a row: 36 images, 72 texts"
    assert config_of(home / "out", "retrieve")["rows"] == 108
    assert len(list((home / "home" / "teacher").iterdir())) == 1, "both stages ask one teacher"


def test_a_trained_retriever_teaches_images_that_have_no_caption(home, benchmark, tiny_base):  # noqa: F811
    deep = Retriever.from_base(tiny_base, prompt="short", dtype=torch.float32, device="cpu")
    deep.save_pretrained(home / "deep")
    recipe = read_recipe(
        "mini-distilled", {**SMALL, **ALONE, "distil.distillation": "cosine", "distil.teacher": f"{home}/deep"}
    )
    training.train_recipe(recipe, benchmark, home / "out")
    assert config_of(home / "out", "distil")["rows"] == 18 + 36
    assert log_of(home / "out", "distil")[0]["distillation"] > 0
    assert targets._same_tower(home / "deep", tiny_base)
    with torch.no_grad():
        next(deep.model.get_encoder("image").parameters()).add_(1)
    deep.save_pretrained(home / "other")
    assert not targets._same_tower(home / "other", tiny_base), "its images must not come from the base's tower"


def test_the_papers_stage_is_what_it_was(home, benchmark):  # noqa: F811
    recipe = read_recipe("mini-distilled", {**SMALL, "distil.distillation": "mse", "distil.contrastive_weight": 0.9})
    training.train_recipe(recipe, benchmark, home / "out")
    assert {"distillation", "contrastive"} <= log_of(home / "out", "distil")[0].keys()
    assert "distillation" not in log_of(home / "out", "retrieve")[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distil.teacher": "all-minilm-l6-v2"}, "32 features, the teacher's 20"),
        ({"distil.teacher": "./nowhere"}, "no model of sentence-transformers"),
        ({"distil.teacher": "shared", "distil.lora_rank": 2, "distil.projector_rate": 0}, "states are stored"),
    ],
)
def test_teachers_that_cannot_be_had(home, benchmark, changes, said):  # noqa: F811
    with pytest.raises(InputError, match=said):
        training.train_recipe(read_recipe("mini-distilled", {**SMALL, **changes}), benchmark, home / "out")


def test_the_text_teacher_is_pinned_whole():
    assert isinstance(PACKAGE, Package)
    assert (PACKAGE.client, PACKAGE.version, MODEL.split("/")[0]) == ("pip", "0.1.0", PACKAGE.filename.split("-")[0])
