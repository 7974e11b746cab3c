"""Reading folders, texts, JSONL, CSV, M-BEIR pools: what comes out, what is skipped and why, and stable ids."""

import json
import os

import pytest
from PIL import Image

from puma.errors import DataError, InputError
from puma.items import Item
from puma.items.encoder import Skip
from puma.search.ingest import Ignored, Record, content_digest, count_items, read_items
from puma.search.ingest.options import NOT_UTF8


def image(path, colour=(255, 0, 0), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def split(found):
    found = list(found)
    return [[entry for entry in found if isinstance(entry, kind)] for kind in (Record, Skip, Ignored)]


def test_a_folder_gives_its_images_at_any_depth_in_order(tmp_path):
    image(tmp_path / "b.PNG")
    image(tmp_path / "deep" / "er" / "a.jpeg", (0, 255, 0))
    (tmp_path / "notes.txt").write_text("not read: its lines are no items unless it is named itself")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    records, skips, ignored = split(read_items([tmp_path]))
    assert [os.path.basename(record.payload["image"]) for record in records] == ["b.PNG", "a.jpeg"]
    assert [record.item.modality for record in records] == ["image", "image"]
    assert not skips
    assert len(ignored) == 2


def test_ids_are_the_content(tmp_path):
    same = [image(tmp_path / "a.png"), image(tmp_path / "x" / "b.png")]
    other = image(tmp_path / "c.png", (0, 0, 9))
    records, _, _ = split(read_items([*same, other]))
    assert records[0].id == records[1].id != records[2].id
    assert records[0].id == content_digest(Item(image=same[0].read_bytes()))
    digests = {content_digest(item) for item in (Item(text="a"), Item(text="b"), Item(text="a", image=other))}
    assert len(digests | {records[2].id}) == 4


def test_text_lines(tmp_path):
    (tmp_path / "t.txt").write_bytes("\ufeffa red fox\r\n\n  ünï\u2028code \n".encode() + b"\xff\xfe\nlast")
    records, skips, _ = split(read_items(tmp_path / "t.txt"))
    assert [record.item.text for record in records] == ["a red fox", "ünï\u2028code", "last"]
    assert [(skip.where.rsplit(":", 1)[1], skip.reason) for skip in skips] == [
        ("2", "empty line"),
        ("4", NOT_UTF8),
    ]


def test_json_lines_good_and_bad(tmp_path):
    image(tmp_path / "fox.png")
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
    assert records[0].payload == {
        "text": "a fox", "image": str(tmp_path / "fox.png"), "year": 2020, "tags": ["x"],
        "folder": str(tmp_path), "width": 6, "height": 4,
    }  # fmt: skip
    assert records[2].id == records[2].content
    expected = ["not JSON", "not a JSON object", "empty", "empty", "no such file", "text must be", "id must be"]
    expected += ["not JSON", "not valid Unicode", "NUL", "is a folder", "not JSON"]
    assert [skip.where for skip in skips] == [f"{tmp_path}/i.jsonl:{n}" for n in range(4, 16)]
    for skip, reason in zip(skips, expected, strict=True):
        assert reason in skip.reason


def test_csv(tmp_path):
    image(tmp_path / "fox.png")
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
    assert "not UTF-8" in skips[0].reason
    assert "--encoding cp1252" in skips[0].reason


@pytest.mark.parametrize("name", ["a red fox", "gone.png", "gone/", "x" * 5000, "nul\0"])
def test_a_path_that_does_not_exist_is_an_error_and_never_text(tmp_path, name):
    with pytest.raises(InputError, match="no such file or folder"):
        read_items([name])


def test_faulty_paths_are_found_before_anything_is_read(tmp_path):
    (tmp_path / "x.doc").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"x.doc: unknown kind of file \(save it as PDF\); known are .*\.parquet, \.pdf"
    ):
        read_items([image(tmp_path / "a.png"), tmp_path / "x.doc"])
    (tmp_path / "bad.csv").write_text("a;b\n")
    with pytest.raises(DataError, match=r"bad.csv, line 1: a column named text or image"):
        read_items([tmp_path / "a.png", tmp_path / "bad.csv"])
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InputError, match="unknown kind"):
        read_items([tmp_path / "pipe.txt"])


def test_a_pipe_named_like_a_image_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    _, skips, _ = split(read_items([tmp_path]))
    assert "not a regular file" in skips[0].reason


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "big.png", "wb") as stream:
        stream.truncate(513 * 2**20)  # sparse
    _, skips, _ = split(read_items([tmp_path]))
    assert "over the limit" in skips[0].reason


def test_plain_numbers_in_csv_are_numbers_and_others_stay_as_they_are_written(tmp_path):
    cells = ["7", "-2.50", "0", "007", "1e3", "+1", "NaN", "1,5", "12345678901234567890", " 4"]
    rows = "".join(f'x{place},12,"{cell}"\n' for place, cell in enumerate(cells))
    (tmp_path / "i.csv").write_text("id,text,n\n" + rows)
    records, _, _ = split(read_items([tmp_path / "i.csv"]))
    assert [record.payload["n"] for record in records] == [7, -2.5, 0, *cells[3:]]
    assert {record.payload["text"] for record in records} == {"12"}


def test_a_line_without_end_is_skipped_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("puma.data.encodings.MAX_LINE", 100)
    (tmp_path / "t.txt").write_text("short\n" + "x" * 1000 + "\nlast")
    records, skips, _ = split(read_items([tmp_path / "t.txt"]))
    assert [record.item.text for record in records] == ["short", "last"]
    assert [(skip.where[-2:], "longer than 100 bytes" in skip.reason) for skip in skips] == [(":2", True)]


def pool(folder, *lines):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_an_mbeir_pool_is_read_as_it_is(tmp_path):
    image(tmp_path / "mbeir_images" / "x" / "fox.png")
    path = pool(
        tmp_path / "cand_pool" / "global",
        {"did": "9:1", "txt": "a fox", "img_path": None, "modality": "text", "src_content": None},
        {"did": "9:2", "txt": None, "img_path": "mbeir_images/x/fox.png", "modality": "image",
         "src_content": json.dumps({"name": "fox", "year": 2020, "text": "not this"})},
        {"did": "9:3", "txt": "a fox", "img_path": "mbeir_images/x/fox.png", "modality": "image,text",
         "src_content": "from a book"},
        {"did": "9:4", "txt": None, "img_path": "mbeir_images/x/gone.png", "modality": "image"},
        {"did": "9:5", "txt": "", "img_path": None, "modality": "text"},
    )  # fmt: skip
    records, skips, _ = split(read_items([path]))
    fox = str(tmp_path / "mbeir_images" / "x" / "fox.png")
    own = {"folder": str(tmp_path / "mbeir_images" / "x"), "width": 6, "height": 4}
    assert [(record.id, record.item.modality, record.payload) for record in records] == [
        ("9:1", "text", {"text": "a fox"}),
        ("9:2", "image", {"image": fox, "name": "fox", "year": 2020} | own),
        ("9:3", "image,text", {"text": "a fox", "image": fox, "src_content": "from a book"} | own),
    ]
    assert ["no such file" in skips[0].reason, skips[1].reason] == [True, "empty: neither text nor image"]
    assert (skips[0].id, skips[0].source) == ("9:4", str(path))


def test_a_pool_without_its_images_folder_is_relative_to_itself(tmp_path):
    image(tmp_path / "fox.png")
    path = pool(tmp_path, {"did": "9:1", "txt": None, "img_path": "fox.png", "modality": "image"})
    records, _, _ = split(read_items([path]))
    own = {"folder": str(tmp_path), "width": 6, "height": 4}
    assert records[0].payload == {"image": str(tmp_path / "fox.png")} | own


def test_a_line_of_ones_own_with_a_did_stays_what_it_is(tmp_path):
    path = pool(tmp_path, {"did": "1", "text": "mine", "txt": "other"})
    records, _, _ = split(read_items([path]))
    assert records[0].payload == {"text": "mine", "did": "1", "txt": "other"}


def test_the_count_is_what_will_be_found(tmp_path):
    image(tmp_path / "p" / "a.png")
    image(tmp_path / "p" / "deep" / "b.JPG")
    (tmp_path / "p" / "other.doc").touch()
    (tmp_path / "t.txt").write_text("one\ntwo\nthree")
    (tmp_path / "j.jsonl").write_text('{"text": "x"}\n' * 5)
    (tmp_path / "c.csv").write_text("text\na\nb\n")
    (tmp_path / "e.txt").touch()
    counts = [count_items(tmp_path / name) for name in ("p", "t.txt", "j.jsonl", "c.csv", "e.txt", "p/a.png")]
    assert counts == [2, 3, 5, 2, 0, 1]
    assert count_items([tmp_path / "p", tmp_path / "t.txt"]) == 5
    with pytest.raises(InputError, match="no such file"):
        count_items(tmp_path / "gone")


def test_a_list_that_cannot_be_read_is_a_skip_and_the_others_are_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("closed")
    (tmp_path / "b.txt").write_text("open")
    plain = open

    def closed(path, *arguments, **options):
        if str(path).endswith("a.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr("io.open", closed)  # what pathlib calls
    records, skips, _ = split(read_items([tmp_path / "a.txt", tmp_path / "b.txt"]))
    assert [record.item.text for record in records] == ["open"]
    assert skips[0].source == str(tmp_path / "a.txt")
    assert "Permission denied" in skips[0].reason
    assert count_items(tmp_path / "a.txt") == 0
