"""The searcher over a real small encoder: ingest with skips and resume, queries of every kind."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from puma.errors import ImageError, IndexMismatchError, InputError
from puma.index import Index
from puma.items import MODALITIES, Item, open_image
from puma.items.dimensions import ShortenedEncoder
from puma.search import Searcher
from puma.search.ingest import portions, read_items
from puma.search.queries import INSTRUCTIONS, MINUS_WEIGHT, without
from support.encoders import ToyEncoder

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


class Nested(ToyEncoder):
    """Trained for two shorter lengths."""

    dimensions = (8, 16)


def test_an_index_of_shortened_vectors_is_filled_and_searched_by_its_own_length(folder, tmp_path):
    path = tmp_path / "short.index"
    first = Searcher(ShortenedEncoder(Nested(), 16), path)
    assert first.add_paths([folder], progress=False).embedded == 5
    again = Searcher(Nested(), path)  # no length is given: the index knows it
    assert (again.index.dim, again.encoder.dim) == (16, 16)
    texts = folder / "more.txt"
    texts.write_text("green tea\n")
    assert again.add_paths([texts], progress=False).embedded == 1
    rows = again.index.get([hit.id for hit in again.search("green", 10)])
    assert len(rows) == 6
    whole = Nested().encode([Item(text="green tea")])
    stored = next(row.vector for row in rows.values() if row.payload.get("text") == "green tea")
    np.testing.assert_allclose(stored, whole[0, :16] / np.linalg.norm(whole[0, :16]), atol=1e-6)
    assert again.search("red", 3) == first.search("red", 3)
    with pytest.raises(IndexMismatchError, match="holds vectors of length 16, the model makes 32"):
        Searcher(ToyEncoder(), path)  # not trained for it
    other = Nested(fingerprint="toy-2")
    with pytest.raises(IndexMismatchError, match="was made with model toy-1:16, this one is toy-2:16"):
        Searcher(other, path)


def test_many_queries_are_the_single_ones(searcher, folder):
    queries = ["red", Item(text="blue"), folder / "green.png", {"text": "whale", "image": folder / "blue.png"}]
    assert searcher.search_many(queries, 3) == [searcher.search(query, 3) for query in queries]
    assert searcher.search_many([], 3) == []


def test_instructions_by_default_given_and_none(searcher):
    searcher.encoder.seen_instructions.clear()
    searcher.search("red", 1, "image")
    searcher.search("red", 1, instruction="My own.")
    searcher.search("red", 1, instruction="")
    own = Searcher(searcher.encoder, searcher.index, instructions={("text", None): "Theirs."})
    own.search("red", 1, merge="single")
    searcher.search("red", 1)
    expected = [INSTRUCTIONS["text", "image"], "My own.", None, "Theirs."]
    # Where no modality is asked for, each that the index has is, with its own instruction.
    assert searcher.encoder.seen_instructions == expected + [INSTRUCTIONS["text", wanted] for wanted in MODALITIES]
    assert set(INSTRUCTIONS) == {(own, wanted) for own in MODALITIES for wanted in (*MODALITIES, None)}


def test_what_is_there_already_is_not_embedded_again(searcher, folder):
    calls = searcher.encoder.calls
    added = searcher.add_paths([folder, folder / "texts.jsonl"], progress=False)
    assert (added.embedded, added.present, added.updated, searcher.encoder.calls) == (0, 5, 0, calls)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "red.png")  # new content; also under the id "fox"
    added = searcher.add_paths([folder, folder / "texts.jsonl"], progress=False)
    assert (added.embedded, added.present, searcher.encoder.calls) == (2, 3, calls + 2)
    assert len(searcher.index) == 5  # the old red image is at no path any more


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

    (folder / "texts.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        Searcher(Dying(), tmp_path / "index").add_paths([folder], batch_size=1, progress=False)
    again = Searcher(ToyEncoder(), tmp_path / "index")
    assert len(again.index) == 2
    added = again.add_paths([folder], batch_size=1, progress=False)
    assert (added.present, added.embedded, len(again.index)) == (2, 1, 3)


def test_bad_images_and_lines_are_counted_with_their_reason(folder, tmp_path):
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
    assert (added.embedded, len(added.skips), added.ignored, len(searcher.index)) == (3, 8, 0, 3)
    reasons = {skip.where.rsplit("/", 1)[1]: skip.reason for skip in added.skips}
    expected = {
        "cut.png": "cannot be decoded",
        "wrong.png": "not an image",
        "empty.png": "empty",
        "vast.png": "pixels",
        "texts.jsonl:1": "not JSON",
        "texts.jsonl:2": "empty",
        "texts.jsonl:3": "no such file",
        "texts.jsonl:4": "payload",
    }
    assert set(reasons) == set(expected)
    assert all(expected[where] in reason for where, reason in reasons.items())
    assert not any(str(folder) in reason for where, reason in reasons.items() if where.endswith(".png"))  # named once
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


def test_what_only_the_encoder_refuses_is_skipped_and_listed(tmp_path):
    class Refusing(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if any(item.image is not None for item in items):
                raise ImageError("I take no pictures")
            return super().encode(items, instruction=instruction)

    searcher = Searcher(Refusing(), tmp_path / "index")
    added = searcher.add([np.zeros((4, 4, 3), dtype=np.uint8), "a text"])
    assert [skip.reason for skip in added.skips] == ["I take no pictures"]
    assert len(searcher.index) == 1


def test_several_modalities_at_once(searcher):
    found = searcher.search("red", 10, ["image", "text"])
    assert {hit.modality for hit in found} == {"image", "text"}
    assert len(found) == 4
    searcher.encoder.seen_instructions.clear()
    searcher.search("red", 1, ["image"])
    searcher.search("red", 1, ("image", "text"))
    searcher.search("red", 1, ("image", "text"), merge="single")
    expected = [INSTRUCTIONS["text", wanted] for wanted in ("image", "text", "image", None)]
    assert searcher.encoder.seen_instructions == expected
    with pytest.raises(InputError, match="modality"):
        searcher.search("red", 1, ["image", "video"])


def test_the_instruction_for_a_query(searcher):
    assert searcher.instruction_for("text", "image") == INSTRUCTIONS["text", "image"]
    assert searcher.instruction_for("image", ["text", "image"]) == INSTRUCTIONS["image", None]
    assert searcher.instruction_for("image") == INSTRUCTIONS["image", None]
    taught = ToyEncoder()
    taught.instructions = {("text", "image"): "As taught."}
    own = Searcher(taught, searcher.index.path)
    assert own.instruction_for("text", "image") == "As taught."
    assert own.instruction_for("text") is None
    assert own.instruction_for("text", MODALITIES) is None
    for bad in (("video", None), ("text", "video"), ("text", ["text", "video"])):
        with pytest.raises(InputError, match="modality"):
            searcher.instruction_for(*bad)


def test_the_second_page_goes_on_where_the_first_ended(searcher):
    whole = searcher.search("red", 5)
    assert (
        searcher.search("red", 2) + searcher.search("red", 2, offset=2) + searcher.search("red", 9, offset=4) == whole
    )
    assert searcher.search("red", 2, offset=5) == []
    for bad in (-1, 1.5, True):
        with pytest.raises(InputError, match="offset"):
            searcher.search("red", offset=bad)


def test_where(searcher):
    searcher.add(["red a", "red b"], ids=["a", "b"], payloads=[{"n": 1}, {"n": 2}])
    above = {"type": "gt", "key": "n", "value": 1}
    assert [hit.id for hit in searcher.search("red", 5, where=above)] == ["b"]
    assert [[hit.id for hit in hits] for hits in searcher.search_many(["red", "blue"], 5, where=above)] == [
        ["b"],
        ["b"],
    ]
    with pytest.raises(InputError, match="where"):
        searcher.search("red", where={"type": "like"})


def test_minus_moves_what_is_unwanted_down(searcher):
    searcher.add(["red fox", "red whale", "red"], ids=["f", "w", "r"])
    plain = [hit.id for hit in searcher.search("red fox whale", 2, "text")]
    assert set(plain) == {"f", "w"}
    order = [hit.id for hit in searcher.search("red fox whale", 5, "text", minus=["whale"])]
    assert order.index("f") < order.index("r") < order.index("w")
    assert searcher.search("red", 3, minus=[]) == searcher.search("red", 3)
    many = searcher.search_many(["red fox whale", "red"], 5, minus=["whale", "fox"])
    assert many == [searcher.search(query, 5, minus=["whale", "fox"]) for query in ("red fox whale", "red")]
    with pytest.raises(InputError, match="minus takes a sequence"):
        searcher.search("red", minus="whale")
    with pytest.raises(InputError):
        searcher.search("red", minus=[""])


def test_minus_may_be_a_image(searcher, folder):
    hits = searcher.search("red green", 3, "image", minus=[folder / "green.png"])
    assert name(hits[0]) == "red.png"


def test_without_is_the_formula_and_never_turns_a_query_around():
    rows = np.random.default_rng(0).standard_normal((7, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query, others = rows[0], rows[1:]
    slow = query.copy()
    for other in others:
        slow -= MINUS_WEIGHT * (other - other.dot(query) * query)
    slow /= np.linalg.norm(slow)
    found = without(query, others)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow, atol=1e-6)
    assert abs(np.linalg.norm(found) - 1) < 1e-6
    assert found @ query > 0
    np.testing.assert_allclose(without(query, [query]), query, atol=1e-6)
    np.testing.assert_allclose(without(query, []), query, atol=1e-6)
    np.testing.assert_allclose(without(query, others, weight=0), query, atol=1e-6)
    assert without(query, others[:1]) @ others[0] < query @ others[0]
    for bad in (([[1.0]], others, 1.0), (query, others[:, :3], 1.0), (query, others, -1.0), (query, others, np.nan)):
        with pytest.raises(InputError):
            without(*bad)


def test_a_stored_item_comes_back_as_a_query(searcher):
    fox = searcher.stored_item("fox")
    assert (fox.text, fox.open_image().size, fox.modality) == ("red fox", (8, 8), "image,text")
    assert searcher.search(fox, 1)[0].id == "fox"
    green = next(
        row.id for row in searcher.index.page(9, modality="image") if row.payload["image"].endswith("green.png")
    )
    assert searcher.stored_item(green).text is None
    assert searcher.search(searcher.stored_item(green), 1)[0].id == green
    whale = next(row.id for row in searcher.index.page(9, modality="text"))
    assert searcher.stored_item(whale) == Item(text="blue whale")
    with pytest.raises(InputError, match="'none': no such item"):
        searcher.stored_item("none")


def test_a_stored_item_of_which_nothing_is_kept_says_so(searcher):
    searcher.add(["red"], ids=["bare"], payloads=[{"n": 1}])
    with pytest.raises(InputError, match="neither its text nor its picture"):
        searcher.stored_item("bare")


def test_every_image_has_a_thumbnail_however_it_was_added(searcher, folder):
    image = Image.new("RGB", (1000, 500), (0, 0, 255))
    added = searcher.add([image, "red", {"text": "x", "image": folder / "red.png"}, b"none"], ids=list("pqrs"))
    assert added.ids == ["p", "q", "r", None]
    assert open_image(searcher.index.thumbnail("p")).size == (384, 192)
    assert searcher.index.thumbnail("q") is None
    assert all(searcher.index.thumbnail(row.id) for row in searcher.index.page(99, modality=["image", "image,text"]))
    assert searcher.index.verify() == []
    assert searcher.add(["red", b"none"]).ids[1] is None


def test_missing_thumbnails_are_made_without_embedding_again(folder, tmp_path):
    (folder / "texts.jsonl").unlink()
    encoder, index = ToyEncoder(), Index(tmp_path / "index", dim=32, fingerprint="toy-1")
    records = list(read_items([folder]))[:3]
    vectors = encoder.encode([record.item for record in records])
    index.add(
        [record.id for record in records], vectors, ["image"] * 3, [record.payload for record in records],
        contents=[record.content for record in records],
    )  # fmt: skip
    searcher, calls = Searcher(encoder, index), encoder.calls
    added = searcher.add_paths([folder], progress=False)
    assert (added.embedded, added.present, added.updated, encoder.calls) == (0, 3, 3, calls)
    assert searcher.index.verify() == []
    assert searcher.add_paths([folder], progress=False).updated == 0


def test_batches_are_full_even_where_most_is_there_already(tmp_path):
    sizes = []

    class Counting(ToyEncoder):
        def encode(self, items, *, instruction=None):
            sizes.append(len(items))
            return super().encode(items, instruction=instruction)

    texts = [f"line {n}" for n in range(1000)]
    searcher = Searcher(Counting(), tmp_path / "index")
    searcher.add([text for n, text in enumerate(texts) if n % 4], batch_size=500)
    sizes.clear()
    seen = []
    (tmp_path / "t.txt").write_text("\n".join(texts))
    added = searcher.add_paths(
        [tmp_path / "t.txt"], batch_size=100, progress=False, on_batch=lambda done: seen.append(done.embedded)
    )
    assert (added.embedded, added.present, sizes) == (250, 750, [100, 100, 50])
    assert (seen[-1], sorted(seen)) == (250, seen)


def test_the_next_batch_is_read_while_this_one_is_embedded_and_no_further(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    for n in range(12):
        Image.new("RGB", (4, 4), (n, 0, 0)).save(tmp_path / "p" / f"{n:02}.png")
    opened = []

    class Waiting(ToyEncoder):
        def encode(self, items, *, instruction=None):
            deadline = time.monotonic() + 20
            wanted = min(12, len(self.seen_instructions) * 3 + 6)
            while len(opened) < wanted and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(opened) >= wanted, "the next batch is not read meanwhile"
            time.sleep(0.02)
            assert len(opened) <= wanted + 1, "more than the next batch is read"
            return super().encode(items, instruction=instruction)

    plain = portions.make_thumbnail
    monkeypatch.setattr(portions, "make_thumbnail", lambda image: opened.append(image) or plain(image))
    Searcher(Waiting(), tmp_path / "index").add_paths([tmp_path / "p"], batch_size=3, progress=False)
    assert len(opened) == 12


def test_a_batch_of_heavy_images_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr("puma.search.ingest.portions.HELD_BYTES", 5000)
    sizes = []

    class Counting(ToyEncoder):
        def encode(self, items, *, instruction=None):
            sizes.append(len(items))
            return super().encode(items, instruction=instruction)

    def png(n):
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), (n, 0, 0)).save(stream, "PNG")
        return stream.getvalue() + b"\0" * 1000

    added = Searcher(Counting(), tmp_path / "index").add([png(n) for n in range(20)], batch_size=100)
    assert added.embedded == sum(sizes) == 20
    assert max(sizes) < 7


def test_copies_of_a_broken_image_are_each_told(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(b"broken")
    for size in (1, 2, 10):
        added = Searcher(ToyEncoder(), tmp_path / f"index-{size}").add_paths(
            [tmp_path], progress=False, batch_size=size
        )
        assert (len(added.skips), added.repeated) == (3, 0)


def test_an_error_of_the_encoder_ends_the_run_and_the_reading(tmp_path):
    class Failing(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if self.calls >= 4:
                raise RuntimeError("out of something")
            return super().encode(items, instruction=instruction)

    (tmp_path / "t.txt").write_text("\n".join(f"line {n}" for n in range(100)))
    searcher = Searcher(Failing(), tmp_path / "index")
    with pytest.raises(RuntimeError, match="out of something"):
        searcher.add_paths([tmp_path / "t.txt"], batch_size=2, progress=False)
    assert len(searcher.index) == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("puma-reading")]


def test_the_bar_tells_rate_and_time_left(folder, tmp_path, capsys):
    (folder / "texts.jsonl").unlink()
    Searcher(ToyEncoder(), tmp_path / "index").add_paths([folder], batch_size=1)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "item/s" in shown or "s/item" in shown
