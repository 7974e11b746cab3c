"""``puma prune`` and ``puma train``: what a user types, right and wrong."""

import json
import shutil

import pytest

from puma.cli import main
from puma.cli.commands.train import parsed
from puma.data import mbeir
from puma.errors import ConfigError
from puma.retriever.model import Retriever
from support import benchmarks, tiny
from training.test_validation import benchmark


@pytest.fixture
def texts(tmp_path):
    """A benchmark of text pairs."""
    root = tmp_path / "data"
    pool = [mbeir.Candidate(f"20:{n}", f"text {n}", None, "text") for n in range(1, 21)]
    queries = [mbeir.Query(f"20:{n}", f"query {n}", None, "text", (f"20:{n}",), (), 1) for n in range(1, 21)]
    mbeir.write_queries(mbeir.query_path(root, "tiny", 1, "train"), queries)
    mbeir.write_pool(mbeir.pool_path(root, "tiny", 1, "train"), pool)
    mbeir.write_qrels(mbeir.qrels_path(root, "tiny", 1, "train"), {q.qid: {q.positives[0]: 1} for q in queries}, 1)
    mbeir.write_instructions(mbeir.instructions_path(root), [("text", "text", "tiny", 20, ["Find it."])])
    return root


def test_prune_says_what_is_left(base, tmp_path, capsys):
    assert main(["prune", str(base), str(tmp_path / "out"), "--layers", "2", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["kept_layers"] == [0, 1]
    assert output["parameters"]["total"] > output["parameters"]["without_embeddings"] > 0


def test_a_retriever_is_not_pruned(base, tmp_path, capsys):
    Retriever.from_base(base, layers=2, prompt="short", device="cpu").save_pretrained(tmp_path / "mine")
    assert main(["prune", str(tmp_path / "mine"), str(tmp_path / "out"), "--layers", "1"]) == 2
    assert "is a retriever already; prune the base" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "BASE", "OUT", "--layers", "9"], "from 1 to 4"),
        (["prune", "BASE", "OUT"], "--layers"),
        (["prune", "./nowhere", "OUT", "--layers", "2"], "no such model folder"),
        (["train", "--base", "BASE", "--data", "nowhere", "--out", "OUT", "--prompt", "open-quote"], "nowhere"),
        (["train", "--base", "BASE", "--data", "DATA", "--out", "OUT", "--set", "lerning_rate=1"], "lerning_rate"),
        (["train", "--base", "BASE", "--data", "DATA", "--out", "OUT", "--set", "steps"], "name=value"),
        (["train", "--base", "BASE", "--data", "DATA", "--out", "BASE"], "exists"),
        (["train"], "give a recipe"),
        (["train", "mini"], "no --out"),
        (["train", "qwen9", "--dry-run"], "smolvlm-256m"),
        (["train", "mini", "--set", "steps=3", "--dry-run"], "write retrieve.steps"),
        (["train", "mini", "--set", "retrieve.steps=many", "--dry-run"], "retrieve.steps='many'"),
        (["train", "mini", "--set", "retrieve.steps={", "--dry-run"], "no YAML"),
        (["train", "smolvlm-256m", "--layers", "31", "--dry-run"], "from 1 to 30"),
        (["train", "smolvlm-256m", "--base", "BASE", "--out", "OUT"], "--data"),
        (["train", "smolvlm-256m", "--base", "BASE", "--data", "DATA", "--out", "BASE"], "exists"),
        (["train", "smolvlm-256m", "--base", "./nowhere", "--dry-run"], "config.json"),
        (
            ["train", "smolvlm-256m", "--data", "DATA", "--out", "OUT", "--adapter", "a"],
            "a difference from the mini base",
        ),
        (["train", "mini", "--set", "extra_pairs=[birds]", "--dry-run"], "give a list of icons, wordnet, keywords"),
    ],
)
def test_mistakes_exit_with_two_and_one_line(base, texts, tmp_path, capsys, arguments, said):
    places = {"BASE": str(base), "OUT": str(tmp_path / "out"), "DATA": str(texts)}
    assert main([places.get(word, word) for word in arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_train_distils_trains_and_saves(base, texts, tmp_path, capsys):
    out = tmp_path / "model"
    small = ["batch_size=4", "lora_rank=2", "lora_alpha=4", "precision=fp32"]
    command = ["train", "--base", str(base), "--data", str(texts), "--out", str(out), "--layers", "2"]
    command += ["--prompt", "open-quote", "--distil-steps", "2", "--json", "--set", "steps=2"]
    for setting in small:
        command += ["--set", setting, "--distil-set", setting]
    assert main(command) == 0
    output = json.loads(capsys.readouterr().out)
    assert "distillation" in output["log"]["distil"][0]
    retriever = Retriever.from_pretrained(out, device="cpu")
    assert retriever.encode(["a"]).shape == (1, tiny.HIDDEN)
    assert retriever.instructions == {("text", "text"): "Find it."}
    assert main([*command[:-8], "--set", "steps=2"]) == 2  # the folder is there now


def test_settings_are_read_as_numbers_and_words():
    assert parsed(["learning_rate=1e-4", "steps=3", "symmetric=true", "stage=distil"]) == {
        "learning_rate": 1e-4,
        "steps": 3,
        "symmetric": True,
        "stage": "distil",
    }
    with pytest.raises(ConfigError, match="name=value"):
        parsed(["steps"])


SMALL = ["batch_size=4", "lora_rank=2", "lora_alpha=4", "precision=fp32", "steps=2", "gradient_checkpointing=false"]


def test_train_by_a_recipe_file(base, texts, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    stages = "".join(
        f"{stage}:\n" + "".join(f"  {setting.replace('=', ': ')}\n" for setting in SMALL)
        for stage in ("distil", "retrieve")
    )
    recipe.write_text(f"base: {base}\nlayers: 2\nprompt: open-quote\ndata: {texts}\n" + stages, encoding="utf-8")
    out = tmp_path / "model"
    more = ["--set", "distil.distillation_weight=0.5", "--set", "retrieve.learning_rate=1e-4", "--json"]
    assert main(["train", str(recipe), "--out", str(out), *more]) == 0
    output = json.loads(capsys.readouterr().out)
    assert {"distillation", "contrastive"} <= output["log"]["distil"][0].keys()
    assert "distillation" not in output["log"]["retrieve"][0]
    assert Retriever.from_pretrained(out, device="cpu").encode(["a"]).shape == (1, tiny.HIDDEN)


def test_train_evaluates_keeps_the_best_and_leaves_faulty_rows_out(base, tmp_path, capsys):
    root, out = benchmark(tmp_path / "data"), tmp_path / "model"
    path = mbeir.query_path(root, "tiny", 1, "train")
    path.write_text("no JSON\n" + path.read_text())
    command = ["train", "--base", str(base), "--data", str(root), "--layers", "2", "--prompt", "open-quote"]
    command += ["--eval-every", "1", "--patience", "9", "--attn", "eager", "--dtype", "fp32"]
    for setting in [*SMALL, "workers=0"]:
        command += ["--set", setting]
    assert main([*command, "--out", str(tmp_path / "strict"), "--strict"]) == 2
    assert "line 1" in capsys.readouterr().err
    assert main([*command, "--out", str(out), "--json"]) == 0
    output = capsys.readouterr()
    assert "1 faulty entries were left out" in output.err
    assert "retrieve: best on val at step" in output.err
    log = json.loads(output.out)["log"]["retrieve"]
    assert [row["step"] for row in log if "eval_hit_mean" in row] == [1, 2]
    assert {"eval_hit_task0", "eval_hit_task1"} <= log[-1].keys()


def test_an_unfinished_run_takes_more_steps_and_a_finished_one_says_how(base, texts, tmp_path, capsys):
    out = tmp_path / "model"
    command = ["train", "--base", str(base), "--data", str(texts), "--out", str(out), "--layers", "2"]
    command += ["--prompt", "open-quote", "--json"]
    for setting in SMALL:
        command += ["--set", setting]
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--set", "steps=4"]) == 2
    assert f"--base {out} --out another" in capsys.readouterr().err
    shutil.rmtree(out)  # its checkpoints are still there
    assert main([*command, "--set", "steps=4"]) == 0
    log = json.loads(capsys.readouterr().out)["log"]["retrieve"]
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    more = ["train", "--base", str(out), "--data", str(texts), "--out", str(tmp_path / "more"), "--json"]
    for setting in SMALL:
        more += ["--set", setting]
    assert main(more) == 0


def test_data_without_pairs_of_texts_leaves_the_recipes_stage_1_out(family_base, tmp_path, capsys):
    root = benchmarks.random_tasks(tmp_path / "data", queries=6, candidates=8, splits=("train",), tasks=(0, 3))
    command = ["train", "smolvlm-256m", "--base", str(family_base("idefics3")), "--data", str(root), "--layers", "2"]
    command += ["--out", str(tmp_path / "out"), "--json"]
    for setting in SMALL:
        command += ["--set", f"retrieve.{setting}"]
    assert main([*command, "--distil-steps", "3"]) == 2
    assert "--distil-steps 0, in a recipe distil: null" in capsys.readouterr().err
    assert main([*command, "--set", "distil.steps=3"]) == 2
    assert "no pairs of two texts" in capsys.readouterr().err
    assert main(command) == 0
    output = capsys.readouterr()
    assert "stage 1 is left out (--distil-steps 0" in output.err
    assert json.loads(output.out)["log"].keys() == {"retrieve"}


def test_dry_run_of_a_folder_tells_the_real_models_parameters(base, tmp_path, capsys):
    command = [
        "train",
        "--base",
        str(base),
        "--layers",
        "2",
        "--dry-run",
        "--set",
        "lora_rank=2",
        "--set",
        "batch_size=4",
    ]
    assert main([*command, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert main(["prune", str(base), str(tmp_path / "pruned"), "--layers", "2", "--json"]) == 0
    pruned = json.loads(capsys.readouterr().out)["parameters"]
    assert output["parameters"]["kept"] == pruned  # its LM head is the token embeddings: counted once
    assert output["layers"] == {"kept": 2, "of": 4, "keep_last": False}
    assert len(output["stages"]) == 1
    assert output["stages"][0]["cost"]["items"] == 8
    assert main([*command, "--distil-steps", "3"]) == 0
    lines = capsys.readouterr().out
    assert "stage distil: 144 items" in lines
    assert "second model as teacher" in lines
    assert "with token embeddings" in lines


def test_flags_go_before_the_recipe(capsys):
    command = ["train", "smolvlm-256m", "--dry-run", "--json", "--layers", "3", "--distil-steps", "0"]
    assert main([*command, "--set", "retrieve.batch_size=4", "--set", "workload.text_tokens=10"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["layers"]["kept"] == 3
    (stage,) = output["stages"]
    assert stage["cost"]["stage"] == "retrieve"
    assert stage["cost"]["items"] == 8
    assert output["workload"]["text_tokens"] == 10


def test_help_shows_recipes_and_launchers(capsys):
    from puma.training.recipes.recipe import shipped_recipes

    assert main(["train", "--help"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for words in ("puma train mini", "torchrun", "accelerate launch", "--dry-run", *shipped_recipes()):
        assert words in output


@pytest.mark.slow
def test_the_benchmark_of_shapes_runs_on_a_cpu(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    script, out = Path(__file__).parents[2] / "benchmarks" / "shape.py", tmp_path / "shape.json"
    code = [sys.executable, "-W", "ignore", str(script), "--quick", "--device", "cpu", "--out", str(out)]
    done = subprocess.run(code, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text(encoding="utf-8"))["cpu"]
    assert {"machine", "versions", "command", "seed", "rule"} <= found.keys()
    (shape,) = found["shapes"].values()
    assert {(row["stage"], row["teacher"]) for row in shape["training"]} == {
        ("distil", "none"),
        ("distil", "store"),
        ("distil", "shared"),
        ("distil", "second model"),
        ("retrieve", "none"),
    }
    assert all("left_out" not in row for row in [*shape["training"], *shape["encoding"]])
    assert [row["layers"] for row in shape["encoding"]] == [2, 4]  # the cut model first: the kit may run out of time
