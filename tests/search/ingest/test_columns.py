"""Tables as people have them: other names, delimiters and encodings, several images in a row; nothing is dropped
untold."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from puma.data import encodings
from puma.errors import DataError, InputError
from puma.items.encoder import Skip
from puma.search import Searcher
from puma.search.ingest import Note, ReadOptions, Record, read_items
from puma.search.ingest.options import NOT_UTF8
from support.encoders import ToyEncoder


def png(colour=(255, 0, 0)):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    for n in range(3):
        (tmp_path / f"p{n}.png").write_bytes(png((9 * n, 0, 0)))
    return tmp_path


def split(path, **options):
    found = list(read_items([path], ReadOptions(**options)))
    return [[entry for entry in found if isinstance(entry, kind)] for kind in (Record, Skip, Note)]


def shapes(records):
    """Text and the image's base name of each."""
    return [(record.item.text, str(record.payload.get("image", "")).rsplit("/", 1)[-1]) for record in records]


@pytest.mark.parametrize(
    "row",
    [
        {"file_name": "p0.png", "text": "a fox"},
        {"image": "p0.png", "caption": "a fox"},
        {"Image Path": "p0.png", "Text": "a fox"},
        {"img": "p0.png", "TXT": "a fox"},
        {"image": {"bytes": None, "path": "p0.png"}, "text": "a fox"},
        {"images": ["p0.png"], "description": "a fox"},
        {"images": [{"path": "p0.png"}], "text": "a fox"},
    ],
)
def test_other_names_of_the_columns_are_known(folder, row):
    (folder / "t.jsonl").write_text(json.dumps(row | {"label": "x"}))
    records, skips, notes = split(folder / "t.jsonl")
    assert (shapes(records), skips, notes) == ([("a fox", "p0.png")], [], [])
    own = {"folder": str(folder), "width": 6, "height": 4}
    assert records[0].payload == {"text": "a fox", "image": str(folder / "p0.png"), "label": "x"} | own


def test_exact_names_go_first_and_named_columns_before_all(folder):
    (folder / "t.csv").write_text("caption,text,file,Title\none,two,p0.png,three\n")
    assert shapes(split(folder / "t.csv")[0]) == [("two", "p0.png")]
    assert shapes(split(folder / "t.csv", text_column="title")[0]) == [("three", "p0.png")]
    assert shapes(split(folder / "t.csv", image_column="-")[0]) == [("two", "")]
    assert shapes(split(folder / "t.csv", text_column="-")[0]) == [(None, "p0.png")]
    with pytest.raises(DataError, match="a column named 'none' is needed"):
        split(folder / "t.csv", text_column="none", image_column="-")
    for bad in (
        {"text_column": ""},
        {"text_column": "a", "image_column": "a"},
        {"encoding": "klingon"},
        {"exclude": "x"},
    ):
        with pytest.raises(InputError):
            ReadOptions(**bad)


def test_a_path_under_another_name_that_ends_like_no_image_stays_a_field(folder):
    (folder / "t.jsonl").write_text(
        '{"text": "a", "path": "/etc/notes.md"}\n{"text": "b", "file": "https://x.org/p0.png"}'
    )
    records, skips, notes = split(folder / "t.jsonl")
    assert [record.payload.get("path") or record.payload.get("file") for record in records] == [
        "/etc/notes.md",
        "https://x.org/p0.png",
    ]
    assert not skips
    assert ["'file' looks like an image and is not used" in note.message for note in notes] == [True]


@pytest.mark.parametrize("address", ["https://x.org/p0.png", "s3://b/p0.png"])
def test_an_address_is_no_missing_file(folder, address):
    (folder / "t.jsonl").write_text(json.dumps({"image": address}))
    _, (skip,), _ = split(folder / "t.jsonl")
    assert "never fetched" in skip.reason
    assert address[:12] in skip.reason


def test_a_row_with_several_images_gives_an_item_for_each(folder):
    (folder / "t.jsonl").write_text('{"images": ["p0.png", "p1.png"], "text": "a", "id": "x", "n": 1}')
    records, _, _ = split(folder / "t.jsonl")
    assert [(record.id, record.payload["n"]) for record in records] == [("x", 1), ("x#2", 1)]
    assert shapes(records) == [("a", "p0.png"), ("a", "p1.png")]


@pytest.mark.parametrize("kind", ["structs", "bytes", "paths"])
def test_a_parquet_column_of_lists_of_images(folder, kind):
    images = [png((1, 2, 3)), png((4, 5, 6))]
    values = {
        "structs": [{"bytes": data, "path": None} for data in images],
        "bytes": images,
        "paths": ["p0.png", "p1.png"],
    }[kind]
    path = folder / "t.parquet"
    pq.write_table(
        pa.table({"images": [values, values[:1], []], "text": ["two", "one", "none"], "id": [7, 8, 9]}), path
    )
    records, skips, notes = split(path)
    assert (skips, notes) == ([], [])
    assert [(record.id, record.item.modality) for record in records] == [
        ("7", "image,text"), ("7#2", "image,text"), ("8", "image,text"), ("9", "text"),
    ]  # fmt: skip
    if kind != "paths":
        assert shapes(records)[:2] == [("two", "t.parquet#1"), ("two", "t.parquet#1.2")]


def test_image_columns_that_are_not_used_are_told_once(folder):
    path = folder / "t.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "scan": [png(), png()], "thumb": ["p0.png", "p1.png"]}), path)
    records, skips, notes = split(path)
    assert (len(records), skips) == (2, [])
    assert sorted(note.message.split()[0] for note in notes) == ["'scan'", "'thumb'"]
    assert [record.item.modality for record in split(path, image_column="scan")[0]] == ["image,text"] * 2
    added = Searcher(ToyEncoder(), folder / "index").add_paths([path], progress=False)
    assert any("'scan' looks like an image" in note for note in added.notes)
    assert added.as_dict()["notes"] == added.notes


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_delimiters_and_encodings_of_tables(folder, delimiter, encoding):
    rows = [["text", "file_name", "price"], ["Füchse, zwei", "p0.png", "7"], ["red; blue|green", "", "8"]]
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    (folder / "t.csv").write_bytes(text.encode(encoding))
    given = {"encoding": encoding} if encoding == "cp1252" else {}
    records, skips, _ = split(folder / "t.csv", **given)
    assert (shapes(records), skips) == ([("Füchse, zwei", "p0.png"), ("red; blue|green", "")], [])
    assert [record.payload["price"] for record in records] == [7, 8]


def test_the_header_is_the_first_row_that_is_not_blank_and_its_names_are_without_spaces(folder):
    (folder / "t.csv").write_text("\n\ntext ; n\na fox;1\n")
    records, skips, _ = split(folder / "t.csv")
    assert ([(record.payload, record.where[-2:]) for record in records], skips) == (
        [({"text": "a fox", "n": 1}, ":4")],
        [],
    )


def test_a_spreadsheets_own_line_names_the_delimiter(folder):
    (folder / "t.csv").write_text("sep=;\ntext;n\na fox, red;1\n")
    records, skips, _ = split(folder / "t.csv")
    assert ([(record.item.text, record.where[-2:]) for record in records], skips) == ([("a fox, red", ":3")], [])


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "utf-8"])
def test_lines_in_other_encodings(folder, suffix, encoding):
    lines = ["über a fox", "zwei\u2028drei" if encoding != "cp1252" else "zwei"]
    text = "\r\n".join(json.dumps({"text": line}, ensure_ascii=False) if suffix == ".jsonl" else line for line in lines)
    path = folder / f"t{suffix}"
    path.write_bytes(text.encode(encoding))
    if encoding == "cp1252":
        records, (skip,), _ = split(path)
        assert (len(records), skip.reason) == (1, NOT_UTF8)
    given = {"encoding": encoding} if encoding == "cp1252" else {}
    records, skips, _ = split(path, **given)
    assert ([record.item.text for record in records], skips) == (lines, [])


def test_bytes_that_are_no_text_give_no_items_of_nul(folder):
    (folder / "t.txt").write_bytes(b"fine\nbad\0one\n")
    records, (skip,), _ = split(folder / "t.txt")
    assert [record.item.text for record in records] == ["fine"]
    assert "NUL" in skip.reason


def test_what_is_cut_in_the_middle_of_a_character_is_told(folder):
    (folder / "t.txt").write_bytes("one\ntwo".encode("utf-16") + b"\0")
    records, skips, _ = split(folder / "t.txt")
    assert len(records) <= 2
    assert "as utf-16" in skips[-1].reason


def test_a_long_line_in_utf16_is_skipped_and_the_next_is_read(folder, monkeypatch):
    monkeypatch.setattr(encodings, "MAX_LINE", 10)
    for long in ("x" * 25, "x" * 10, "x" * 29):
        (folder / "t.txt").write_bytes(f"short\n{long}\nlast\nend".encode("utf-16"))
        records, skips, _ = split(folder / "t.txt")
        assert [(record.item.text, record.where[-2:]) for record in records] == [
            ("short", ":1"),
            ("last", ":3"),
            ("end", ":4"),
        ]
        assert [skip.where[-2:] for skip in skips] == [":2"]
