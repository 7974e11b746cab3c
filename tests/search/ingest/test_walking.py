"""Folders: what is left out is counted by reason, links and loops, tables and documents inside; files that have not
changed are not read again."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from puma.cli import app as cli
from puma.index import Index
from puma.items import formats
from puma.search import Searcher
from puma.search.ingest import ReadOptions, walking
from puma.search.ingest.files import NO_COLUMNS
from support.encoders import ToyEncoder

OLD = (1_700_000_000.5, 1_700_000_000.5)


@pytest.fixture
def searcher(tmp_path):
    return Searcher(ToyEncoder(), tmp_path / "index")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "photos"


def image(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 99)).save(path)
    os.utime(path, OLD)
    return path


def add(searcher, *paths, sync=False, **options):
    return searcher.add_paths(paths, progress=False, sync=sync, options=ReadOptions(**options))


def names(searcher):
    return sorted(os.path.basename(row.payload["image"]) for row in searcher.index.page(99) if "image" in row.payload)


def test_hidden_and_system_folders_are_left_out_and_counted(searcher, folder):
    hidden = [".thumbnails/a.png", ".Trashes/b.png", "@eaDir/c.png", "__MACOSX/d.png", "deep/.git/e.png"]
    for n, name in enumerate([*hidden, "._f.png", "g.png"]):
        image(folder / name, n)
    added = add(searcher, folder)
    assert names(searcher) == ["g.png"]
    assert added.ignored_by == {walking.HIDDEN_FOLDER: 5, walking.HIDDEN_FILE: 1}
    add(searcher, folder, hidden=True)
    assert len(names(searcher)) == 7
    assert len(names(Searcher(ToyEncoder(), folder / "i"))) == 0
    assert add(searcher, folder / ".thumbnails").present == 1  # named itself, it is read


def test_patterns_leave_out_names_and_paths(searcher, folder):
    for n, name in enumerate(["a.png", "drafts/b.png", "2019/c.gif", "2019/d.png", "deep/drafts/e.png", "deep/f.png"]):
        image(folder / name, n)
    added = add(searcher, folder, exclude=("drafts/", "*.gif", "deep/f*"))
    assert names(searcher) == ["a.png", "d.png"]
    assert added.ignored_by == {
        "left out by --exclude drafts/": 2, "left out by --exclude *.gif": 1, "left out by --exclude deep/f*": 1,
    }  # fmt: skip


def test_links_to_folders_are_told_or_followed_once_and_loops_end(searcher, folder, tmp_path):
    image(folder / "in" / "a.png", 1)
    image(tmp_path / "elsewhere" / "b.png", 2)
    os.symlink(tmp_path / "elsewhere", folder / "link")
    os.symlink(tmp_path / "elsewhere", folder / "again")
    os.symlink(folder, folder / "in" / "loop")
    os.symlink(folder / "in", folder / "a-link-before-its-folder")
    added = add(searcher, folder)
    assert (names(searcher), added.ignored_by) == (["a.png"], {walking.LINKED_FOLDER: 4})
    added = add(searcher, folder, follow=True)
    assert names(searcher) == ["a.png", "b.png"]
    assert added.ignored_by == {walking.SEEN_FOLDER: 3}
    sources = {Path(source).relative_to(folder).as_posix() for source, _ in searcher.index.sources([str(folder)])}
    assert sources == {"in/a.png", "again/b.png"}


def test_tables_and_documents_in_folders_are_read_and_other_tables_counted(searcher, folder):
    image(folder / "p0.png", 1)
    (folder / "metadata.jsonl").write_text('{"file_name": "p0.png", "text": "a fox"}\n')
    (folder / "shop.csv").write_text("caption;price\nred;1\n")
    (folder / "log.csv").write_text("time,level\n1,2\n")
    (folder / "log.jsonl").write_text('{"level": 2}\n' * 50)
    (folder / "bad.parquet").write_bytes(b"no table")
    (folder / "notes.txt").write_text("a line")
    (folder / "film.mov").touch()
    (folder / "README").touch()
    os.mkfifo(folder / "pipe.csv")
    added = add(searcher, folder)
    assert sorted(row.payload.get("text", "") for row in searcher.index.page(9)) == ["", "a fox", "red"]
    assert added.ignored_by == {
        NO_COLUMNS: 3, ".mov (video is not read)": 1, "without a suffix": 1,
        ".txt (read only where the command names the file; one text per line)": 1,
    }  # fmt: skip
    assert [skip.reason for skip in added.skips] == ["not a regular file"]
    again = add(searcher, folder, folder / "shop.csv", folder / "notes.txt")
    assert (again.embedded, again.repeated, again.present) == (1, 0, 3)
    (folder / "shop.csv").unlink()
    assert add(searcher, folder, sync=True).deleted == 1


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr("puma.cli.commands._shared.load_retriever", lambda *_, **__: ToyEncoder())


def test_a_run_in_which_nothing_was_readable_is_no_success(toy, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(formats, "EXTRA_FORMATS", ())
    folder.mkdir()
    assert run(capsys, "index", "add", tmp_path / "i", folder)[0] == 0  # there was nothing
    assert not (tmp_path / "i").exists()
    (folder / "a.heic").touch()
    (folder / "b.nef").touch()
    code, _, err = run(capsys, "index", "add", tmp_path / "i", folder)
    assert code == 1
    assert "pip install 'puma-retrieval[heic]'" in err
    assert "ignored 1 .nef (a camera's raw file; export it as JPEG)" in err
    assert "nothing in these paths could be read" in err
    code, out, _ = run(capsys, "index", "add", tmp_path / "i", folder, "--json")
    assert (code, json.loads(out)["ignored_by"]) == (1, {".nef (a camera's raw file; export it as JPEG)": 1})
    (folder / "broken.png").write_bytes(b"not an image")
    assert run(capsys, "index", "add", tmp_path / "i", folder)[0] == 1
    assert not (tmp_path / "i").exists()
    image(folder / "c.png", 1)
    assert run(capsys, "index", "add", tmp_path / "i", folder)[0] == 0
    assert run(capsys, "index", "add", tmp_path / "i", folder)[0] == 0  # there already
    (folder / "c.png").unlink()
    assert run(capsys, "index", "add", tmp_path / "i", folder)[0] == 1
    assert len(Index(tmp_path / "i", create=False)) == 1  # an index that was there stays


@pytest.fixture
def opened(monkeypatch):
    """The names of the files whose bytes are read."""
    found = []
    plain_bytes, plain_open = Path.read_bytes, open
    monkeypatch.setattr(Path, "read_bytes", lambda path: found.append(path.name) or plain_bytes(path))

    def noting(path, *arguments, **options):
        found.append(os.path.basename(path))
        return plain_open(path, *arguments, **options)

    monkeypatch.setattr("io.open", noting)  # what pathlib calls
    return found


def lists(folder):
    image(folder / "p0.png", 1)
    image(folder / "p1.png", 2)
    (folder / "t.jsonl").write_text('{"image": "p0.png", "text": "a"}\n{"text": "b"}\n')
    (folder / "t.csv").write_text("text\nc\nd\n")
    for name in ("t.jsonl", "t.csv"):
        os.utime(folder / name, OLD)
    return {"p0.png", "p1.png", "t.jsonl", "t.csv"}


def counts(added):
    return added.embedded, added.present, added.repeated, added.deleted


def test_unchanged_files_are_not_read_again(searcher, folder, opened):
    every = lists(folder)
    assert counts(add(searcher, folder)) == (6, 0, 0, 0)
    assert every <= set(opened)
    for sync in (False, True):
        opened.clear()
        assert counts(add(searcher, folder, sync=sync)) == (0, 6, 0, 0)
        assert not every & set(opened)
    assert counts(add(searcher, folder, rehash=True)) == (0, 6, 0, 0)
    assert every <= set(opened)
    opened.clear()
    image(folder / "p1.png", 77)
    os.utime(folder / "p1.png", OLD)  # as a copy that keeps its time would
    assert counts(add(searcher, folder)) == (1, 5, 0, 1)
    assert every & set(opened) == {"p1.png"}
    opened.clear()
    image(folder / "p0.png", 78)  # the list names it
    assert counts(add(searcher, folder)) == (2, 4, 0, 2)
    assert every & set(opened) == {"p0.png", "t.jsonl"}


def test_what_was_removed_by_hand_comes_back_and_other_columns_are_read(searcher, folder):
    lists(folder)
    add(searcher, folder)
    searcher.index.delete([row.id for row in searcher.index.page(9) if row.payload.get("text") in ("c", "a")])
    assert counts(add(searcher, folder)) == (2, 4, 0, 0)
    added = add(searcher, folder / "t.jsonl", text_column="-")
    assert (added.deleted, len(added.skips)) == (2, 1)  # a text alone is empty now


def test_what_could_not_be_read_or_was_written_just_now_is_read_again(searcher, folder, opened):
    lists(folder)
    os.utime(folder / "t.csv")
    (folder / "t.jsonl").write_text('{"image": "gone.png"}\n{"text": "b"}\n')
    os.utime(folder / "t.jsonl", OLD)
    first = add(searcher, folder)
    opened.clear()
    assert len(add(searcher, folder).skips) == len(first.skips) == 1
    assert "t.jsonl" in opened


def test_an_interrupted_run_reads_only_the_rest_again(searcher, folder, opened):
    for n in range(6):
        image(folder / f"{n}.png", n)

    class Dying(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if self.calls >= 4:
                raise KeyboardInterrupt
            return super().encode(items, instruction=instruction)

    with pytest.raises(KeyboardInterrupt):
        Searcher(Dying(), searcher.index).add_paths([folder], progress=False, batch_size=2)
    opened.clear()
    assert counts(searcher.add_paths([folder], progress=False, batch_size=2)) == (2, 4, 0, 0)
    assert {"4.png", "5.png"} <= set(opened)
    assert not {"0.png", "1.png"} & set(opened)


def test_an_unchanged_files_items_are_repeats_of_what_came_before(searcher, folder, tmp_path):
    one = image(folder / "a.png", 1)
    add(searcher, folder)
    copy = tmp_path / "0" / "a.png"
    copy.parent.mkdir()
    shutil.copy(one, copy)
    assert counts(add(searcher, copy, folder)) == (0, 1, 1, 0)
    assert counts(add(searcher, folder, copy, rehash=True)) == (0, 1, 1, 0)
    (tmp_path / "1.jsonl").write_text('{"id": "x", "text": "one"}\n')
    os.utime(tmp_path / "1.jsonl", OLD)
    add(searcher, tmp_path / "1.jsonl")
    (tmp_path / "2.jsonl").write_text('{"id": "x", "text": "two"}\n{"id": "x", "text": "one"}\n')
    added = add(searcher, tmp_path / "1.jsonl", tmp_path / "2.jsonl")
    assert ["with other content" in skip.reason for skip in added.skips] == [True]
    assert counts(added) == (0, 1, 1, 0)
    assert searcher.index.verify() == []


def test_a_file_whose_rows_a_kill_left_half_deleted_is_read_again(searcher, folder, monkeypatch):
    path = image(folder / "a.png", 1)
    add(searcher, folder)
    (row,) = searcher.index.page(9)
    sources = searcher.index._engine._sources

    def killed(ids):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "drop_ids", killed)
        with pytest.raises(KeyboardInterrupt):
            searcher.index.delete([row.id])
    assert searcher.index.sources([str(folder)]) == {(str(path), row.id)}
    assert counts(add(searcher, folder)) == (1, 0, 0, 0)
