"""``puma prune`` and ``puma train``: what a user types, right and wrong."""

import json

import pytest

import tiny
from puma.cli import main
from puma.commands.train import parsed
from puma.data import mbeir
from puma.errors import ConfigError
from puma.model import Retriever


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
    told = json.loads(capsys.readouterr().out)
    assert told["kept_layers"] == [0, 1]
    assert told["parameters"]["total"] > told["parameters"]["without_embeddings"] > 0


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
    told = json.loads(capsys.readouterr().out)
    assert "distillation" in told["log"]["distil"][0]
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
