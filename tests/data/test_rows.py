"""Lines, JSON lines and CSV: every way a file may be written, and what is wrong with a row."""

import pytest

from puma.data.rows import csv_layout, csv_rows, json_rows
from puma.errors import DataError
from puma.items.skips import Skip

WANTED = ("text", "image")


def rows(path, wanted=WANTED):
    return [row for _, row in csv_rows(path, csv_layout(path, wanted))]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
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
