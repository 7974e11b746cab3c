"""An image column that holds an address or a data URI instead of a path."""

import base64
import json

import pytest

from puma.search.ingest import Record, read_items
from support.served import data_uri, png

RED = png((255, 0, 0))


def table(folder, kind, values):
    """One row a value, in a file of this kind."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"image": value, "owner": "ann"}) + "\n" for value in values))
    elif kind == "csv":
        path.write_text("image,owner\n" + "".join(f'"{value}",ann\n' for value in values))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"image": values, "owner": ["ann"] * len(values)}), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    "address", ["https://example.org/a.png", "HTTP://example.org/a", "s3://bucket/a.png", "//cdn/a"]
)
def test_an_address_is_called_one_and_shown_as_it_was_written(tmp_path, kind, address):
    (found,) = read_items([table(tmp_path, kind, [address])])
    assert f"image {address}: an address, and addresses are never fetched" in found.reason
    assert str(tmp_path) not in found.reason


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_data_uri_is_the_image_it_holds(tmp_path, kind):
    (tmp_path / "red.png").write_bytes(RED)
    by_path, by_uri = read_items([table(tmp_path, kind, ["red.png", data_uri(RED)])])
    assert isinstance(by_uri, Record)
    assert (by_uri.id, by_uri.content) == (by_path.id, by_path.content)
    assert by_uri.payload["owner"] == "ann"
    assert by_uri.payload["image"].startswith(str(tmp_path / f"rows.{kind}#"))
    (broken,) = read_items([table(tmp_path, kind, ["data:image/png;base64,@@@@"])])
    assert "not base64" in broken.reason


def test_a_file_address_is_a_path(tmp_path):
    (tmp_path / "a b.png").write_bytes(RED)
    (found,) = read_items([table(tmp_path, "jsonl", [(tmp_path / "a b.png").as_uri()])])
    assert found.payload["image"] == str(tmp_path / "a b.png")


def test_an_image_under_text_is_not_embedded_as_words(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [data_uri(RED), base64.b64encode(png(size=(30, 30))).decode(), "see data:image/png;base64,AAAA"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    first, second, third = read_items([path])
    assert "put it under image" in first.reason
    assert "put it under image" in second.reason
    assert third.item.text == rows[2]
