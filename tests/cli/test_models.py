"""``puma models``: what --model can name here, without loading or fetching anything."""

import json
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants

from puma.cli import main
from puma.mini.default import default_model_folder
from puma.retriever.model import Retriever
from support import hub


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("listed") / "model"
    Retriever.from_base(base, layers=2, prompt="short", device="cpu").save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PUMA_MODEL", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(capsys, *arguments):
    assert main(["models", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_on_a_bare_machine_there_is_the_default_which_can_be_made(capsys):
    (row,) = listed(capsys)
    assert (row["name"], row["kind"], row["path"], row["used"]) == ("puma-mini", "default", None, True)
    assert main(["models"]) == 0
    assert "* puma-mini" in (out := capsys.readouterr().out)
    assert "made on first use" in out


def test_every_place_is_listed_once(folder, base, place, capsys, monkeypatch):
    default = default_model_folder(place / "home")
    for target in (default, default.parent / "puma-mini-00000000", place / "runs" / "quickstart" / "model"):
        shutil.copytree(folder, target)
    hub.cache_snapshot(place / "hub", "org/tiny", folder, "1" * 40, "main", "v1")
    hub.cache_snapshot(place / "hub", "org/tiny", folder, "2" * 40)
    hub.cache_snapshot(place / "hub", "org/no-retriever", base, "3" * 40, "main")
    rows = listed(capsys, "runs", "runs/quickstart/model", base)
    assert [(row["kind"], row["name"], row["revisions"]) for row in rows] == [
        ("default", "puma-mini", []),
        ("cache", str(default.parent / "puma-mini-00000000"), []),
        ("hub", "org/tiny", ["main", "v1"]),
        ("hub", "org/tiny", []),
        ("folder", "runs/quickstart/model", []),
    ]
    weights = (folder / "model.safetensors").stat().st_size
    assert {(row["layers"], row["dim"], row["bytes"]) for row in rows} == {(2, 32, weights)}
    assert [row["used"] for row in rows] == [True, False, False, False, False]

    monkeypatch.setenv("PUMA_MODEL", "org/tiny")
    assert [row["used"] for row in listed(capsys)] == [False, False, True, False, False]
    monkeypatch.setenv("PUMA_MODEL", "org/elsewhere")
    last = listed(capsys)[-1]
    assert (last["name"], last["kind"], last["path"], last["used"]) == ("org/elsewhere", "PUMA_MODEL", None, True)
    assert main(["models"]) == 0
    assert "not here yet" in capsys.readouterr().out


def test_lengths_that_vectors_may_be_cut_to_are_listed(folder, place, capsys):
    nested = shutil.copytree(folder, place / "nested")
    config = json.loads((nested / "config.json").read_text())
    (nested / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [32, 8, 16, "x", 64, True]}))
    assert [row["dimensions"] for row in listed(capsys, nested, folder)][-2:] == [[8, 16], []]
    assert main(["models", str(nested)]) == 0
    assert "in a folder; vectors may be cut to 8, 16\n" in capsys.readouterr().out


def test_a_wrong_folder_is_an_error_and_torch_is_not_loaded(place, capsys):
    assert main(["models", "nowhere"]) == 2
    assert "'nowhere': no such folder" in capsys.readouterr().err
    code = "import sys; from puma.cli import main; main(['models']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
