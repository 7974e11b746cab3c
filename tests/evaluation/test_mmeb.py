"""hit@1 on files in MMEB's format against a slow count; ties, doubles, unreadable images, instructions, groups."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from puma.errors import DataError, InputError
from puma.evaluation.mmeb import evaluate
from puma.evaluation.stored.resumable import made_with, opened_store
from support.encoders import ToyEncoder

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def write(root, subset, rows):
    (root / subset).mkdir()
    pq.write_table(pa.Table.from_pylist(rows), root / subset / "test-00000-of-00001.parquet")


def row(qry_text, qry_img_path, tgt_text, tgt_img_path=None):
    return {
        "qry_text": qry_text,
        "qry_img_path": qry_img_path,
        "tgt_text": tgt_text,
        "tgt_img_path": tgt_img_path or [""] * len(tgt_text),
    }


@pytest.fixture
def root(tmp_path):
    """Three subsets of three groups. Red is right everywhere; what the toy encoder finds can be computed by hand."""
    for name, colour in COLOURS.items():
        path = tmp_path / f"eval_images/pics/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(path)
    write(
        tmp_path,
        "ImageNet-1K",
        [
            row("<|image_1|>\n", "pics/red.png", ["red", "green", "blue"]),
            row("<|image_1|>\n", "pics/green.png", ["red", "green", "blue"]),  # the wrong image: a miss
        ],
    )
    write(
        tmp_path,
        "MSCOCO_t2i",
        [row("red", "", ["", ""], ["pics/red.png", "pics/blue.png"])],
    )
    write(
        tmp_path,
        "Visual7W-Pointing",
        [
            row("<|image_1|>\nred", "pics/red.png", ["", ""], ["pics/red.png", "pics/blue.png"]),
            row("<|image_1|>\nblue", "pics/blue.png", ["", ""], ["pics/red.png", "pics/blue.png"]),
            row("<|image_1|>\nred", "pics/green.png", ["", ""], ["pics/red.png", "pics/blue.png"]),
        ],
    )
    return tmp_path


def test_rates_groups_and_counts(root):
    result = evaluate(ToyEncoder(), root, progress=False)
    assert list(result["subsets"]) == ["ImageNet-1K", "MSCOCO_t2i", "Visual7W-Pointing"]  # the published order
    assert result["subsets"]["ImageNet-1K"] == {
        "hit@1": 0.5,
        "chance@1": pytest.approx(1 / 3),
        "queries": 2,
        "candidates": 3,
        "skipped": 0,
        "skipped_items": [],
        "group": "classification",
    }
    assert result["subsets"]["MSCOCO_t2i"]["hit@1"] == 1
    assert result["subsets"]["Visual7W-Pointing"]["hit@1"] == pytest.approx(2 / 3)
    groups = result["groups"]
    assert groups["classification"] == {"hit@1": 0.5, "subsets": 1, "of": 10}
    assert groups["vqa"] == {"hit@1": None, "subsets": 0, "of": 10}
    assert groups["in_distribution"] == {"hit@1": pytest.approx(0.75), "subsets": 2, "of": 20}
    assert groups["out_of_distribution"] == {"hit@1": pytest.approx(2 / 3), "subsets": 1, "of": 16}
    # The mean over subsets, not over queries.
    assert groups["all"] == {"hit@1": pytest.approx((0.5 + 1 + 2 / 3) / 3), "subsets": 3, "of": 36}
    json.dumps(result)


def test_kept_vectors_give_the_same_and_are_not_made_again(root, tmp_path):
    (root / "eval_images/pics/blue.png").write_bytes(b"nothing")
    expected = evaluate(ToyEncoder(), root, progress=False)

    class Interrupted(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if len(self.seen_instructions) == 3:
                raise KeyboardInterrupt
            return super().encode(items, instruction=instruction)

    calls = []
    for encoder in (Interrupted(), ToyEncoder(), ToyEncoder()):
        with opened_store(tmp_path / "work", "mmeb", made_with(encoder, 256)) as store:
            if calls:
                assert evaluate(encoder, root, work=store, progress=False) == expected
            else:
                with pytest.raises(KeyboardInterrupt):
                    evaluate(encoder, root, work=store, progress=False)
        calls.append(encoder.calls)
    whole = ToyEncoder()
    evaluate(whole, root, progress=False)
    assert calls[0] > 0
    assert calls[1:] == [whole.calls - calls[0], 0]


def test_chosen_subsets_and_everything_once(root):
    encoder = ToyEncoder()
    result = evaluate(encoder, root, ["ImageNet-1K"], progress=False)
    assert list(result["subsets"]) == ["ImageNet-1K"]
    assert encoder.calls == 2 + 3
    assert encoder.seen_instructions == [None, None]


def test_ties_count_against_us_and_doubles_are_one_candidate(root):
    write(
        root,
        "GQA",
        [
            row("red", "", ["red", "Red", "blue"]),  # one vector for both: not found
            row("red", "", ["red", "blue", "red"]),  # the right one again: found
        ],
    )
    result = evaluate(ToyEncoder(), root, ["GQA"], progress=False)["subsets"]["GQA"]
    assert result["hit@1"] == 0.5
    assert result["chance@1"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_unreadable_images_are_counted_and_listed(root):
    (root / "eval_images/pics/blue.png").write_bytes(b"nothing")
    (root / "eval_images/pics/red.png").unlink()
    table = evaluate(ToyEncoder(), root, ["Visual7W-Pointing"], progress=False)["subsets"]["Visual7W-Pointing"]
    # Two queries cannot be read, and the third's right image cannot be found.
    assert (table["hit@1"], table["queries"], table["skipped"]) == (0, 3, 2)
    assert sorted(line.split(":")[0] for line in table["skipped_items"]) == ["pics/blue.png", "pics/red.png"]
    # A wrong candidate that cannot be read does not stand in the way.
    write(root, "NIGHTS", [row("green", "", ["", ""], ["pics/green.png", "pics/blue.png"])])
    assert evaluate(ToyEncoder(), root, ["NIGHTS"], progress=False)["subsets"]["NIGHTS"]["hit@1"] == 1


def test_the_instruction_edition_asks_the_encoder(root):
    rows = [
        row("red", "", ["red", "blue"]) | {"qry_inst": "Find it.", "tgt_inst": ""},
        row("blue", "", ["blue", "red"]) | {"qry_inst": "Say it.", "tgt_inst": ""},
    ]
    write(root, "DocVQA", rows)
    encoder = ToyEncoder()
    assert evaluate(encoder, root, ["DocVQA"], progress=False)["subsets"]["DocVQA"]["hit@1"] == 1
    assert encoder.seen_instructions == ["Find it.", "Say it.", None]


def test_images_may_lie_elsewhere(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("pictures")
    (root / "eval_images").rename(elsewhere / "here")
    result = evaluate(ToyEncoder(), root, images=elsewhere / "here", progress=False)
    assert result["subsets"]["MSCOCO_t2i"]["hit@1"] == 1
    assert evaluate(ToyEncoder(), root, progress=False)["subsets"]["MSCOCO_t2i"]["skipped"] == 2
    with pytest.raises(InputError, match="is no folder"):
        evaluate(ToyEncoder(), root, images=elsewhere / "nowhere", progress=False)


def test_a_subset_of_ones_own_counts_in_no_group(root):
    write(root, "mine", [row("red", "", ["red", "blue"])])
    result = evaluate(ToyEncoder(), root, ["mine"], progress=False)
    assert result["subsets"]["mine"]["group"] is None
    assert result["subsets"]["mine"]["hit@1"] == 1
    assert result["groups"]["all"]["subsets"] == 0


def test_faults_are_told_before_anything_is_embedded(root):
    write(root, "WebQA", [row("red", "", [])])
    encoder = ToyEncoder()
    with pytest.raises(DataError, match="WebQA"):
        evaluate(encoder, root, progress=False)
    assert encoder.calls == 0
    for wrong, words in [("GQA", "a list of names"), ([], "is empty")]:
        with pytest.raises(InputError, match=words):
            evaluate(encoder, root, wrong, progress=False)


class Drawn:
    """Vectors of few values, so that ties are common."""

    dim, fingerprint = 2, "drawn"

    def __init__(self, places):
        self.places = places

    def encode(self, items, *, instruction=None):
        angles = np.array([0.3 * self.places[item.text] for item in items])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_hit_at_1_equals_a_slow_count(data, tmp_path_factory):
    texts = [f"t{n}" for n in range(8)]
    places = {text: data.draw(st.integers(0, 4)) for text in texts}
    rows = [
        row(data.draw(st.sampled_from(texts)), "", data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=6)))
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    root = tmp_path_factory.mktemp("drawn")
    write(root, "GQA", rows)
    hits = 0
    for one in rows:
        right, *others = [abs(places[one["qry_text"]] - places[text]) for text in one["tgt_text"]]
        names = one["tgt_text"]
        hits += all(right < other for other, name in zip(others, names[1:], strict=True) if name != names[0])
    result = evaluate(Drawn(places), root, progress=False)
    assert result["subsets"]["GQA"]["hit@1"] == pytest.approx(hits / len(rows))
