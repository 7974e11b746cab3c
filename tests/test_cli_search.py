"""The commands index, search, evaluate and embed: bad input is one line and the right exit code; a real tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import ToyEncoder
from puma import cli
from puma.errors import DownloadError


@pytest.fixture(autouse=True)
def no_model_of_ones_own(monkeypatch):
    """No PUMA_MODEL from outside, and no default model: it would be fetched."""
    monkeypatch.delenv("PUMA_MODEL", raising=False)
    monkeypatch.setattr("puma.mini.default.ADAPTER", Path("gone.safetensors"))


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setenv("PUMA_MODEL", "toy")
    monkeypatch.setattr("puma.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())


@pytest.fixture
def things(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    (tmp_path / "texts.txt").write_text("blue whale\n\nred fox\n")
    return folder


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_add_search_and_look(toy, things, tmp_path, capsys):
    index = tmp_path / "my.index"
    code, out, err = run(capsys, "index", "add", index, things, tmp_path / "texts.txt")
    assert code == 0
    assert "4 added, 0 there already, 1 skipped, 0 other files ignored; 4 items in all" in out
    assert "texts.txt:2: empty line" in err
    code, out, _ = run(capsys, "index", "add", index, things, "--json")
    assert json.loads(out) | {"skips": []} == {
        "embedded": 0, "present": 2, "updated": 0, "repeated": 0, "ignored": 0, "skipped": 0, "skips": [], "rows": 4,
    }  # fmt: skip
    code, out, _ = run(capsys, "search", index, "green", "-k", "2", "--modality", "image")
    assert "green.png" in out.splitlines()[0]
    assert len(out.splitlines()) == 2
    code, out, _ = run(capsys, "search", index, "fox", "--image", things / "red.png", "--json")
    assert set(json.loads(out)[0]) == {"id", "score", "modality", "payload"}
    code, out, _ = run(capsys, "index", "stats", index, "--json")
    assert json.loads(out)["modalities"] == {"text": 2, "image": 2, "image,text": 0}
    code, out, _ = run(capsys, "index", "ls", index, "-n", "1", "--modality", "text")
    assert len(out.splitlines()) == 1
    assert code == 0


def test_embed_writes_vectors(toy, things, tmp_path, capsys):
    (things / "bad.png").write_bytes(b"no")
    code, _, err = run(capsys, "embed", things, "--out", tmp_path / "v.npz")
    assert code == 0
    assert "bad.png" in err
    with np.load(tmp_path / "v.npz") as stored:
        assert stored["vectors"].shape == (2, 32)
        assert list(stored["modalities"]) == ["image", "image"]
    assert run(capsys, "embed", things, "--out", tmp_path / "v.txt")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "none.index", "x"], "no index there"),
        (["search", "none.index"], "needs text or an image"),
        (["search", "none.index", "--image", "gone.png"], "gone.png: no such file"),
        (["search", "none.index", "x", "--modality", "video"], "modality must be"),
        (["search", "none.index", "x", "-k", "0"], "-k"),
        (["search"], "Missing argument"),
        (["index", "add", "i", "gone.png"], "no such file or folder"),
        (["index", "add", "i"], "Missing argument"),
        (["index", "add", "full", "texts.txt"], "other things in it"),
        (["index", "add", "i", "texts.txt", "--model", "gone"], "no such model folder"),
        (["index", "add", "i", "texts.txt"], "`puma quickstart` makes one"),
        (["index", "add", "i", "texts.txt", "--model", "puma-mini"], "`puma quickstart` makes one"),
        (["embed", "texts.txt", "--out", "x.npz"], "--model or PUMA_MODEL"),
        (["index", "stats", "none.index"], "no index there"),
        (["evaluate", "--root", "gone"], "no such folder"),
        (["embed", "gone", "--out", "x.npz"], "no such file or folder"),
        (["nonsense"], "No such command"),
        (["index", "nonsense"], "No such command"),
        (["search", "--nonsense"], "No such option"),
        ([], "Usage"),
        (["index"], "Usage"),
    ],
)
def test_a_users_mistake_is_a_message_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert message in out + err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "texts.txt"]  # nothing left behind


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (DownloadError("no network"), 1, "error: no network\n"),
        (OSError(28, "No space left on device", "/x"), 1, "error: /x: No space left"),
        (MemoryError(), 1, "error: not enough memory"),
        (ZeroDivisionError("odd"), 1, "error: a defect in PUMA (ZeroDivisionError: odd)"),
    ],
)
def test_other_errors_are_one_line_and_a_traceback_only_on_request(
    error, code, message, things, tmp_path, capsys, monkeypatch
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("puma.model.Retriever.from_pretrained", fail)
    monkeypatch.setenv("PUMA_MODEL", "any")
    arguments = ["index", "add", tmp_path / "i", things]
    found, _, err = run(capsys, *arguments)
    assert found == code
    assert err.startswith(message)
    assert err.count("\n") == 1
    monkeypatch.setenv("PUMA_DEBUG", "1")
    assert "Traceback" in run(capsys, *arguments)[2]


@pytest.mark.parametrize(
    "command", [["index", "add"], ["index", "ls"], ["index", "stats"], ["search"], ["evaluate"], ["embed"]]
)
def test_every_command_helps_with_an_example(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "Example: puma " + " ".join(command) in " ".join(out.split())


def program(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "puma.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_program_itself_exits_with_2_and_help_loads_no_torch(tmp_path):
    done = program("search", "none.index", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: none.index: no index there")
    code = "import sys, puma.cli\nassert not {'torch', 'lancedb', 'transformers'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_real_model_goes_all_the_way(base, things, tmp_path, capsys):
    from puma.model import Retriever

    Retriever.from_base(base, prompt="open-quote").save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model"]
    code, out, err = run(capsys, "index", "add", tmp_path / "i", things, tmp_path / "texts.txt", *arguments)
    assert (code, "4 added" in out) == (0, True), err
    code, out, _ = run(capsys, "search", tmp_path / "i", "--image", things / "red.png", "-k", "3", *arguments)
    assert code == 0
    assert len(out.splitlines()) == 3


def test_the_model_is_the_named_one_then_puma_model_then_the_default(tmp_path, monkeypatch):
    from puma.commands import _shared

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("puma.model.Retriever.from_pretrained", lambda path: str(path))
    monkeypatch.setattr("puma.mini.default.default_model", lambda **_: tmp_path / "made")
    assert _shared.load_retriever(None) == str(tmp_path / "made")
    monkeypatch.setenv("PUMA_MODEL", "other")
    assert _shared.load_retriever(None) == "other"
    assert _shared.load_retriever(Path("mine")) == "mine"
    assert _shared.load_retriever(Path("puma-mini")) == str(tmp_path / "made")
    (tmp_path / "puma-mini").mkdir()
    assert _shared.load_retriever(Path("puma-mini")) == "puma-mini"


def test_without_the_default_model_the_quickstarts_is_pointed_at_where_there_is_one(
    things, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "model" / "config.json").write_text("{}")
    code, _, err = run(capsys, "index", "add", "i", things)
    assert code == 2
    assert "puma-mini" in err
    assert "--model runs/quickstart/model" in err


def test_an_index_of_another_model_says_which_was_taken(toy, things, tmp_path, capsys, monkeypatch):
    assert run(capsys, "index", "add", tmp_path / "i", things)[0] == 0
    monkeypatch.setattr("puma.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder(fingerprint="toy-2"))
    code, _, err = run(capsys, "search", tmp_path / "i", "green")
    assert code == 2
    assert "was made with model toy-1" in err
    assert "No --model was given, so it was PUMA_MODEL=toy" in err
    code, _, err = run(capsys, "search", tmp_path / "i", "green", "--model", "other")
    assert code == 2
    assert "No --model" not in err
    monkeypatch.delenv("PUMA_MODEL")
    monkeypatch.setattr("puma.mini.default.default_model", lambda **_: tmp_path / "made")
    assert "it was puma-mini, the default" in run(capsys, "index", "add", tmp_path / "i", things)[2]
