"""Reading folders, texts, JSONL and CSV: what comes out, what is skipped and why, and stable ids."""

import os

import pytest
from PIL import Image

from puma.embedding import Skip
from puma.errors import DataError, InputError
from puma.ingest import Ignored, Record, content_digest, read_items
from puma.items import Item


def picture(path, colour=(255, 0, 0), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def split(found):
    found = list(found)
    return [[entry for entry in found if isinstance(entry, kind)] for kind in (Record, Skip, Ignored)]


def test_a_folder_gives_its_pictures_at_any_depth_in_order(tmp_path):
    picture(tmp_path / "b.PNG")
    picture(tmp_path / "deep" / "er" / "a.jpeg", (0, 255, 0))
    (tmp_path / "notes.txt").write_text("not read: only pictures are, in folders")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    records, skips, ignored = split(read_items([tmp_path]))
    assert [os.path.basename(record.payload["image"]) for record in records] == ["b.PNG", "a.jpeg"]
    assert [record.item.modality for record in records] == ["image", "image"]
    assert not skips
    assert len(ignored) == 2


def test_ids_are_the_content(tmp_path):
    same = [picture(tmp_path / "a.png"), picture(tmp_path / "x" / "b.png")]
    other = picture(tmp_path / "c.png", (0, 0, 9))
    records, _, _ = split(read_items([*same, other]))
    assert records[0].id == records[1].id != records[2].id
    assert records[0].id == content_digest(Item(image=same[0].read_bytes()))
    digests = {content_digest(item) for item in (Item(text="a"), Item(text="b"), Item(text="a", image=other))}
    assert len(digests | {records[2].id}) == 4


def test_text_lines(tmp_path):
    (tmp_path / "t.txt").write_bytes("\ufeffa red fox\r\n\n  ünï\u2028code \n".encode() + b"\xff\xfe\nlast")
    records, skips, _ = split(read_items(tmp_path / "t.txt"))
    assert [record.item.text for record in records] == ["a red fox", "ünï\u2028code", "last"]
    assert [(skip.where.rsplit(":", 1)[1], skip.reason) for skip in skips] == [("2", "empty line"), ("4", "not UTF-8")]


def test_json_lines_good_and_bad(tmp_path):
    picture(tmp_path / "fox.png")
    lines = [
        '{"text": "a fox", "image": "fox.png", "id": "fox", "year": 2020, "tags": ["x"]}',
        '{"text": "a fox", "id": 7}',
        '{"image": "fox.png"}',
        "a red fox",
        '["a", "list"]',
        '{"text": ""}',
        '{"text": "  ", "image": null}',
        '{"image": "gone.png"}',
        '{"text": 5}',
        '{"text": "x", "id": [1]}',
        '{"text": "x", "score": NaN}',
        '{"text": "\\ud800"}',
        '{"image": "a\\u0000b"}',
        '{"image": "."}',
        "[" * 100_000,
    ]
    (tmp_path / "i.jsonl").write_text("\n".join(lines))
    records, skips, _ = split(read_items([tmp_path / "i.jsonl"]))
    assert [(record.id, record.item.modality) for record in records[:2]] == [("fox", "image,text"), ("7", "text")]
    assert records[0].payload == {"text": "a fox", "image": str(tmp_path / "fox.png"), "year": 2020, "tags": ["x"]}
    assert records[2].id == records[2].content
    expected = ["not JSON", "not a JSON object", "empty", "empty", "no such file", "text must be", "id must be"]
    expected += ["not JSON", "not valid Unicode", "NUL", "is a folder", "not JSON"]
    assert [skip.where for skip in skips] == [f"{tmp_path}/i.jsonl:{n}" for n in range(4, 16)]
    for skip, reason in zip(skips, expected, strict=True):
        assert reason in skip.reason


def test_csv(tmp_path):
    picture(tmp_path / "fox.png")
    (tmp_path / "i.csv").write_text(
        '\ufefftext,image,id,place\n"a fox, red",fox.png,f1,wood\ntwo\nonly text,,,\n,,,here\nx,none.png,,\na,b,c,d,e\n'
        '"two\nlines",,,\n'
    )
    records, skips, _ = split(read_items([tmp_path / "i.csv"]))
    assert [(r.item.text, r.item.modality) for r in records] == [
        ("a fox, red", "image,text"),
        ("only text", "text"),
        ("two\nlines", "text"),
    ]
    assert records[0].payload["place"] == "wood"
    assert "place" not in records[1].payload
    reasons = ["4 columns", "empty", "no such file", "4 columns"]
    assert all(reason in skip.reason for skip, reason in zip(skips, reasons, strict=True))
    for text in ("a;b\n1;2\n", ""):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=r"bad.csv, line 1: a column named text or image"):
            list(read_items([tmp_path / "bad.csv"]))


def test_a_csv_with_bytes_that_are_no_utf8_skips_the_row(tmp_path):
    (tmp_path / "i.csv").write_bytes(b"text\ngood\nb\xffd\n")
    records, skips, _ = split(read_items([tmp_path / "i.csv"]))
    assert [record.item.text for record in records] == ["good"]
    assert "not valid Unicode" in skips[0].reason


@pytest.mark.parametrize("name", ["a red fox", "gone.png", "gone/", "x" * 5000, "nul\0"])
def test_a_path_that_does_not_exist_is_an_error_and_never_text(tmp_path, name):
    with pytest.raises(InputError, match="no such file or folder"):
        read_items([name])


def test_faulty_paths_are_found_before_anything_is_read(tmp_path):
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    with pytest.raises(InputError, match=r"x.pdf: unknown kind of file; known are"):
        read_items([picture(tmp_path / "a.png"), tmp_path / "x.pdf"])
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InputError, match="unknown kind"):
        read_items([tmp_path / "pipe.txt"])


def test_a_pipe_named_like_a_picture_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    _, skips, _ = split(read_items([tmp_path]))
    assert "not a regular file" in skips[0].reason


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "big.png", "wb") as stream:
        stream.truncate(101 * 2**20)  # sparse
    _, skips, _ = split(read_items([tmp_path]))
    assert "over the limit" in skips[0].reason
