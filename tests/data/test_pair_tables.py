"""Tables of pairs: every layout and form of a column gives the same rows, and what is wrong is named."""

import base64
import io
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from puma.data.pair_columns import choose_columns, parse_columns
from puma.data.pair_tables import PairTable, is_pair_table
from puma.errors import DataError, InputError


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


RED, BLUE = png("red"), png("blue")
FIELDS = ("query_text", "query_image", "positive_text", "positive_image", "instruction")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(RED)
    (tmp_path / "images" / "blue.png").write_bytes(BLUE)
    return tmp_path


class Kept:
    """Keeps embedded images in a folder, and counts them."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def __call__(self, data):
        self.count += 1
        path = self.folder / f"kept-{self.count}"
        path.write_bytes(data)
        return path


def read(path, columns=None):
    """(rows, reasons of what was left out): an item is (text, image's bytes or None)."""
    table, skips = PairTable(path, columns), []

    def plain(item):
        return item.text, item.image.read_bytes() if item.image else None

    rows = [
        (plain(row.query), plain(row.positive), row.instruction, [plain(item) for item in row.negatives])
        for row in table.rows(skips, Kept(table.base))
    ]
    return rows, [str(skip).removeprefix(str(path)) for skip in skips]


PLAIN = [
    {"query_text": "a red square", "positive_image": "images/red.png"},
    {"query_text": "a blue square", "positive_image": "images/blue.png"},
]
WANTED = [(("a red square", None), (None, RED), None, []), (("a blue square", None), (None, BLUE), None, [])]


def write(folder, rows, kind):
    """The same rows in one of the layouts."""
    path = folder / f"pairs.{kind}"
    if kind in ("csv", "tsv"):
        names = list(rows[0])
        sign = "," if kind == "csv" else "\t"
        path.write_text("\n".join(sign.join(row) for row in [names, *(row.values() for row in rows)]) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(path)
        for name in ("images",):
            (path / name).symlink_to(folder / name)
    elif kind == "splits":
        one = datasets.Dataset.from_list(rows)
        datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(path)
        (path / "images").symlink_to(folder / "images")
    return path


LAYOUTS = ("csv", "tsv", "jsonl", "parquet", "saved", "splits")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_gives_the_same_rows(folder, kind):
    path = write(folder, PLAIN, kind)
    assert is_pair_table(path)
    assert read(path) == (WANTED, [])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_column_map_renames(folder, kind):
    renamed = [{"caption": row["query_text"], "path": row["positive_image"]} for row in PLAIN]
    path = write(folder, renamed, kind)
    assert read(path, parse_columns("query_text=caption,positive_image=path")) == (WANTED, [])
    with pytest.raises(DataError, match=r"--columns names 'capton', and the file has \['caption', 'path'\]"):
        PairTable(path, {"query_text": "capton", "positive_image": "path"})
    with pytest.raises(DataError, match=r"no column query_text or query_image; the file has .*--columns query_text="):
        PairTable(path)
    with pytest.raises(DataError, match="here the positive is missing"):
        PairTable(path, {"query_text": "caption"})


EMBEDDED = [
    {"query_text": "a red square", "positive_image": {"bytes": RED, "path": "red.png"}},
    {"query_text": "a blue square", "positive_image": {"bytes": None, "path": "images/blue.png"}},
]


def test_images_inside_parquet_as_bytes_and_as_structs(folder):
    assert read(write(folder, EMBEDDED, "parquet")) == (WANTED, [])
    bare = [{**row, "positive_image": data} for row, data in zip(PLAIN, (RED, BLUE), strict=True)]
    assert read(write(folder, bare, "parquet")) == (WANTED, [])


def test_images_of_a_saved_data_set(folder):
    rows = {"query_text": ["a red square", "a blue square"], "positive_image": [str(folder / "images" / "red.png")] * 2}
    one = datasets.Dataset.from_dict(rows).cast_column("positive_image", datasets.Image())
    one = one.map(lambda row: {"size": row["positive_image"].size[0]})  # decodes, and writes the bytes
    one.save_to_disk(folder / "saved")
    found, skips = read(folder / "saved")
    assert [row[1][1] is not None for row in found] == [True, True]
    assert skips == []


def test_images_inside_json_and_csv(folder):
    text = base64.b64encode(RED).decode()
    path = folder / "pairs.jsonl"
    path.write_text(
        json.dumps({"query_text": "a red square", "positive_image": {"bytes": text, "path": "x.png"}})
        + "\n"
        + json.dumps({"query_text": "a blue square", "positive_image": {"bytes": None, "path": "images/blue.png"}})
    )
    assert read(path) == (WANTED, [])
    table = folder / "pairs.csv"
    table.write_text(f'query_text,positive_image\na red square,"data:image/png;base64,{text}"\n')
    assert read(table) == (WANTED[:1], [])


def test_all_columns_at_once(folder):
    row = dict(zip(FIELDS, ("a", "images/red.png", "b", "images/blue.png", " find\nit "), strict=True))
    row |= {"negative_text": "c", "negative_image": "images/red.png", "negative_text_2": "d", "negative_image9": ""}
    path = folder / "pairs.jsonl"
    path.write_text(json.dumps(row))
    expected = (("a", RED), ("b", BLUE), "find it", [("c", RED), ("d", None)])
    assert read(path) == ([expected], [])


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_lists_of_negatives(folder, kind):
    rows = [{**PLAIN[0], "negative_text": ["c", "d"]}, {**PLAIN[1], "negative_text": []}]
    found, skips = read(write(folder, rows, kind))
    assert ([row[3] for row in found], skips) == ([[("c", None), ("d", None)], []], [])


def test_broken_rows_are_named_and_the_others_kept(folder):
    lines = [
        PLAIN[0],
        {"query_text": 5, "positive_text": "x"},
        {"query_text": "", "positive_text": "x"},
        {"query_text": "q"},
        {"query_text": "q", "positive_image": "https://example.org/a.png"},
        {"query_text": "q", "positive_image": ["a.png"]},
        {"query_text": "q", "positive_image": {"url": "a"}},
        {"query_text": "q", "positive_image": {"bytes": "%%", "path": None}},
        {"query_text": "q", "positive_image": "a\0b"},
        {"query_text": "q", "positive_text": "x", "negative_text": ["a", "b"], "negative_image": ["c"]},
        {"query_text": "\ud800", "positive_text": "x"},
        PLAIN[1],
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\nnot json\n")
    rows, reasons = read(path)
    assert rows == WANTED
    assert [reason.partition(": ")[0] for reason in reasons] == [f":{n}" for n in (*range(2, 12), 14)]
    for reason, said in zip(
        reasons,
        (
            "query_text must be a string, got int: 5",
            "no query: neither text nor image",
            "no positive",
            "addresses are never fetched",
            "must be a path, bytes or {bytes, path}, got list",
            "has the keys ['url']",
            "not base64",
            "NUL",
            "negative_text holds 2 entries and negative_image 1",
            "not valid Unicode",
            "not JSON",
        ),
        strict=True,
    ):
        assert said in reason


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_of_text_tables_are_found(folder, kind, encoding):
    rows = [{**row, "query_text": f"ü\u2028 {row['query_text']}"} for row in PLAIN]
    if kind == "ndjson":
        path = write(folder, rows, "jsonl").rename(folder / "pairs.ndjson")
    else:
        path = write(folder, rows, kind)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert is_pair_table(path)
    found, reasons = read(path)
    assert ([row[0][0] for row in found], reasons) == ([row["query_text"] for row in rows], [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_spreadsheets_own_line_names_the_delimiter(folder, encoding):
    text = "SEP=|\r\nquery_text|positive_text\r\na;b,c|d\r\nonly one\r\n"
    (folder / "a.csv").write_bytes(text.encode(encoding))
    rows, reasons = read(folder / "a.csv")
    assert [(row[0][0], row[1][0]) for row in rows] == [("a;b,c", "d")]
    assert reasons == [":4: the row does not have the header's 2 columns"]
    (folder / "b.csv").write_bytes("sep=,\nquestion,answer\na,b\n".encode(encoding))
    with pytest.raises(DataError, match="line 2: no column query_text"):
        PairTable(folder / "b.csv")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_that_breaks_off_in_utf16_gives_what_came_before(folder, kind):
    rows = [{"query_text": f"q{n}", "positive_text": "x" * 50} for n in range(500)]
    path = write(folder, rows, kind)
    path.write_bytes(path.read_text().encode("utf-16")[:-41])
    found, reasons = read(path)
    assert 300 < len(found) < 500
    assert [row[0][0] for row in found] == [f"q{n}" for n in range(len(found))]
    assert len(reasons) == 1
    assert "nothing can be read from here as utf-16" in reasons[0]
    assert reasons[0].endswith("; save the file as UTF-8")


def test_a_csv_that_is_not_utf8_loses_those_rows_alone(folder):
    path = folder / "pairs.csv"
    path.write_bytes(b"query_text,positive_text\nna\xefve,x\na,b\n")
    rows, reasons = read(path)
    assert [row[0][0] for row in rows] == ["a"]
    assert "query_text is not valid Unicode; save the file as UTF-8" in reasons[0]


def test_columns_of_wrong_types_are_refused_before_a_row_is_read(folder):
    path = write(folder, [{"query_text": 1, "positive_text": "x"}], "parquet")
    with pytest.raises(DataError, match="column query_text must hold strings to be query_text, its type is int64"):
        PairTable(path)
    path = write(folder, [{"query_text": "a", "positive_image": [1]}], "saved")
    with pytest.raises(DataError, match=r"must hold paths, bytes or \{bytes, path\}"):
        PairTable(path)


def test_files_that_are_no_tables(folder):
    with pytest.raises(InputError, match="no such file or folder"):
        PairTable(folder / "nowhere.csv")
    (folder / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"known are \.csv, \.tsv, \.jsonl, \.ndjson, \.parquet"):
        PairTable(folder / "a.xlsx")
    (folder / "mbeir" / "query").mkdir(parents=True)
    with pytest.raises(InputError, match="is a benchmark folder already"):
        PairTable(folder / "mbeir")
    (folder / "a.csv").write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty, or its first line is not a header"):
        PairTable(folder / "a.csv")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        (folder / name).write_bytes(b"")
        with pytest.raises(DataError, match=r"a\.(csv|jsonl|parquet)"):
            PairTable(folder / name)
    with pytest.raises(InputError, match=r"a folder without dataset_info.json"):
        PairTable(folder / "images")
    assert not is_pair_table(folder / "images")
    assert not is_pair_table(folder / "nowhere")


def test_saved_data_sets_that_are_damaged(folder):
    path = write(folder, PLAIN, "splits")
    (path / "dataset_dict.json").write_text('{"splits": ["a", "b"]}')
    with pytest.raises(InputError, match=r"has the splits \['a', 'b'\] and none named train; give one's folder"):
        PairTable(path)
    (path / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="names no splits"):
        PairTable(path)
    whole = write(folder, PLAIN, "saved")
    next(whole.glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(DataError, match="not an Arrow stream file"):
        PairTable(whole)
    next(whole.glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="is missing; save it anew"):
        PairTable(whole)
    (whole / "state.json").write_text("[]")
    with pytest.raises(DataError, match="names no data files"):
        PairTable(whole)


def test_a_parquet_file_that_breaks_off_gives_what_came_before(folder):
    rows = [{"query_text": f"q{n}", "positive_text": "x" * 50} for n in range(2000)]
    path = folder / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=500, compression="none", use_dictionary=False)
    with pq.ParquetFile(path) as file:
        middle = file.metadata.row_group(2).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[middle : middle + 40] = b"\xff" * 40
    path.write_bytes(data)
    found, reasons = read(path)
    assert [row[0][0] for row in found] == [f"q{n}" for n in range(len(found))]
    assert 500 <= len(found) <= 1000
    assert len(reasons) == 1
    assert "nothing can be read after row" in reasons[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("query_text", "'query_text' must be field=column"),
        ("query_text=", "must be field=column"),
        ("quary_text=a", "there is no field 'quary_text'; there are query_text"),
        ("query_text=a,query_text=b", "query_text is given twice"),
        ("", "must be field=column"),
    ],
)
def test_column_maps_that_cannot_be_read(text, said):
    with pytest.raises(InputError, match="--columns") as error:
        parse_columns(text)
    assert said in str(error.value)


def test_a_given_column_goes_before_one_of_the_fields_own_name():
    names = ["query_text", "caption", "positive_text", "negative_image_b"]
    columns = choose_columns(names, {"query_text": "caption"}, "f")
    assert columns.sources == {
        "query_text": "caption",
        "positive_text": "positive_text",
        "negative_image_b": "negative_image_b",
    }
    assert columns.negatives == [(None, "negative_image_b")]
    # what is given away to another field no longer is its own
    moved = choose_columns(["query_text", "positive_text"], {"query_image": "query_text"}, "f")
    assert moved.sources == {"positive_text": "positive_text", "query_image": "query_text"}
    with pytest.raises(DataError, match="several columns are named 'query_text'"):
        choose_columns(["query_text", "query_text", "positive_text"], {}, "f")
