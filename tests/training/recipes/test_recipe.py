"""Recipes: the shipped ones, what is refused and how, and which values go before which."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from puma.cli import main
from puma.errors import ConfigError, InputError
from puma.losses import LOSSES
from puma.mini.training import base_config as mini_config
from puma.retriever.model import Retriever
from puma.training.config import TrainConfig
from puma.training.recipes.recipe import dry_run, read_recipe, recipe_of, recipes_folder, shipped_recipes, train_recipe
from support import benchmarks, families

DEPTHS = {
    "qwen2-vl-7b": 12,
    "qwen2-vl-2b": 12,
    "qwen2.5-vl-3b": 15,
    "qwen3-vl-2b": 12,
    "qwen3-vl-4b": 15,
    "qwen3-vl-8b": 15,
    "smolvlm-256m": 13,
    "smolvlm-500m": 14,
    "mini": 6,
    "mini-distilled": 6,
    "puma-mini": 6,
}


def written(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(path, changes=None):
    with pytest.raises(ConfigError) as caught:
        read_recipe(path, changes)
    return str(caught.value).split("\n  ")[1:]


def test_the_shipped_recipes_are_these_and_sound():
    assert {name: read_recipe(name).layers for name in shipped_recipes()} == DEPTHS
    bases = {read_recipe(name).base for name in shipped_recipes()}
    assert len(bases) == len(DEPTHS) - 2  # three have the mini base


def test_depths_other_than_the_papers_are_in_its_proportion():
    from puma.training.recipes.recipe import base_config

    for name in DEPTHS.keys() - {"mini", "mini-distilled", "puma-mini"}:
        recipe = read_recipe(name)
        whole = base_config(recipe).get_text_config().num_hidden_layers
        assert recipe.layers == round(whole * 12 / 28), name


def test_the_papers_stages_are_the_methods_table():
    for name in DEPTHS.keys() - {"mini", "mini-distilled", "puma-mini"}:
        recipe = read_recipe(name)
        first, second = recipe.distil, recipe.retrieve
        assert (first.batch_size, first.learning_rate, first.lora_dropout, first.epochs) == (72, 2e-4, 0.05, 2)
        assert (first.contrastive_weight, first.temperature, first.decay) == (0.9, 0.05, 0)
        assert first.distillation_weight == pytest.approx(0.1 * 0.05)
        assert (second.batch_size, second.learning_rate, second.lora_dropout, second.epochs) == (150, 3e-4, 0.1, 2)
        assert (second.temperature, second.decay, second.distillation_weight) == (0.03, 0.5, 0)
        for stage in (first, second):
            assert (stage.lora_rank, stage.lora_alpha, stage.warmup, stage.schedule) == (128, 256, 0.03, "cosine")


def test_only_the_papers_own_recipe_trains_its_loss(tmp_path):
    losses = {name: (recipe.distil and recipe.distil.loss, recipe.retrieve.loss) for name, recipe in all_recipes()}
    assert losses.pop("qwen2-vl-7b") == ("infonce", "mac")
    assert losses.pop("mini") == losses.pop("puma-mini") == (None, "split-mac")
    assert set(losses.values()) == {("infonce", "split-mac")}
    assert recipe_of({"base": "b"}).retrieve.loss == "split-mac"
    inherited = read_recipe(written(tmp_path, "like: smolvlm-256m\nretrieve:\n  batch_size: 8\n"))
    assert (inherited.retrieve.loss, inherited.retrieve.batch_size, inherited.retrieve.lora_rank) == (
        "split-mac",
        8,
        128,
    )
    assert read_recipe(written(tmp_path, "like: qwen2-vl-7b\nlayers: 4\n")).retrieve.loss == "mac"


def all_recipes():
    return [(name, read_recipe(name)) for name in DEPTHS]


def test_the_loss_and_its_weight_come_from_set():
    changes = {"retrieve.loss": "mac"}
    assert read_recipe("mini", changes).retrieve.loss == "mac"
    weighed = read_recipe("mini", {"retrieve.other_weight": 0.3, "retrieve.any_share": 0.25}).retrieve
    assert (weighed.loss, weighed.other_weight, weighed.any_share) == ("split-mac", 0.3, 0.25)
    assert faults_of("qwen2-vl-7b", {"retrieve.other_weight": 0.3, "distil.loss": "macs"}) == [
        "--set distil.loss: distil.loss='macs': give one of " + str(LOSSES),
        "--set retrieve.other_weight: retrieve.other_weight=0.3: only loss='split-mac' has a second term; leave it "
        "out, or give that loss",
    ]


@pytest.mark.parametrize(
    ("changes", "steps", "minutes"),
    [
        ({}, 0, 7),
        ({"steps": 7}, 7, 0),
        ({"steps": 0}, 0, 7),
        ({"minutes": 3}, 0, 3),
        ({"steps": 7, "minutes": 3}, 7, 3),
    ],
)
def test_steps_take_the_place_of_the_minutes_of_a_recipe_below(changes, steps, minutes, tmp_path):
    of_flags = read_recipe("mini", {f"retrieve.{name}": value for name, value in changes.items()}).retrieve
    lines = "".join(f"  {name}: {value}\n" for name, value in {"seed": 1, **changes}.items())
    of_file = read_recipe(written(tmp_path, f"like: mini\nretrieve:\n{lines}")).retrieve
    assert (of_flags.steps, of_flags.minutes) == (of_file.steps, of_file.minutes) == (steps, minutes)


@pytest.mark.parametrize("name", ["mini-distilled", "smolvlm-256m"])
def test_a_dry_run_needs_neither_weights_nor_network(name, monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    recipe = read_recipe(name)
    report = dry_run(recipe, mini_config(recipe) if recipe.base == "mini" else None)
    kept, unpruned = report["parameters"]["kept"], report["parameters"]["unpruned"]
    assert 0 < kept["without_embeddings"] < unpruned["without_embeddings"]
    assert [row["cost"]["stage"] for row in report["stages"]] == ["distil", "retrieve"]
    for row in report["stages"]:
        assert row["cost"]["flops"]["total"] < row["unpruned"]["flops"]["total"]


def test_all_faults_come_together_each_with_its_line(tmp_path):
    path = written(
        tmp_path,
        "layers: two\nretrieve:\n  lerning_rate: 1\n  learning_rate: fast\n  batch_size: 1\n"
        "workload: {text_tokens: 0}\ndistil: 4\nimage_size: 64\ncolour: red\nprompt: sonnet\nkeep_last: 1\n",
    )
    faults = faults_of(path, {"retrieve.decay": -1})
    expected = [
        ("mine.yaml:1", "layers='two'"),
        ("mine.yaml:3", "retrieve.lerning_rate"),
        ("mine.yaml:4", "retrieve.learning_rate='fast'"),
        ("mine.yaml:5", "retrieve.batch_size=1"),
        ("mine.yaml:6", "workload.text_tokens=0"),
        ("mine.yaml:7", "distil"),
        ("mine.yaml:8", "image_size"),
        ("mine.yaml:9", "colour"),
        ("mine.yaml:10", "prompt='sonnet'"),
        ("mine.yaml:11", "keep_last=1"),
        ("--set retrieve.decay", "retrieve.decay=-1"),
        ("base", "is missing"),
    ]
    for where, what in expected:
        assert any(fault.startswith(f"{where}: ") and what in fault for fault in faults), (where, what, faults)
    assert len(faults) == len(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: [unclosed\n", "no YAML"),
        ("- a\n- b\n", "give keys and values"),
        ("", "give keys and values"),
        ("base: a\nbase: b\n", "mine.yaml:2: base: is there twice"),
        ("base: a\nretrieve:\n  steps: 1\n  steps: 2\n", "mine.yaml:4: retrieve.steps: is there twice"),
        ("base: a\nretrieve: null\n", "mine.yaml:2: retrieve: give settings"),
        ("base: a\nlayers: true\n", "layers=True"),
        ("base: a\nlayers: 0\n", "layers=0"),
        ("base: a\nretrieve: {stage: distil}\n", "leave it out"),
        ("base: a\nsteps: 3\n", "write retrieve.steps"),
        ("base: a\nlike: nothing-there\n", "mine.yaml:2: like: recipe 'nothing-there'"),
        ("like: mine\n", "circle"),
        ("base: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    ],
)
def test_refused(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        read_recipe(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_name_that_is_no_recipe_lists_those_there_are():
    with pytest.raises(InputError, match=r"smolvlm-256m"):
        read_recipe("qwen9")
    with pytest.raises(InputError, match="neither a file"):
        read_recipe("../recipes/mini")


def test_numbers_as_people_write_them(tmp_path):
    recipe = read_recipe(
        written(tmp_path, "base: a\nretrieve:\n  learning_rate: 1e-4\n  weight_decay: .5\n  clip: 1E+1\n")
    )
    assert (recipe.retrieve.learning_rate, recipe.retrieve.weight_decay, recipe.retrieve.clip) == (1e-4, 0.5, 10.0)


def test_like_takes_what_is_not_said_and_null_leaves_a_stage_out(tmp_path):
    path = written(tmp_path, "like: qwen2-vl-7b\nlayers: null\nretrieve:\n  batch_size: 8\n")
    recipe, paper = read_recipe(path), read_recipe("qwen2-vl-7b")
    assert (recipe.base, recipe.layers, recipe.distil) == (paper.base, None, paper.distil)
    assert recipe.retrieve == TrainConfig(**{**asdict(paper.retrieve), "batch_size": 8})
    none = read_recipe(written(tmp_path, "like: mine\ndistil: null\n", "next.yaml"))
    assert none.distil is None
    assert none.stages == [recipe.retrieve]
    back = read_recipe(written(tmp_path, "like: next\ndistil: {steps: 5}\n", "third.yaml"))
    assert back.distil == TrainConfig(stage="distil", steps=5)  # nothing of the stage that was left out


def test_changes_go_before_the_file():
    recipe = read_recipe("qwen2-vl-7b", {"layers": 8, "retrieve.steps": 7, "distil": None})
    assert (recipe.layers, recipe.retrieve.steps, recipe.distil) == (8, 7, None)
    assert read_recipe("qwen2-vl-7b", {"distil.steps": 3}).distil.batch_size == 72
    other = read_recipe("mini", {"base": "Qwen/Qwen2-VL-2B-Instruct", "prompt": "chat"})
    assert other.retrieve == read_recipe("mini").retrieve


def test_a_recipe_of_values_is_checked_the_same():
    assert recipe_of({"base": "b", "retrieve.steps": 2}).retrieve == TrainConfig(steps=2)
    with pytest.raises(ConfigError, match=r"retrieve\.stps"):
        recipe_of({"base": "b", "retrieve.stps": 2})


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    import puma.training.recipes.files

    inside = tmp_path / "puma" / "_recipes"
    inside.mkdir(parents=True)
    (inside / "mini.yaml").write_text((recipes_folder() / "mini.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(
        puma.training.recipes.files, "__file__", str(tmp_path / "puma" / "training" / "recipes" / "files.py")
    )
    assert shipped_recipes() == ["mini"]
    assert read_recipe("mini").layers == 6


def each(*quick, without=()):
    """Every shipped recipe but some; all but the quick ones are slow."""
    marks = {name: () if name in quick else pytest.mark.slow for name in DEPTHS}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=mark) for name, mark in marks.items() if name not in without]
    )


@each("mini", "mini-distilled", "qwen2-vl-7b")
def test_every_shipped_recipe_has_a_dry_run(name, capsys):
    assert main(["train", name, "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"]["kept"] == DEPTHS[name]
    stages = ["distil", "retrieve"] if name not in ("mini", "puma-mini") else ["retrieve"]
    assert [row["cost"]["stage"] for row in report["stages"]] == stages
    for row in report["stages"]:
        assert 0 < row["cost"]["memory"]["total"] < row["unpruned"]["memory"]["total"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "data"
    return benchmarks.random_tasks(root, queries=6, candidates=8, splits=("train", "val"), tasks=(0, 1, 8))


@each("mini", "mini-distilled", "smolvlm-256m", without=["puma-mini"])  # tests/mini/test_training.py has that
def test_every_shipped_recipe_trains_a_tiny_base_of_its_family(family_base, data, tmp_path, name):
    own = read_recipe(name)
    tiny_run = {"steps": 2, "batch_size": 4, "chunks": 2, "workers": 0}
    if own.retrieve.lora_rank:
        tiny_run |= {"lora_rank": 4, "lora_alpha": 8}
    stages = ["retrieve"] if own.distil is None else ["distil", "retrieve"]
    changes = {f"{stage}.{key}": value for stage in stages for key, value in tiny_run.items()}
    base = family_base(families.RECIPES[name])
    recipe = read_recipe(name, {**changes, "base": str(base), "layers": 2, "retrieve.eval_every": 1})
    logs = train_recipe(recipe, data, tmp_path / "model")
    assert list(logs) == stages
    if own.distil is not None:
        assert {"distillation", "contrastive"} <= logs["distil"][0].keys()
    assert [entry["step"] for entry in logs["retrieve"] if "eval_hit_mean" in entry] == [1, 2]
    made = Retriever.from_pretrained(tmp_path / "model", device="cpu")
    assert made.model.config.get_text_config().num_hidden_layers == 2
    assert np.isfinite(made.encode(["a red fox"])).all()


def test_dtype_and_attn_are_keys_of_a_recipe(tmp_path):
    recipe = recipe_of({"base": "b", "dtype": "fp32", "attn": "eager", "distil.base_precision": "bf16"})
    assert (recipe.retrieve.base_precision, recipe.distil.base_precision, recipe.attn) == ("fp32", "bf16", "eager")
    path = written(tmp_path, "base: b\ndtype: half\nattn: fast\nretrieve: {lora_rank: 0}\n")
    faults = faults_of(path)
    assert any(fault.startswith("mine.yaml:2: dtype='half': give one of ('auto'") for fault in faults)
    assert any(fault.startswith("mine.yaml:3: attn='fast': give one of ('sdpa'") for fault in faults)
    (fault,) = faults_of(written(tmp_path, "base: b\ndtype: bf16\nretrieve: {lora_rank: 0}\n"))
    assert fault.startswith("mine.yaml:2: retrieve.base_precision='bf16': with lora_rank=0 the base itself is trained")
