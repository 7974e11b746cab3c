"""MMEB's files as published: parquet shards, JSONL, the V2 columns; its lists of subsets; every fault with its row."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puma.data.mmeb import (
    META_TASKS,
    OUT_OF_DISTRIBUTION,
    SUBSETS,
    Row,
    Side,
    find_subsets,
    image_folder,
    read_subset,
)
from puma.errors import DataError, InputError

ROWS = [
    {
        "qry_text": "<|image_1|>\nRepresent the given image with the following question: What is it?\n",
        "qry_img_path": "OK-VQA/Test/1.jpg",
        "tgt_text": ["a fox", "a cat", "a fox"],
        "tgt_img_path": ["", "", ""],
    },
    {
        "qry_text": "Find me an everyday image that matches the given caption: a cat.",
        "qry_img_path": "",
        "tgt_text": ["<|image_1|>\nRepresent the given image.", ""],
        "tgt_img_path": ["MSCOCO/1.jpg", "MSCOCO/2.jpg"],
    },
]
READ = [
    Row(
        Side("Represent the given image with the following question: What is it?", "OK-VQA/Test/1.jpg"),
        (Side("a fox", None), Side("a cat", None)),
    ),
    Row(
        Side("Find me an everyday image that matches the given caption: a cat.", None),
        (Side("Represent the given image.", "MSCOCO/1.jpg"), Side(None, "MSCOCO/2.jpg")),
    ),
]


def as_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("name", ["OK-VQA/test-00000-of-00001.parquet", "OK-VQA/test.parquet", "OK-VQA.parquet"])
def test_parquet(tmp_path, name):
    as_parquet(tmp_path / name, ROWS)
    assert read_subset(tmp_path, "OK-VQA") == READ
    assert find_subsets(tmp_path) == ["OK-VQA"]


@pytest.mark.parametrize("name", ["OK-VQA/test.jsonl", "OK-VQA.jsonl"])
def test_jsonl(tmp_path, name):
    as_jsonl(tmp_path / name, ROWS)
    assert read_subset(tmp_path, "OK-VQA") == READ


def test_shards_are_read_in_order_and_other_splits_are_not(tmp_path):
    as_parquet(tmp_path / "OK-VQA/test-00001-of-00002.parquet", ROWS[1:])
    as_parquet(tmp_path / "OK-VQA/test-00000-of-00002.parquet", ROWS[:1])
    as_parquet(tmp_path / "OK-VQA/train-00000-of-00001.parquet", ROWS)
    assert read_subset(tmp_path, "OK-VQA") == READ


def test_the_columns_of_the_instruction_edition(tmp_path):
    row = {
        "qry_inst": "<|image_1|> Crop the image to isolate the object labeled as",
        "qry_text": '"cat"',
        "qry_img_path": "MSCOCO/1.jpg",
        "tgt_inst": "<|image_1|>\nRepresent the given cropped image of the object",
        "tgt_text": [" "],
        "tgt_img_path": ["MSCOCO/2.jpg"],
    }
    as_jsonl(tmp_path / "MSCOCO/test.jsonl", [row])
    (found,) = read_subset(tmp_path, "MSCOCO")
    assert found.query == Side('"cat"', "MSCOCO/1.jpg", "Crop the image to isolate the object labeled as")
    assert found.candidates == (Side("Represent the given cropped image of the object", "MSCOCO/2.jpg"),)
    as_jsonl(tmp_path / "GQA/test.jsonl", [{"qry_text": "what?", "tgt_text": ["a"], "tgt_img_path": None}])
    assert read_subset(tmp_path, "GQA") == [Row(Side("what?", None), (Side("a", None),))]


def test_the_published_lists():
    assert {group: len(names) for group, names in META_TASKS.items()} == {
        "classification": 10,
        "vqa": 10,
        "retrieval": 12,
        "grounding": 4,
    }
    assert len(SUBSETS) == len(set(SUBSETS)) == 36
    assert len(OUT_OF_DISTRIBUTION) == 16
    assert set(SUBSETS) > OUT_OF_DISTRIBUTION


def test_every_fault_is_named_with_its_row(tmp_path):
    good = ROWS[0]
    bad = [
        good | {"tgt_img_path": [""]},
        good | {"tgt_text": [], "tgt_img_path": []},
        good | {"tgt_text": "a fox"},
        good | {"qry_text": 3},
        good | {"qry_text": "<|image_1|>", "qry_img_path": ""},
        good | {"qry_img_path": "../secret.png"},
        good | {"tgt_img_path": ["", "/etc/x.png", ""]},
        good | {"tgt_text": ["a", "", "b"]},
        {"qry_text": "no candidates"},
        good,
    ]
    path = tmp_path / "OK-VQA/test.jsonl"
    as_jsonl(path, bad)
    with open(path, "a") as stream:
        stream.write("{\n[1]\n\n")
    with pytest.raises(DataError) as caught:
        read_subset(tmp_path, "OK-VQA")
    message = str(caught.value)
    for number, words in enumerate(
        [
            "tgt_text has 3 entries and tgt_img_path 1",
            "tgt_text is empty",
            "tgt_text must be a list of strings, got 'a fox'",
            "qry_text must be a string, got 3",
            "qry_text and qry_img_path are both empty",
            "qry_img_path must stay under the images' folder, got '../secret.png'",
            "tgt_img_path must stay under the images' folder, got '/etc/x.png'",
            "tgt_text and tgt_img_path are both empty",
            "lacks tgt_text; it has qry_text",
            None,
            "is not JSON",
            "must be a JSON object, got [1]",
        ],
        1,
    ):
        assert (f"row {number}: {words}" in message) if words else (f"row {number}: " not in message)
    assert str(path) in message


def test_many_faults_are_counted_and_some_shown(tmp_path):
    as_jsonl(tmp_path / "OK-VQA/test.jsonl", [{}] * 30)
    with pytest.raises(DataError, match=r"30 faults(.|\n)*row 20: (.|\n)*and 10 more") as caught:
        read_subset(tmp_path, "OK-VQA")
    assert "row 21" not in str(caught.value)


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_subsets(tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of MMEB's subsets is here"):
        find_subsets(tmp_path)
    with pytest.raises(DataError, match="no rows of GQA"):
        read_subset(tmp_path, "GQA")
    with pytest.raises(InputError, match="must be the name of a folder"):
        read_subset(tmp_path, "../GQA")
    (tmp_path / "GQA").mkdir()
    (tmp_path / "GQA/test.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        read_subset(tmp_path, "GQA")
    (tmp_path / "GQA/test-00000-of-00001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_subset(tmp_path, "GQA")


def test_where_the_images_are(tmp_path):
    assert image_folder(tmp_path) == tmp_path
    for name in ("image-tasks", "images", "eval_images"):
        (tmp_path / name).mkdir()
        assert image_folder(tmp_path) == tmp_path / name
