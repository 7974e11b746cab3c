"""Fields of an image's own file: folder, size, date; and filtering by a folder."""

import json

import pytest
from PIL import ExifTags, Image

from puma.index.filters import checked_filter, matches
from puma.search import Searcher
from puma.search.ingest import read_items
from puma.search.ingest.fields import below, file_of
from support.encoders import ToyEncoder
from support.served import png


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for name, size in {
        "a.png": (8, 6),
        "sub/b.png": (10, 5),
        "sub-other/c.png": (7, 7),
        "sub/deep/d.png": (3, 9),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png((size[0] * 9, 0, 0), size))
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2024:05:31 18:30:00"
    Image.new("RGB", (20, 10)).save(folder / "sub" / "e.jpg", exif=exif)
    return folder


def test_a_folders_images_have_them(pictures):
    found = {record.payload["image"]: record.payload for record in read_items([pictures])}
    assert found[str(pictures / "sub" / "b.png")] == {
        "image": str(pictures / "sub" / "b.png"), "folder": str(pictures / "sub"), "width": 10, "height": 5,
    }  # fmt: skip
    assert found[str(pictures / "sub" / "e.jpg")]["date"] == "2024-05-31T18:30:00"


def test_a_lists_own_fields_go_first_and_texts_have_none(pictures):
    rows = [{"image": "a.png", "width": "wide", "owner": "ann"}, {"text": "a fox"}, {"image": "a.png", "text": "b"}]
    (pictures / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = (record.payload for record in read_items([pictures / "rows.jsonl"]))
    assert first == {
        "image": str(pictures / "a.png"), "folder": str(pictures), "width": "wide", "height": 6, "owner": "ann",
    }  # fmt: skip
    assert second == {"text": "a fox"}
    assert (third["text"], third["folder"]) == ("b", str(pictures))


def test_filtering_by_them(pictures, tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "my.index")
    searcher.add_paths([pictures], progress=False)

    def names(where):
        return {hit.payload["image"].rpartition("/")[2] for hit in searcher.search("red", k=20, where=where)}

    assert names(below(pictures)) == {"a.png", "b.png", "c.png", "d.png", "e.jpg"}
    assert names(below(pictures / "sub")) == {"b.png", "d.png", "e.jpg"}
    assert names(below(f"{pictures}/sub/")) == {"b.png", "d.png", "e.jpg"}
    assert names(below(pictures / "sub" / "deep")) == {"d.png"}
    assert names(below(pictures / "su")) == set()
    assert names({"type": "eq", "key": "folder", "value": str(pictures / "sub")}) == {"b.png", "e.jpg"}
    assert names({"type": "gte", "key": "date", "value": "2024"}) == {"e.jpg"}
    assert names({"type": "lt", "key": "date", "value": "2024-05-31"}) == set()
    assert names({"type": "gt", "key": "width", "value": 8}) == {"b.png", "e.jpg"}


@pytest.mark.parametrize(
    ("folder", "inside"),
    [("/a/b", True), ("/a/b/c", True), ("/a/b/c/d", True), ("/a/b!", False), ("/a/b0", False), ("/a/bc", False),
     ("/a", False), ("/a/b./c", False), ("/a/b/\U0010ffff", True)],
)  # fmt: skip
def test_below_is_the_folder_and_everything_in_it(folder, inside):
    assert matches("image", {"folder": folder}, checked_filter(below("/a/b"))) is inside
    assert matches("image", {"folder": folder}, checked_filter(below("/"))) is True


def test_the_file_that_an_image_lies_in(tmp_path):
    odd = tmp_path / "a#1.png"
    assert file_of(str(odd)) == str(odd)
    odd.write_bytes(png())
    assert file_of(str(odd)) == str(odd)
    assert file_of("/a/b.pdf#page=3") == "/a/b.pdf"
    assert file_of("/a/rows.parquet#fox.png") == "/a/rows.parquet"
    assert file_of("/a/b.png") == "/a/b.png"
