"""Removing what came from a path."""

import json
import shutil

import pytest

from puma.errors import InputError
from puma.search import Searcher
from puma.search.ingest.removing import remove_paths
from support.encoders import ToyEncoder
from support.served import png


@pytest.fixture
def searcher(tmp_path):
    for place, name in enumerate(["a/red.png", "a/deep/blue.png", "ab/green.png", "b/copy.png", "listed/one.png"]):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((50 * place, 0, 0)))
    shutil.copy(tmp_path / "files/b/copy.png", tmp_path / "files/a/copied.png")
    (tmp_path / "files/notes.txt").write_text("a fox\na whale\n")
    rows = [{"image": "listed/one.png"}, {"text": "a pool"}]
    (tmp_path / "files/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Searcher(ToyEncoder(), tmp_path / "my.index")
    files = [tmp_path / "files" / name for name in ("a", "ab", "b", "notes.txt", "rows.jsonl")]
    found.add_paths(files, progress=False)
    return found


def names(searcher):
    rows = [row for part in searcher.index.scan(vectors=False) for row in part]
    return {row.payload.get("text") or row.payload["image"].rpartition("/")[2] for row in rows}


def test_a_folder_goes_with_all_below_it_and_what_is_elsewhere_too_stays(searcher, tmp_path):
    before = names(searcher)
    assert remove_paths(searcher.index, [tmp_path / "files/a"]) == 2
    gone = before - names(searcher)
    assert {"red.png", "blue.png"} == gone - {"copied.png", "copy.png"}
    assert len(searcher.index) == 6
    assert remove_paths(searcher.index, [tmp_path / "files/b"]) == 1  # the copy's last place


def test_a_file_a_list_and_an_image_that_a_list_names(searcher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "files")
    assert remove_paths(searcher.index, ["ab/green.png", "notes.txt"]) == 3
    assert not names(searcher) & {"green.png", "a fox", "a whale"}
    assert remove_paths(searcher.index, ["listed/one.png"]) == 1
    assert "a pool" in names(searcher)
    assert remove_paths(searcher.index, ["rows.jsonl"]) == 1


def test_files_may_be_gone_and_what_never_came_from_there_is_a_mistake(searcher, tmp_path):
    shutil.rmtree(tmp_path / "files/ab")
    count = len(searcher.index)
    for paths in (["nowhere"], [tmp_path / "files/ab", "nowhere"], [tmp_path / "files/ab/green"]):
        with pytest.raises(InputError, match=r"nothing in it came from .*nothing was removed"):
            remove_paths(searcher.index, paths)
    assert len(searcher.index) == count
    assert remove_paths(searcher.index, [tmp_path / "files/ab"]) == 1
