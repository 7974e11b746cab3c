"""Commands refuse a place that they cannot write to before they do anything."""

import os

import numpy as np
import pytest

from puma.cli import app as cli
from puma.errors import InputError, StorageError
from puma.index import Index
from puma.storage.folders import check_place, written_folder
from puma.training.two_stages import free_target

IS_A_FILE = "notes[.]csv is a file, not a folder"
COMMANDS = {
    "train": ("--out", "train mini --out {place}"),
    "train a table": ("--out", "train --data notes.csv --out {place}"),
    "train adapter": ("--adapter", "train mini --out model --adapter {place}"),
    "prune": ("OUT", "prune mini {place} --layers 2"),
    "convert": ("OUT", "convert notes.csv {place}"),
    "embed": ("--out", "embed notes.csv --out {place}.npz"),
    "embed work": ("--work", "embed notes.csv --out vectors.npz --work {place}"),
    "embed cache": ("--image-cache", "embed notes.csv --out vectors.npz --image-cache {place}"),
    "export": ("OUT", "export puma-mini {place} --format onnx"),
    "quickstart": ("--out", "quickstart --out {place}"),
    "mine": ("--out", "mine --root bench --out {place}"),
    "probe": ("--out", "probe --out {place}"),
    "evaluate runs": ("--run-dir", "evaluate --run-dir {place}"),
    "evaluate json": ("--json-out", "evaluate --json-out {place}"),
    "evaluate report": ("--report", "evaluate --report {place}"),
    "index add": ("INDEX", "index add {place} notes.csv"),
    "serve": ("INDEX", "serve {place}"),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "notes.csv").write_text("query_text,positive_text\na,b\nc,d\n")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["notes.csv/new", "notes.csv/deep/new"])
def test_a_place_below_a_file_is_refused(command, place, here, tmp_path, capsys):
    name, line = COMMANDS[command]
    code = cli.main(line.format(place=place).split())
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert f"{name} {place}" in err
    assert "notes.csv is a file, not a folder; give a path that lies in a folder" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "notes.csv"]


def test_python_functions_refuse_it_too(here):
    below = here / "notes.csv" / "new"
    with pytest.raises(InputError, match=IS_A_FILE), written_folder(below):
        pytest.fail("entered")
    with pytest.raises(InputError, match=IS_A_FILE):
        free_target(below)
    with pytest.raises(InputError, match=IS_A_FILE):
        Index(below)


def test_a_folder_without_permission_to_write_is_refused(here, monkeypatch, capsys):
    (here / "locked").mkdir()
    plain = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: os.path.basename(path) != "locked" and plain(path, mode))
    for command in ("index add", "serve", "prune"):
        name, line = COMMANDS[command]
        assert cli.main(line.format(place="locked/deep/new").split()) == 1
        err = capsys.readouterr().err
        assert f"{name} locked/deep/new: no permission to write in locked; give another place" in err
    with pytest.raises(StorageError):
        check_place("locked/new", "--out")
    check_place("locked", "--out")  # it exists: what writes in it says what it may not do


def test_an_index_that_is_there_is_opened_wherever_it_lies(here, monkeypatch):
    Index(here / "my.index", dim=2).add(["a"], np.eye(2)[:1], ["text"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli.main(["index", "stats", "my.index"]) == 0
    check_place("my.index", "INDEX")
