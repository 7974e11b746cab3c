"""Parquet in its shapes: images as paths, bytes and both; types that fit and do not; damage; memory."""

import datetime
import decimal
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from puma.errors import DataError
from puma.index.interface import encoded_payload
from puma.items import Item
from puma.items.encoder import Skip
from puma.search import Searcher
from puma.search.ingest import Record, content_digest, count_items, read_items
from support.encoders import ToyEncoder


def png(colour=(255, 0, 0)):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def split(path):
    found = list(read_items([path]))
    return [[entry for entry in found if isinstance(entry, kind)] for kind in (Record, Skip)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_images_as_bytes(tmp_path, kind):
    path = table(tmp_path / "t.parquet", image=pa.array([png(), None, b""], kind), text=["fox", "only text", None])
    records, skips = split(path)
    assert [record.item.modality for record in records] == ["image,text", "text"]
    own = {"folder": str(tmp_path), "width": 6, "height": 4}
    assert records[0].payload == {"text": "fox", "image": f"{path}#1"} | own
    assert records[0].content == content_digest(Item(text="fox", image=png()))
    assert [(skip.where, skip.reason) for skip in skips] == [(f"{path}:3", "empty: neither text nor image")]
    assert count_items(path) == 3


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_images_as_paths_relative_to_the_file(tmp_path, kind):
    (tmp_path / "fox.png").write_bytes(png())
    names = pa.array(["fox.png", "gone.png", str(tmp_path / "fox.png")], pa.string()).cast(kind)
    records, skips = split(table(tmp_path / "t.parquet", image=names, id=["a", "b", "c"]))
    assert [(record.id, record.payload["image"]) for record in records] == [
        ("a", str(tmp_path / "fox.png")), ("c", str(tmp_path / "fox.png")),
    ]  # fmt: skip
    assert (len(skips), skips[0].id) == (1, "b")


def test_images_as_the_datasets_library_writes_them(tmp_path):
    (tmp_path / "b.png").write_bytes(png((0, 255, 0)))
    rows = [
        {"bytes": png(), "path": "deep/a.png"},
        {"bytes": None, "path": "b.png"},
        {"bytes": png(), "path": None},
        {"bytes": None, "path": None},
        None,
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = table(tmp_path / "t.parquet", image=pa.array(rows, kind))
    records, skips = split(path)
    assert [record.payload["image"] for record in records] == [f"{path}#a.png", str(tmp_path / "b.png"), f"{path}#3"]
    assert [skip.where[-2:] for skip in skips] == [":4", ":5"]


def test_other_columns_are_payload_as_json_can_hold_it(tmp_path):
    day = datetime.datetime(2020, 1, 2, 3, 4, 5)
    path = table(
        tmp_path / "t.parquet",
        text=["a", "b"],
        year=[2020, None],
        price=[1.5, float("nan")],
        sold=[True, None],
        cost=pa.array([decimal.Decimal("2.50"), None]),
        day=[day, None],
        tags=[["x", None], None],
        place=[{"city": "Ulm", "at": day.date()}, None],
        thumb=[b"\xff", b"\x00"],
        inner=[{"raw": b"\xff"}, None],
    )
    records, _ = split(path)
    assert records[0].payload == {
        "text": "a", "year": 2020, "price": 1.5, "sold": True, "cost": 2.5, "day": "2020-01-02T03:04:05",
        "tags": ["x", None], "place": {"city": "Ulm", "at": "2020-01-02"},
    }  # fmt: skip
    assert records[1].payload == {"text": "b"}
    encoded_payload(records[0].payload, "x")


def test_whole_number_ids_and_texts_that_are_no_texts(tmp_path):
    records, _ = split(table(tmp_path / "t.parquet", text=["a", "b"], id=[7, None]))
    assert [record.id for record in records] == ["7", records[1].content]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"legend": ["a"]}, r"a column named text or image .*--text-column.* is needed, the file has \['legend'\]"),
        ({"text": [1]}, "column text must hold strings, its type is int64"),
        ({"image": [1.5]}, r"column image must hold paths, bytes, \{bytes, path\} or lists"),
        ({"image": [{"data": b"x"}]}, "column image must hold"),
    ],
)
def test_a_table_of_other_things_is_refused_before_anything_is_read(tmp_path, columns, message):
    path = table(tmp_path / "t.parquet", **columns)
    with pytest.raises(DataError, match=message):
        read_items([path])


def test_what_is_no_parquet_is_refused(tmp_path):
    for data in (b"", b"PAR1", b"no" * 100):
        (tmp_path / "t.parquet").write_bytes(data)
        with pytest.raises(DataError, match=r"t\.parquet: not a Parquet file"):
            read_items([tmp_path / "t.parquet"])


def test_a_file_damaged_in_the_middle_gives_what_is_before_and_keeps_the_rest(tmp_path):
    texts = [f"number {n} " + "x" * 500 for n in range(2000)]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=500, compression="gzip", use_dictionary=False)
    searcher = Searcher(ToyEncoder(), tmp_path / "index")
    searcher.add_paths([path], progress=False)
    assert len(searcher.index) == 2000
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xaa" * 400
    path.write_bytes(bytes(data))
    added = searcher.add_paths([path], progress=False, sync=True)
    assert 0 < added.present < 2000
    assert (added.present + added.kept, added.deleted, len(searcher.index)) == (2000, 0, 2000)
    assert "nothing can be read after row" in added.skips[-1].reason


def test_tables_are_indexed_with_thumbnails_and_synced(tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "index")
    path = table(tmp_path / "t.parquet", image=[png(), png((0, 0, 255))], id=["r", "b"], shelf=[1, 2])
    searcher.add_paths([path], progress=False)
    hit = searcher.search("blue", 1, where={"type": "gt", "key": "shelf", "value": 1})[0]
    assert (hit.id, searcher.index.thumbnail("b")[:3]) == ("b", b"\xff\xd8\xff")
    table(path, image=[png()], id=["r"], shelf=[1])
    assert searcher.add_paths([path], progress=False, sync=True).deleted == 1


def test_a_large_table_is_never_held_whole(tmp_path):
    """240 MB of images in row groups of 10 MB: memory grows by a few groups, not by the file."""
    path = tmp_path / "t.parquet"
    noise = np.random.default_rng(0)
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for _ in range(24):
            writer.write_table(pa.table({"image": [noise.bytes(10**6) for _ in range(10)]}, schema=schema))
    code = """
import json, sys
from puma.search.ingest import Record, read_items

def most():  # not ru_maxrss, which a program inherits from the one that starts it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

count = sum(isinstance(entry, Record) for entry in read_items([sys.argv[2]]))
before = most()
count += sum(isinstance(entry, Record) for entry in read_items([sys.argv[1]]))
print(json.dumps([count, most() - before]))
"""
    small = table(tmp_path / "small.parquet", image=[png()])
    done = subprocess.run([sys.executable, "-c", code, path, small], capture_output=True, text=True, check=True)
    count, kilobytes = json.loads(done.stdout)
    assert count == 241
    assert kilobytes < 170_000, "the file is held, not a part of it"
