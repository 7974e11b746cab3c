"""The searcher over a real small encoder: ingest with skips and resume, queries of every kind."""

import numpy as np
import pytest
from PIL import Image

from encoders import ToyEncoder
from puma.errors import ImageError, IndexMismatchError, InputError
from puma.index import Index
from puma.items import MODALITIES, Item
from puma.search import INSTRUCTIONS, Searcher

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    (folder / "texts.jsonl").write_text(
        '{"text": "blue whale"}\n{"text": "red fox", "image": "red.png", "id": "fox"}\n'
    )
    return folder


@pytest.fixture
def searcher(folder, tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "index")
    searcher.add_paths([folder, folder / "texts.jsonl"], progress=False)
    return searcher


def name(hit):
    return hit.payload.get("text") or hit.payload["image"].rsplit("/", 1)[1]


def test_every_kind_of_query_finds_its_own(searcher, folder):
    assert name(searcher.search("green", 1)[0]) == "green.png"
    assert name(searcher.search("blue whale", 1, "text")[0]) == "blue whale"
    assert name(searcher.search(folder / "blue.png", 1)[0]) == "blue.png"
    assert name(searcher.search(Image.new("RGB", (4, 4), (0, 0, 250)), 1, "text")[0]) == "blue whale"
    assert searcher.search({"text": "fox", "image": folder / "red.png"}, 1)[0].id == "fox"
    assert [hit.modality for hit in searcher.search("red", 10, "image")] == ["image"] * 3
    assert len(searcher.search("red", 100)) == 5


def test_many_queries_are_the_single_ones(searcher, folder):
    queries = ["red", Item(text="blue"), folder / "green.png", {"text": "whale", "image": folder / "blue.png"}]
    assert searcher.search_many(queries, 3) == [searcher.search(query, 3) for query in queries]
    assert searcher.search_many([], 3) == []


def test_instructions_by_default_given_and_none(searcher):
    searcher.encoder.heard.clear()
    searcher.search("red", 1, "image")
    searcher.search("red", 1, instruction="My own.")
    searcher.search("red", 1, instruction="")
    own = Searcher(searcher.encoder, searcher.index, instructions={("text", None): "Theirs."})
    own.search("red", 1)
    expected = [INSTRUCTIONS["text", "image"], "My own.", None, "Theirs."]
    assert searcher.encoder.heard == expected
    assert set(INSTRUCTIONS) == {(asked, wanted) for asked in MODALITIES for wanted in (*MODALITIES, None)}


def test_what_is_there_already_is_not_embedded_again(searcher, folder):
    calls = searcher.encoder.calls
    added = searcher.add_paths([folder, folder / "texts.jsonl"], progress=False)
    assert (added.embedded, added.present, added.updated, searcher.encoder.calls) == (0, 5, 0, calls)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "red.png")  # new content; also under the id "fox"
    added = searcher.add_paths([folder, folder / "texts.jsonl"], progress=False)
    assert (added.embedded, added.present, searcher.encoder.calls) == (2, 3, calls + 2)
    assert len(searcher.index) == 6  # the old red picture under its content's id, and the new one


def test_a_changed_payload_is_stored_without_embedding_again(searcher, folder):
    calls = searcher.encoder.calls
    (folder / "texts.jsonl").write_text('{"text": "red fox", "image": "red.png", "id": "fox", "year": 1}\n')
    added = searcher.add_paths([folder / "texts.jsonl"], progress=False)
    assert (added.embedded, added.present, added.updated, searcher.encoder.calls) == (0, 1, 1, calls)
    assert searcher.index.get(["fox"])["fox"].payload["year"] == 1


def test_an_interrupted_ingest_goes_on_where_it_was(folder, tmp_path):
    class Dying(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if self.calls >= 2:
                raise KeyboardInterrupt
            return super().encode(items, instruction=instruction)

    with pytest.raises(KeyboardInterrupt):
        Searcher(Dying(), tmp_path / "index").add_paths([folder], batch_size=1, progress=False)
    again = Searcher(ToyEncoder(), tmp_path / "index")
    assert len(again.index) == 2
    added = again.add_paths([folder], batch_size=1, progress=False)
    assert (added.present, added.embedded, len(again.index)) == (2, 1, 3)


def test_bad_pictures_and_lines_are_counted_with_their_reason(folder, tmp_path):
    whole = (folder / "red.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2 + 10])
    (folder / "wrong.png").write_text("<svg/>")
    (folder / "empty.png").touch()
    Image.new("1", (20_000, 20_000)).save(folder / "vast.png")
    (folder / "texts.jsonl").write_text(
        'not json\n{"text": ""}\n{"image": "gone.png"}\n{"text": "ok", "n": "\\ud800"}\n'
    )
    searcher = Searcher(ToyEncoder(), tmp_path / "index")
    added = searcher.add_paths([folder, folder / "texts.jsonl"], progress=False)
    assert (added.embedded, len(added.skips), added.ignored, len(searcher.index)) == (3, 8, 1, 3)
    reasons = {skip.where.rsplit("/", 1)[1]: skip.reason for skip in added.skips}
    expected = {
        "cut.png": "cannot be decoded",
        "wrong.png": "not a picture",
        "empty.png": "empty",
        "vast.png": "pixels",
        "texts.jsonl:1": "not JSON",
        "texts.jsonl:2": "empty",
        "texts.jsonl:3": "no such file",
        "texts.jsonl:4": "payload",
    }
    assert set(reasons) == set(expected)
    assert all(expected[where] in reason for where, reason in reasons.items())
    assert added.as_dict()["skipped"] == 8


def test_one_id_for_two_contents_is_a_skip_and_repeats_are_counted(tmp_path):
    lines = [
        '{"text": "a", "id": "x"}',
        '{"text": "b", "id": "x"}',
        '{"text": "a", "id": "x"}',
        '{"text": "c", "id": "\\n"}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    added = Searcher(ToyEncoder(), tmp_path / "index").add_paths([tmp_path / "t.jsonl"], progress=False)
    assert (added.embedded, added.repeated, len(added.skips)) == (1, 1, 2)
    assert "also at" in added.skips[0].reason
    assert "control character" in added.skips[1].reason


def test_items_can_be_added_directly(tmp_path):
    searcher = Searcher(ToyEncoder(), Index(tmp_path / "index"))
    added = searcher.add(
        ["red", {"text": "blue"}, b"no picture"], ids=["r", "b", "p"], payloads=[{"n": (1, 2)}, None, None]
    )
    assert (added.embedded, len(added.skips)) == (2, 1)
    assert searcher.index.get(["r"])["r"].payload == {"n": [1, 2]}
    assert searcher.search("blue", 1)[0].payload == {"text": "blue"}
    again = searcher.add(["red"], ids=["r"], payloads=[{"n": (1, 2)}])
    assert (again.present, again.updated) == (1, 0)
    for bad in ({"ids": ["r"]}, {"ids": ["r", "r"]}, {"payloads": [{}]}, {"batch_size": 0}):
        with pytest.raises(InputError):
            searcher.add(["red", "blue"], **bad)


def test_another_models_index_is_refused(searcher):
    with pytest.raises(IndexMismatchError, match="toy-1"):
        Searcher(ToyEncoder(fingerprint="toy-2"), searcher.index)
    with pytest.raises(IndexMismatchError):
        Searcher(ToyEncoder(dim=8), searcher.index.path)


def test_bad_queries(searcher, tmp_path):
    for bad in ("", "  ", {"txt": "x"}, 5, None):
        with pytest.raises(InputError):
            searcher.search(bad)
    with pytest.raises(ImageError, match="no such file"):
        searcher.search(tmp_path / "gone.png")
    with pytest.raises(InputError, match="search_many takes a sequence"):
        searcher.search_many("red")
    with pytest.raises(InputError, match="modality"):
        searcher.search("red", modality="video")
    with pytest.raises(InputError, match="k must be"):
        searcher.search("red", k=0)


def test_an_encoders_own_picture_errors_are_not_hidden(tmp_path):
    class Refusing(ToyEncoder):
        def encode(self, items, *, instruction=None):
            raise ImageError("I take no pictures")

    with pytest.raises(ImageError, match="I take no pictures"):
        Searcher(Refusing(), tmp_path / "index").add([np.zeros((4, 4, 3), dtype=np.uint8)])
