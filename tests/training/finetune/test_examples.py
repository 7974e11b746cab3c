"""Rows as examples: equal content is one key, repeated rows are one example, what cannot be read is listed."""

import json

import pytest
from PIL import Image

from puma.data.pair_tables import PairTable
from puma.errors import DataError
from puma.training.finetune.examples import read_examples


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("red", "red"), ("twin", "red"), ("blue", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def examples(folder, rows, **options):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(PairTable(path), folder / "kept", **options)


def test_equal_content_is_one_example(folder):
    found = examples(
        folder,
        [
            {"query_text": "a red square", "positive_image": "red.png"},
            {"query_text": " a  red square", "positive_image": "twin.png"},
            {"query_text": "a red square", "positive_image": "blue.png"},
            {"query_text": "a red square", "positive_image": "red.png", "instruction": "Find it."},
        ],
    )
    assert (len(found.rows), found.repeated, found.skips) == (3, 1, [])
    first, other, asked = found.rows
    assert first.query_key == other.query_key == asked.query_key
    assert first.positive.image == asked.positive.image == folder / "red.png"
    assert first.query_id == other.query_id != asked.query_id
    assert found.known == {first.query_key: {first.positive_key, other.positive_key}}
    assert (first.task, first.modalities) == (0, ("text", "image"))


def test_the_fingerprint_follows_content(folder):
    rows = [{"query_text": "a", "positive_image": "red.png"}]
    first = examples(folder, rows).fingerprint
    assert examples(folder, [{**rows[0], "positive_image": "twin.png"}]).fingerprint == first
    assert examples(folder, [{**rows[0], "positive_image": "blue.png"}]).fingerprint != first
    assert examples(folder, [{**rows[0], "negative_text": "b"}]).fingerprint != first
    assert examples(folder, [{**rows[0], "instruction": "b"}]).fingerprint != first


def test_missing_images_are_left_out_and_listed(folder):
    found = examples(
        folder,
        [
            {"query_text": "a", "positive_image": "nowhere.png"},
            {"query_text": "b", "positive_image": "red.png", "negative_image": ["blue.png", "gone.png"]},
            {"query_text": "c", "positive_image": "."},
        ],
    )
    assert [row.query.text for row in found.rows] == ["b"]
    assert [item.image for _, item in found.rows[0].negatives] == [folder / "blue.png"]
    reasons = [str(skip).partition(": ")[2] for skip in found.skips]
    assert reasons == [
        f"{folder}/nowhere.png: no such file",
        f"a negative is left out: {folder}/gone.png: no such file",
        f"{folder}: is a folder, not an image",
    ]


def test_strict_refuses_and_an_empty_table_too(folder):
    good, bad = {"query_text": "a", "positive_text": "b"}, {"query_text": "a"}
    with pytest.raises(DataError, match=r"1 rows were left out:\n.*:2: it has no positive"):
        examples(folder, [good, bad], strict=True)
    with pytest.raises(DataError, match="it has no positive"):
        examples(folder, [{**bad, "positive_text": ""}])
    (folder / "a.csv").write_text("query_text,positive_text\n")
    with pytest.raises(DataError, match="holds no row of data"):
        read_examples(PairTable(folder / "a.csv"), folder / "kept")


def test_embedded_images_are_kept_once(folder):
    import base64

    data = base64.b64encode((folder / "red.png").read_bytes()).decode()
    rows = [{"query_text": str(n), "positive_image": {"bytes": data, "path": None}} for n in range(3)]
    found = examples(folder, [*rows, {"query_text": "file", "positive_image": "red.png"}])
    assert len(list((folder / "kept").iterdir())) == 1
    assert len({row.positive_key for row in found.rows}) == 1
    assert found.rows[0].positive.image.read_bytes() == (folder / "red.png").read_bytes()
