"""Lines, JSON lines and CSV: every way a file may be written, and what is wrong with a row."""

import pytest

from puma.data.encodings import encoding_of, text_lines
from puma.data.rows import CsvLayout, csv_layout, csv_layouts, csv_rows, json_rows
from puma.errors import DataError
from puma.items.skips import Skip

WANTED = ("text", "image")


def rows(path, wanted=WANTED):
    return [row for _, row in csv_rows(path, csv_layout(path, wanted))]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_delimiter_and_byte_order_mark_are_found(tmp_path, delimiter, encoding):
    path = tmp_path / "a.csv"
    path.write_text(
        delimiter.join(["id", "text", "image"]) + "\r\n" + delimiter.join(["1", '"é, ; | x"', "a.png"]) + "\r\n",
        encoding=encoding,
        newline="",
    )
    assert rows(path) == [{"id": "1", "text": "é, ; | x", "image": "a.png"}]


def test_the_wanted_columns_decide_where_another_delimiter_gives_more(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,c;text\n1,2,3;x\n", encoding="utf-8")
    assert rows(path) == [{"a,b,c": "1,2,3", "text": "x"}]
    assert csv_layout(path, ["b"]).delimiter == ","


def test_blank_lines_are_no_rows_and_spaces_around_names_are_cut(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n text ,image\n\n\na,b\n\n", encoding="utf-8")
    assert rows(path) == [{"text": "a", "image": "b"}]


def test_broken_csv_rows_are_named_by_line_and_the_others_kept(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"text,image\na,b\nonly one\nx,y,z\n{'q' * 200_000},b\nc,d\n", encoding="utf-8")
    found = list(csv_rows(path, csv_layout(path, WANTED)))
    assert [where.rpartition(":")[2] for where, _ in found] == ["2", "3", "4", "5", "6"]
    assert [isinstance(row, Skip) for _, row in found] == [False, True, True, True, False]
    assert found[1][1].reason == "the row does not have the header's 2 columns"
    assert "field larger than field limit" in found[3][1].reason


def test_utf16_that_breaks_off_ends_with_a_named_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text,image\na,b\n".encode("utf-16")[:-3])
    assert isinstance(rows(path)[-1], Skip)


def test_a_header_of_broken_utf16_is_a_data_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match="line 1: not CSV"):
        csv_layout(path, WANTED)


def test_every_layout_is_offered_unless_the_file_names_its_delimiter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a;b,c\n1;2,3\n", encoding="utf-8")
    assert {layout.delimiter: layout.names for layout in csv_layouts(path)} == {
        ",": ("a;b", "c"), ";": ("a", "b,c"), "\t": ("a;b,c",), "|": ("a;b,c",),
    }  # fmt: skip
    path.write_text("sep=^\na^b\n1^2\n", encoding="utf-8")
    assert csv_layouts(path) == [CsvLayout("utf-8-sig", "^", ("a", "b"), 1)]
    assert list(csv_rows(path, csv_layouts(path)[0])) == [(f"{path}:3", {"a": "1", "b": "2"})]
    path.write_text('sep="\n', encoding="utf-8")  # no delimiter: it is a header
    assert csv_layouts(path)[0].before == 0


def test_a_named_encoding_goes_before_what_the_file_looks_like(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text;image\nnaïve;a.png\n".encode("cp1252"))
    assert encoding_of(path) == "utf-8-sig"
    assert rows(path) == [{"text": "na\udcefve", "image": "a.png"}]
    layout = csv_layouts(path, "cp1252")[1]
    assert [row for _, row in csv_rows(path, layout)] == [{"text": "naïve", "image": "a.png"}]
    assert [line for _, line in text_lines(path, "cp1252")] == ["text;image", "naïve;a.png"]
    assert [row.reason for _, row in json_rows(path, None, "; save it")][1] == "not UTF-8; save it"


def test_what_ends_the_reading_of_a_file_names_it_as_source(tmp_path):
    """What was read of it before is kept by whoever keeps it in step: a single bad line is another matter."""
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntwo".encode("utf-16") + b"\0")
    assert list(text_lines(path))[-1][1].source == str(path)
    path.write_bytes(b"one\n\xff\n")
    assert list(text_lines(path))[-1][1].source is None
    path.write_bytes("text,image\na,b\n".encode("utf-16")[:-3])
    assert rows(path)[-1].source == str(path)


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n[1]\n{"a": NaN}\n\n{"a"\n\xff\n{"b": "\xe2\x80\xa8"}')
    found = [row for _, row in json_rows(path)]
    assert (found[0], found[6]) == ({"a": 1}, {"b": "\u2028"})
    reasons = [row.reason for row in found[1:6]]
    assert reasons[0] == "not a JSON object, but list"
    assert "NaN is no JSON value" in reasons[1]
    assert reasons[2] == "empty line"
    assert reasons[3].startswith("not JSON")
    assert reasons[4] == "not UTF-8"
