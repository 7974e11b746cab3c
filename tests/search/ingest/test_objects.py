"""Folders and tables in an object store give what the same files on a disk give; an in-process store of obstore's.
A real S3 server has tests of its own (tests/road/test_object_sources.py)."""

from __future__ import annotations

import base64
import json
import threading

import numpy as np
import pytest
from PIL import Image

from puma.errors import ImageError, InputError, StorageError
from puma.items import Item
from puma.items.fetching import fetched
from puma.items.objects import ObjectPath, object_path
from puma.items.opening import FileBytes
from puma.search import Searcher
from puma.search.ingest import ReadOptions, Record, count_items, read_items
from puma.search.ingest.fields import below
from puma.search.ingest.removing import remove_paths
from puma.search.originals import NoOriginalError, original
from support.encoders import ToyEncoder
from support.objects import ROOT, Bucket

pytest.importorskip("obstore", reason="needs the extra object-store")


@pytest.fixture
def bucket(monkeypatch):
    return Bucket(monkeypatch)


@pytest.fixture
def searcher(tmp_path):
    return Searcher(ToyEncoder(), tmp_path / "index")


@pytest.fixture
def folder(tmp_path):
    """Everything that is read and left out, on a disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "photos"
    for number, name in enumerate(["red.png", "deep/ü x#1%20.png", "deep/er/b.png", ".hidden/c.png", "@eaDir/d.png"]):
        png(folder / name, number)
    (folder / "deep/broken.jpg").write_bytes(b"<html></html>")
    (folder / "deep/notes.txt").write_text("a line\nanother\n")
    (folder / "deep/t.jsonl").write_text(
        "".join(
            json.dumps(row) + "\n" for row in ({"image": "er/b.png", "text": "b", "id": "one"}, {"text": "two"}, [])
        )
    )
    (folder / "t.csv").write_text("caption;file_name;price\nthree;red.png;7\nfour;gone.png;8\n", encoding="utf-16")
    (folder / "none.csv").write_text("a,b\n1,2\n")
    data = [png(folder / "x.png", 9).read_bytes(), None]
    pq.write_table(pa.table({"image": data, "text": ["five", "six"], "n": [5, 6]}), folder / "p.parquet")
    return folder


def png(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, shade, 0)).save(path)
    return path


def add(searcher, *paths, sync=False, allow_empty=False, **options):
    chosen = ReadOptions(**options)
    return searcher.add_paths(paths, progress=False, sync=sync, allow_empty=allow_empty, options=chosen)


def plain(entries, root):
    """What was found, with the root's name left out."""
    found = []
    for entry in entries:
        if isinstance(entry, Record):
            found.append(("record", entry.id, entry.content, entry.payload, entry.where, entry.source))
        else:
            found.append((type(entry).__name__, *(value for value in vars(entry).values() if isinstance(value, str))))
    return sorted(json.dumps(one, sort_keys=True, ensure_ascii=False).replace(str(root), "ROOT") for one in found)


@pytest.mark.parametrize("options", [{}, {"hidden": True}, {"exclude": ("er", "*.csv")}])
def test_a_folder_gives_what_it_gives_on_a_disk(bucket, folder, options):
    address = bucket.upload(folder, "a/b")
    bucket.put("a/bc/other.png", b"")
    bucket.put("a/b/empty", b"")  # how consoles keep an empty folder
    chosen = ReadOptions(**options)
    here, there = plain(read_items([folder], chosen), folder), plain(read_items([address + "/"], chosen), address)
    assert there == [entry.replace("no such file", "no such object") for entry in here]
    assert count_items([address]) == count_items([folder])


@pytest.mark.parametrize("name", ["red.png", "deep/notes.txt", "deep/t.jsonl", "t.csv", "p.parquet"])
def test_a_file_gives_what_it_gives_on_a_disk(bucket, folder, name):
    address = bucket.upload(folder, "b")
    here, there = plain(read_items([folder / name]), folder), plain(read_items([f"{address}/{name}"]), address)
    assert there == [entry.replace("no such file", "no such object") for entry in here]
    assert here


def test_what_has_not_changed_is_not_fetched_again(bucket, folder, searcher):
    address = bucket.upload(folder, "b")
    first = add(searcher, address)
    assert (first.embedded, first.present) == (9, 0)
    held = {row.id for row in searcher.index.page(99)}
    bucket.got.clear()
    again = add(searcher, address, sync=True)
    assert (again.embedded, again.present, again.deleted) == (0, 9, 0)
    # What holds something that could not be read is read again, with the images that it names, as on a disk.
    faulty = {"b/deep/broken.jpg", "b/deep/t.jsonl", "b/deep/er/b.png", "b/t.csv", "b/red.png", "b/gone.png"}
    assert set(bucket.got) == faulty | {"b/none.csv"}
    assert {row.id for row in searcher.index.page(99)} == held


def test_sync_replaces_and_removes_and_refuses_what_is_gone(bucket, tmp_path, searcher):
    for number in range(3):
        png(tmp_path / f"f/{number}.png", number)
    address = bucket.upload(tmp_path / "f", "f")
    add(searcher, address)
    bucket.put("f/0.png", png(tmp_path / "new.png", 77).read_bytes())
    bucket.delete("f/1.png")
    assert (add(searcher, address).deleted, len(searcher.index)) == (1, 3)  # the changed one; nothing is looked for
    assert (add(searcher, address, sync=True).deleted, len(searcher.index)) == (1, 2)
    for key in ("f/0.png", "f/2.png"):
        bucket.delete(key)
    with pytest.raises(InputError, match=f"{address}: nothing is there now, though the index holds"):
        add(searcher, address, sync=True)
    assert len(searcher.index) == 2
    assert add(searcher, address, sync=True, allow_empty=True).deleted == 2


def test_an_object_that_cannot_be_read_is_skipped_and_keeps_what_it_gave(bucket, tmp_path, searcher):
    png(tmp_path / "f/0.png", 1)
    png(tmp_path / "f/1.png", 2)
    address = bucket.upload(tmp_path / "f", "f")
    add(searcher, address)
    bucket.put("f/1.png", b"no image")
    added = add(searcher, address, sync=True)
    assert [skip.where for skip in added.skips] == [f"{address}/1.png"]
    assert (added.kept, len(searcher.index)) == (1, 2)


def test_a_store_that_goes_away_ends_the_run_which_goes_on_later(bucket, tmp_path, searcher, monkeypatch):
    import obstore

    class GenericError(Exception):
        __module__ = "obstore.exceptions"

    for number in range(40):
        png(tmp_path / f"f/{number:02}.png", number)
    address, get = bucket.upload(tmp_path / "f", "f"), obstore.get

    def failing(store, key, **more):
        if key >= "f/30":
            raise GenericError("error sending request\n\nDebug source: long")
        return get(store, key, **more)

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "get", failing)
        output = r"f/30.png: the object store cannot be used \(error sending request\); check the bucket"
        with pytest.raises(StorageError, match=output):
            searcher.add_paths([address], batch_size=8, progress=False)
    stored = len(searcher.index)
    assert 8 <= stored <= 30
    added = add(searcher, address)
    assert (added.embedded, added.present) == (40 - stored, stored)


def test_tables_name_objects_of_their_own_bucket_alone(bucket, tmp_path):
    png(tmp_path / "f/0.png", 1)
    here = png(tmp_path / "here.png", 2)
    bucket.upload(tmp_path / "f", "f")
    given = [
        "../f/0.png",
        "s3://bucket/f/0.png",
        "s3://other/f/0.png",
        str(here),
        f"file://{here}",
        "../../0.png",
        "https://a/0.png",
    ]
    bucket.put("t/t.jsonl", "".join(json.dumps({"image": image, "n": 1}) + "\n" for image in given).encode())
    found = list(read_items([f"{ROOT}/t/t.jsonl"]))
    assert [isinstance(entry, Record) for entry in found] == [True, True] + [False] * 5
    assert {entry.payload["image"] for entry in found[:2]} == {f"{ROOT}/f/0.png"}
    assert all("not in the bucket of its table" in entry.reason for entry in found[2:])


def test_a_string_is_never_fetched(bucket, tmp_path, searcher):
    bucket.put("f/0.png", png(tmp_path / "0.png", 1).read_bytes())
    with pytest.raises(ImageError, match="never fetched"):
        Item(image=f"{ROOT}/f/0.png").open_image()
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": f"{ROOT}/f/0.png"}))
    (skip,) = read_items([tmp_path / "t.jsonl"])
    assert "never fetched" in skip.reason
    assert searcher.add([{"image": f"{ROOT}/f/0.png"}]).skips
    assert bucket.got == []


def test_wrong_addresses_are_refused_before_anything_is_read(bucket, searcher):
    bucket.put("f/0.bin", b"x")
    for address, output in {
        f"{ROOT}/g": "s3://bucket/g: no such object, and none below it; check the bucket and the name",
        f"{ROOT}/f/0.bin": "unknown kind of file; known are folders",
        "s3://": "names no bucket; write s3://BUCKET/FOLDER",
        "s3:/bucket/f": "after s3:/ a slash is missing",
        "s3://bucket/f//0.png": "holds //",
        "s4://bucket/f": "addresses are never fetched",
        "https://bucket/f": "addresses are never fetched",
    }.items():
        with pytest.raises(InputError, match=output):
            add(searcher, address)


def test_an_original_is_given_out_while_it_is_what_was_indexed(bucket, tmp_path, searcher):
    bucket.put("f/0.png", png(tmp_path / "0.png", 1).read_bytes())
    add(searcher, f"{ROOT}/f")
    (row,) = searcher.index.page(9)
    assert row.payload["folder"] == f"{ROOT}/f"
    found = original(searcher.index, row.id)
    assert (found.data, found.media_type, found.name) == ((tmp_path / "0.png").read_bytes(), "image/png", "0.png")
    bucket.put("f/0.png", png(tmp_path / "1.png", 2).read_bytes())
    with pytest.raises(NoOriginalError, match="changed"):
        original(searcher.index, row.id)
    bucket.delete("f/0.png")
    with pytest.raises(NoOriginalError, match="not there any more"):
        original(searcher.index, row.id)


def test_an_object_is_fetched_only_for_items_of_its_bucket(bucket, tmp_path, searcher):
    data = png(tmp_path / "0.png", 1).read_bytes()
    bucket.put("f/0.png", data)
    for number, image in enumerate([f"{ROOT}/f/0.png", "s3:/bucket/f/0.png", "s3://"]):
        searcher.add([{"text": str(number), "image": data}], ids=[str(number)], payloads=[{"image": image}])
        with pytest.raises(NoOriginalError):
            original(searcher.index, str(number))
    assert bucket.got == []
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "f/0.png", "id": "named"}))
    bucket.put("t.jsonl", (tmp_path / "t.jsonl").read_bytes())
    add(searcher, f"{ROOT}/t.jsonl")
    assert original(searcher.index, "named").data == data
    assert searcher.index.sources_of(["named", "0"]) == {(f"{ROOT}/t.jsonl", "named")}


def test_folders_are_filtered_by_and_removed_like_those_of_a_disk(bucket, tmp_path, searcher):
    for number, name in enumerate(["f/0.png", "f/g/1.png", "fg/2.png"]):
        bucket.put(name, png(tmp_path / "x.png", number).read_bytes())
    add(searcher, ROOT)
    names = {row.payload["image"] for row in searcher.index.page(9, where=below(f"{ROOT}/f/"))}
    assert names == {f"{ROOT}/f/0.png", f"{ROOT}/f/g/1.png"}
    assert (remove_paths(searcher.index, [f"{ROOT}/f"]), len(searcher.index)) == (2, 1)


def test_a_batch_is_fetched_at_once_within_a_bound(bucket, tmp_path):
    data = png(tmp_path / "0.png", 1).read_bytes()
    for number in range(4):
        bucket.put(f"f/{number}.png", data)
    items = [record.item for record in read_items([f"{ROOT}/f"])]
    items += [Item(text="a fox"), Item(image=ObjectPath(ROOT, "f/gone.png"))]
    assert [type(item.image) for item in fetched(items, 3 * len(data))] == [FileBytes] * 3 + [
        ObjectPath,
        type(None),
        ObjectPath,
    ]
    again = fetched(items)
    assert [type(item.image) for item in again] == [FileBytes] * 4 + [type(None), ObjectPath]
    assert again[0].image == data
    assert again[0].image_name == f"{ROOT}/f/0.png"
    with pytest.raises(ImageError, match=r"f/gone.png: no such object"):
        again[5].open_image()
    encoder = ToyEncoder()
    np.testing.assert_array_equal(encoder.encode(items[:4]), encoder.encode(list(again[:4])))


def test_a_long_list_is_read_part_by_part(bucket):
    lines = [base64.b64encode(bytes([number % 251]) * 600).decode() for number in range(20_000)]
    bucket.put("long.txt", "\n".join(lines).encode())  # 16 MB
    found = read_items([f"{ROOT}/long.txt"])
    first = next(found)
    assert (first.item.text, len(bucket.got)) == (lines[0], 2)  # its encoding, and its first 64 KiB
    assert [record.item.text for record in found] == lines[1:]
    assert len(bucket.got) < 20


def test_a_file_that_changes_while_it_is_read_is_a_skip(bucket):
    bucket.put("a.txt", b"one\n" * 100_000)
    found = read_items([f"{ROOT}/a.txt"])
    next(found)
    bucket.put("a.txt", b"two\n" * 100_000)
    *records, skip = found
    assert {record.item.text for record in records} == {"one"}
    assert "it has changed while it was read" in skip.reason


def test_addresses_are_parsed_as_they_are():
    path = object_path("S3://bucket/a b/ü#1%20.png/")
    assert (path.root, path.key, path.name, path.suffix) == (ROOT, "a b/ü#1%20.png", "ü#1%20.png", ".png")
    assert [str(above) for above in path.parents] == [f"{ROOT}/a b", ROOT]
    assert [str(path.at(name)) for name in ("x", "../x", "../../../x", "/x")] == [
        f"{path}/x",
        f"{ROOT}/a b/x",
        "None",
        "None",
    ]
    assert object_path("photos") is object_path("c:/photos") is object_path("https://a/b") is None


@pytest.mark.parametrize("name", ["", "/t.jsonl"])
def test_several_images_are_fetched_at_once(bucket, tmp_path, name, monkeypatch):
    import obstore

    for number in range(12):
        png(tmp_path / f"f/{number}.png", number)
    (tmp_path / "f/t.jsonl").write_text("".join(f'{{"image": "{number}.png"}}\n' for number in range(12)))
    address = bucket.upload(tmp_path / "f", "f")
    meeting, get = threading.Barrier(4, timeout=30), obstore.get
    monkeypatch.setattr(obstore, "get", lambda s, k, **o: (k.endswith("png") and meeting.wait(), get(s, k, **o))[1])
    if not name:
        bucket.delete("f/t.jsonl")
    found = list(read_items([address + name]))
    assert [entry.payload["width"] for entry in found] == [8] * 12
    meeting.reset()
    assert all(isinstance(item.image, FileBytes) for item in fetched([record.item for record in found]))
