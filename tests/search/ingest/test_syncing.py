"""Ingest with ``sync``: what vanished goes, what could only not be read stays, nobody's disk is emptied by mistake."""

import json
import os
import shutil

import pytest
from PIL import Image

from puma.errors import InputError
from puma.index import Index
from puma.search import Searcher
from support.encoders import ToyEncoder


@pytest.fixture
def searcher(tmp_path):
    return Searcher(ToyEncoder(), tmp_path / "index")


@pytest.fixture
def folder(tmp_path):
    """Four images, two of them one folder deeper."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for shade, name in enumerate(("a.png", "b.png", "deep/c.png", "deep/d.png")):
        image(folder / name, 60 * shade)
    return folder


def image(path, shade):
    Image.new("RGB", (8, 8), (255, shade, 255 - shade)).save(path)
    return path


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sync(searcher, *paths, **options):
    return searcher.add_paths(paths, sync=True, progress=False, **options)


def files(searcher):
    """The base names of all images in the index, by id."""
    rows = searcher.index.page(1000)
    return sorted(os.path.basename(row.payload["image"]) for row in rows if "image" in row.payload)


def counts(added):
    return added.embedded, added.present, added.deleted, added.kept


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl", "t.csv"])
def test_a_text_file_that_breaks_off_keeps_what_it_gave_before(searcher, tmp_path, name):
    rows = [f"number {n}" for n in range(900)]
    kinds = {".txt": rows, ".jsonl": [json.dumps({"text": row}) for row in rows], ".csv": ["text", *rows]}
    path = tmp_path / name
    data = "\n".join(kinds[path.suffix]).encode("utf-16")
    path.write_bytes(data)
    assert counts(sync(searcher, path)) == (900, 0, 0, 0)
    path.write_bytes(data[:-7])
    added = sync(searcher, path)
    assert (added.deleted, added.present + added.kept, len(searcher.index)) == (0, 900, 900)
    assert "nothing can be read from here as utf-16" in added.skips[-1].reason


def test_nothing_changed_nothing_goes(searcher, folder):
    assert counts(sync(searcher, folder)) == (4, 0, 0, 0)
    assert counts(sync(searcher, folder)) == (0, 4, 0, 0)
    assert searcher.index.verify() == []


def test_a_removed_file_goes_with_sync_and_stays_without(searcher, folder):
    sync(searcher, folder)
    (folder / "a.png").unlink()
    assert counts(searcher.add_paths([folder], progress=False)) == (0, 3, 0, 0)
    assert len(searcher.index) == 4
    assert counts(sync(searcher, folder)) == (0, 3, 1, 0)
    assert files(searcher) == ["b.png", "c.png", "d.png"]
    assert searcher.index.stats()["thumbnails"] == 3
    assert searcher.index.verify() == []


def test_only_what_lies_in_the_given_paths_goes(searcher, folder, tmp_path):
    other = tmp_path / "pictures-2"  # a name that begins alike is no folder inside
    other.mkdir()
    image(other / "e.png", 250)
    sync(searcher, folder, other)
    (folder / "deep" / "c.png").unlink()
    (folder / "a.png").unlink()
    (other / "e.png").unlink()
    assert sync(searcher, folder / "deep").deleted == 1
    assert files(searcher) == ["a.png", "b.png", "d.png", "e.png"]
    assert sync(searcher, folder).deleted == 1
    assert files(searcher) == ["b.png", "d.png", "e.png"]


def test_a_moved_file_is_not_embedded_again_and_its_row_follows(searcher, folder):
    sync(searcher, folder)
    before = {row.id for row in searcher.index.page(10)}
    (folder / "a.png").rename(folder / "deep" / "z.png")
    assert counts(sync(searcher, folder)) == (0, 4, 0, 0)
    assert {row.id for row in searcher.index.page(10)} == before
    assert files(searcher) == ["b.png", "c.png", "d.png", "z.png"]


def test_what_is_there_twice_goes_with_its_last_copy(searcher, folder):
    shutil.copy(folder / "a.png", folder / "deep" / "same.png")
    added = sync(searcher, folder)
    assert (added.embedded, added.repeated, len(searcher.index)) == (4, 1, 4)
    (folder / "a.png").unlink()
    assert counts(sync(searcher, folder)) == (0, 4, 0, 0)
    assert "same.png" in files(searcher)
    (folder / "deep" / "same.png").unlink()
    assert sync(searcher, folder).deleted == 1
    assert len(searcher.index) == 3


def test_two_copies_in_one_batch_or_in_two_are_both_remembered(folder, tmp_path):
    for size in (1, 2, 100):
        searcher = Searcher(ToyEncoder(), tmp_path / f"index-{size}")
        shutil.copy(folder / "a.png", folder / "zz.png")
        sync(searcher, folder, batch_size=size)
        assert {os.path.basename(source) for source, _ in searcher.index.sources([str(folder)])} == {
            "a.png", "b.png", "c.png", "d.png", "zz.png",
        }  # fmt: skip


def test_a_changed_file_replaces_its_row(searcher, folder):
    sync(searcher, folder)
    image(folder / "a.png", 199)
    assert counts(sync(searcher, folder)) == (1, 3, 1, 0)
    assert files(searcher) == ["a.png", "b.png", "c.png", "d.png"]


def test_what_another_path_also_gives_stays(searcher, folder, tmp_path):
    captions = lines(tmp_path / "list.jsonl", {"image": "pictures/a.png"}, {"text": "red"})
    sync(searcher, folder, captions)
    assert len(searcher.index) == 5
    lines(captions, {"text": "red"})
    assert sync(searcher, captions).deleted == 0  # the folder has it
    (folder / "a.png").unlink()
    assert sync(searcher, folder).deleted == 1


def test_what_was_added_by_hand_has_no_source_and_stays(searcher, folder):
    sync(searcher, folder)
    searcher.add(["red"], ids=["mine"])
    assert sync(searcher, folder).deleted == 0
    assert "mine" in searcher.index.get(["mine"])


def test_an_unreadable_file_keeps_its_row(searcher, folder):
    sync(searcher, folder)
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])  # half copied
    (folder / "b.png").write_bytes(b"")
    added = sync(searcher, folder)
    assert (counts(added), len(added.skips)) == ((0, 2, 0, 2), 2)
    assert len(searcher.index) == 4
    (folder / "a.png").write_bytes(whole)
    (folder / "b.png").unlink()
    assert counts(sync(searcher, folder)) == (0, 3, 1, 0)


def test_a_folder_that_cannot_be_listed_keeps_its_rows(searcher, folder, monkeypatch):
    sync(searcher, folder)
    listed = os.scandir

    def closed(path):
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", closed)
    added = sync(searcher, folder)
    assert (counts(added), [skip.reason for skip in added.skips]) == ((0, 2, 0, 2), ["Permission denied"])
    assert len(searcher.index) == 4


def test_a_list_loses_the_lines_that_it_lost(searcher, folder, tmp_path):
    rows = [{"text": "red fox"}, {"text": "blue whale", "id": "w"}, {"text": "cap", "image": "pictures/a.png"}]
    captions = lines(tmp_path / "list.jsonl", *rows)
    sync(searcher, captions)
    lines(captions, rows[0], rows[2])
    assert counts(sync(searcher, captions)) == (0, 2, 1, 0)
    assert not searcher.index.get(["w"])


def test_a_line_whose_image_is_away_keeps_its_row_and_a_broken_line_does_not(searcher, folder, tmp_path):
    named = {"text": "cap", "image": "pictures/a.png", "id": "cap"}
    unnamed = {"image": "pictures/b.png"}
    captions = lines(tmp_path / "list.jsonl", named, unnamed, {"text": "red"}, {"text": "blue"})
    sync(searcher, captions)
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    captions.write_text(captions.read_text().replace('{"text": "blue"}', "{text: blue}"))
    added = sync(searcher, captions)
    assert counts(added) == (0, 1, 1, 2)
    assert len(added.skips) == 3
    lines(captions, {"text": "red"})
    assert sync(searcher, captions).deleted == 2


def test_a_list_inside_a_folder_is_another_matter_until_its_file_is_gone(searcher, folder):
    captions = lines(folder / "list.jsonl", {"text": "red"})
    sync(searcher, folder, captions)
    assert sync(searcher, folder).deleted == 0  # the folder alone: lists are not read there
    assert len(searcher.index) == 5
    captions.unlink()
    assert sync(searcher, folder).deleted == 1


@pytest.mark.parametrize("how", ["emptied", "gone", "only other files"])
def test_a_folder_with_nothing_in_it_is_refused_unless_said(searcher, folder, how):
    sync(searcher, folder)
    calls = searcher.encoder.calls
    shutil.rmtree(folder)
    if how != "gone":
        folder.mkdir()
    if how == "only other files":
        (folder / "lost+found.txt").touch()
    with pytest.raises(InputError, match=r"pictures: nothing is there now.*--allow-empty"):
        sync(searcher, folder)
    assert (len(searcher.index), searcher.encoder.calls) == (4, calls)
    assert counts(sync(searcher, folder, allow_empty=True)) == (0, 0, 4, 0)
    assert len(searcher.index) == 0


def test_an_emptied_list_is_refused_unless_said_and_nothing_goes_anywhere(searcher, folder, tmp_path):
    captions = lines(tmp_path / "list.jsonl", {"text": "red"})
    sync(searcher, folder, captions)
    captions.write_text("")
    (folder / "a.png").unlink()
    with pytest.raises(InputError, match=r"list\.jsonl: nothing is there now"):
        sync(searcher, folder, captions)
    assert len(searcher.index) == 5
    assert sync(searcher, folder, captions, allow_empty=True).deleted == 2


def test_an_empty_folder_that_gave_nothing_is_no_mistake_and_a_wrong_path_is(searcher, tmp_path):
    (tmp_path / "new").mkdir()
    assert counts(sync(searcher, tmp_path / "new")) == (0, 0, 0, 0)
    for allow in (False, True):
        with pytest.raises(InputError, match="no such file or folder"):
            sync(searcher, tmp_path / "gone", allow_empty=allow)


def test_an_interrupted_run_removes_nothing(searcher, folder):
    sync(searcher, folder)
    (folder / "a.png").unlink()
    image(folder / "deep" / "new.png", 111)

    class Stopped(ToyEncoder):
        def encode(self, items, *, instruction=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sync(Searcher(Stopped(), searcher.index), folder)
    assert len(searcher.index) == 4
    assert counts(sync(searcher, folder)) == (1, 3, 1, 0)


def test_what_another_process_adds_meanwhile_is_left_alone(searcher, folder):
    sync(searcher, folder)
    (folder / "a.png").unlink()
    image(folder / "b.png", 88)  # so that there is something to embed
    other = Searcher(ToyEncoder(), Index(searcher.index.path))

    class Meanwhile(ToyEncoder):
        def encode(self, items, *, instruction=None):
            (folder / "later").mkdir()
            image(folder / "later" / "x.png", 17)
            other.add_paths([folder / "later"], progress=False)
            return super().encode(items, instruction=instruction)

    added = sync(Searcher(Meanwhile(), searcher.index), folder)
    assert (added.embedded, added.deleted) == (1, 2)  # a.png and the old b.png
    assert files(searcher) == ["b.png", "c.png", "d.png", "x.png"]


def test_relative_and_absolute_paths_and_dots_are_one_source(searcher, folder, monkeypatch):
    sync(searcher, folder)
    monkeypatch.chdir(folder)
    (folder / "a.png").unlink()
    assert counts(sync(searcher, "deep/..")) == (0, 3, 1, 0)
    assert counts(sync(searcher, ".")) == (0, 3, 0, 0)


def test_a_name_that_is_no_text_is_skipped_and_hurts_nobody(searcher, folder, tmp_path):
    strange = os.fsencode(folder) + b"/bad\xff.png"
    try:
        shutil.copy(os.fsencode(folder / "a.png"), strange)
    except OSError:
        pytest.skip("this file system has no such names")
    added = sync(searcher, folder)
    assert (added.embedded, len(added.skips)) == (4, 1)
    assert "valid Unicode" in added.skips[0].reason
    json.dumps(added.as_dict(), ensure_ascii=False).encode()
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff")
    os.mkdir(odd)
    shutil.copy(folder / "a.png", odd + "/a.png")
    assert len(sync(searcher, odd).skips) == 1
