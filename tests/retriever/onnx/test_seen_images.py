"""What an export keeps of images: each is decoded and sent through the vision graph once, within a call, for later
calls and on a disk. The vectors stay the same. What is damaged, changed or absent is seen anew."""

import io
import json
import shutil

import numpy as np
import pytest

from puma.errors import ImageError, InputError, StorageError
from puma.items import Item
from puma.retriever.encoding.bounded import BoundedMemory
from puma.retriever.encoding.image_cache import FILE, ImageCache
from puma.retriever.encoding.repeats import FEW
from puma.retriever.model import Retriever
from puma.retriever.onnx import seen_images
from puma.retriever.onnx.layout import EXPORT_FILE
from support.exports import lightly, needs_onnx
from support.plain import image

needs_onnx()

TEXTS = ["a red fox", "x", "a cat in a hat " * 4, "at night", "blue"]
KINDS = [
    "mini",
    "qwen2_vl",
    pytest.param("smolvlm", marks=pytest.mark.slow),
    pytest.param("qwen2_5_vl", marks=pytest.mark.slow),
    pytest.param("qwen3_vl", marks=pytest.mark.slow),
]
"""The mini base (images of one size), images in patches, and in tiles."""


@pytest.fixture
def export(request, pair):
    """The folder of the mini base's export; with a parameter, of a family's."""
    kind = getattr(request, "param", "mini")
    return request.getfixturevalue("folder") if kind == "mini" else pair(kind)[1]


each = pytest.mark.parametrize("export", KINDS, indirect=True)


@pytest.fixture
def counts(monkeypatch):
    """How many images were decoded, and how often a vision graph ran."""
    found = {"opened": 0, "passes": 0}
    opening, looking = Item.open_image, seen_images.VisionSide.see

    def opened(self, **options):
        found["opened"] += 1
        return opening(self, **options)

    class Counted:
        def __init__(self, session):
            self.session = session

        def run(self, *given):
            found["passes"] += 1
            return self.session.run(*given)

    def see(self, images):
        if not isinstance(self.session, Counted):
            self.session = Counted(self.session)
        return looking(self, images)

    monkeypatch.setattr(Item, "open_image", opened)
    monkeypatch.setattr(seen_images.VisionSide, "see", see)
    return found


def taken(counts):
    """The counts, which begin anew."""
    found = dict(counts)
    counts.update(opened=0, passes=0)
    return found


NOTHING = {"opened": 0, "passes": 0}


def encoded(seed, size=(40, 24)):
    stream = io.BytesIO()
    image(seed, size[::-1]).save(stream, "PNG")
    return stream.getvalue()


def forgetful(export):
    """An export that keeps nothing between calls, nor from one batch to the next."""
    made = Retriever.from_pretrained(export)
    made._vision.memory = BoundedMemory(0)
    return made


def one_by_one(export, items, instruction=None):
    """The vectors of items that each have a call to themselves."""
    light = forgetful(export)
    return np.concatenate([light.encode([item], instruction) for item in items])


@each
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_an_image_with_five_texts_is_seen_once_and_not_again(export, batch_size, counts, tmp_path):
    (tmp_path / "one.png").write_bytes(encoded(0, (200, 90)))
    (tmp_path / "same.png").write_bytes(encoded(0, (200, 90)))
    items = [{"image": tmp_path / "one.png", "text": text} for text in TEXTS]
    more = [{"image": tmp_path / "same.png"}, {"image": encoded(0, (200, 90)), "text": "a hat"}, "a red fox"]
    wanted, again = one_by_one(export, [*items, *more]), one_by_one(export, [*more, *items], "Find it.")
    light = Retriever.from_pretrained(export)
    lengths, expected = np.zeros(8, int), np.zeros(8, int)
    plain = forgetful(export).encode([*items, *more], batch_size=batch_size, tokens=expected)
    taken(counts)
    found = light.encode([*items, *more], batch_size=batch_size, tokens=lengths)
    # Of five tiles or less a graph takes all together.
    assert taken(counts) == {"opened": 1, "passes": 1}
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    np.testing.assert_array_equal(lengths, expected)
    np.testing.assert_allclose(light.encode([*more, *items], "Find it.", batch_size), again, atol=1e-6)
    assert taken(counts) == NOTHING


@each
def test_known_images_beside_new_ones(export, counts):
    sides = [(40, 24), (24, 70), (33, 33), (3, 300), (64, 50), (40, 24)]
    images = [encoded(n, one) for n, one in enumerate(sides)]
    items = [{"image": one, "text": text} for one in images for text in ("a hat", "x")]
    wanted = one_by_one(export, items)
    light = Retriever.from_pretrained(export)
    light.encode(images[::2])
    taken(counts)
    np.testing.assert_allclose(light.encode(items, batch_size=5), wanted, atol=1e-6)
    assert taken(counts)["opened"] == 3
    np.testing.assert_allclose(light.encode(items), wanted, atol=1e-6)
    assert taken(counts) == NOTHING


def test_a_changed_file_of_the_same_name_is_seen_anew(folder, counts, tmp_path):
    light, path = Retriever.from_pretrained(folder), tmp_path / "one.png"
    for seed in (0, 1, 0):
        path.write_bytes(encoded(seed))
        found = light.encode([{"image": path}])
        np.testing.assert_allclose(found, one_by_one(folder, [{"image": encoded(seed)}]), atol=1e-6)
    taken(counts)
    light.encode([{"image": path}, {"image": encoded(1)}])
    assert taken(counts) == NOTHING


def test_an_array_that_was_changed_is_seen_anew(folder, counts):
    light, pixels = Retriever.from_pretrained(folder), np.array(image(0))
    first = light.encode([pixels])
    pixels[:] = 255 - pixels
    assert np.abs(light.encode([pixels]) - first).max() > 1e-3
    pixels[:] = 255 - pixels
    np.testing.assert_allclose(light.encode([pixels]), first, atol=1e-6)
    assert taken(counts) == {"opened": 2, "passes": 2}


def test_the_memory_is_bounded(folder, counts):
    light = Retriever.from_pretrained(folder)
    light.encode([encoded(0)])
    one = light._vision.memory.bytes
    assert 0 < one < 100_000
    light._vision.memory = BoundedMemory(2 * one)
    for seed in (0, 1, 2):  # the first makes room for the third
        light.encode([encoded(seed)])
        assert light._vision.memory.bytes <= 2 * one
    taken(counts)
    light.encode([encoded(2)])
    assert taken(counts) == NOTHING
    light.encode([encoded(0)])
    assert taken(counts)["opened"] == 1


@pytest.mark.parametrize("export", ["mini", "qwen2_vl"], indirect=True)
def test_many_images_are_kept_for_their_call_alone(export, counts):
    images = [encoded(n) for n in range(FEW + 1)]
    items = [{"image": one, "text": text} for text in TEXTS[:2] for one in images]
    light = Retriever.from_pretrained(export)
    found = light.encode(items, batch_size=3)
    assert taken(counts)["opened"] == FEW + 1
    assert len(light._vision.memory) == 0
    np.testing.assert_allclose(found, one_by_one(export, items), atol=1e-6)


@pytest.mark.parametrize("export", ["mini", "qwen2_vl"], indirect=True)
def test_rows_that_did_not_stay_in_the_memory_are_made_again(export, counts):
    images = [encoded(n, (40, 24 + 8 * n)) for n in range(3)]
    items = [{"image": one, "text": text} for text in TEXTS for one in images]
    wanted = one_by_one(export, items)
    taken(counts)
    np.testing.assert_allclose(forgetful(export).encode(items, batch_size=2), wanted, atol=1e-6)
    assert taken(counts)["opened"] > 3


def test_an_image_that_cannot_be_opened_is_named_each_time(folder, counts, tmp_path):
    light = Retriever.from_pretrained(folder)
    broken, absent = tmp_path / "broken.png", tmp_path / "absent.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    for path in (broken, absent, broken, absent):
        with pytest.raises(ImageError, match=path.name):
            light.encode([{"image": path, "text": text} for text in TEXTS], batch_size=2)
    assert len(light._vision.memory) == 0
    broken.write_bytes(encoded(0))
    np.testing.assert_allclose(light.encode([broken]), one_by_one(folder, [{"image": encoded(0)}]), atol=1e-6)


@each
def test_the_next_process_needs_neither_decoder_nor_graph(export, counts, tmp_path):
    images = [encoded(n, (40, 24 + 8 * (n % 5))) for n in range(FEW + 4)]
    items = [{"image": one, "text": f"a cat {n}"} for n, one in enumerate(images)]
    wanted, with_texts = one_by_one(export, images), one_by_one(export, items)
    taken(counts)
    light = Retriever.from_pretrained(export, image_cache=tmp_path / "cache")
    first = light.encode(images, batch_size=8)
    np.testing.assert_allclose(first, wanted, atol=1e-6)
    assert taken(counts)["opened"] == len(light.image_cache) == len(images)
    light = Retriever.from_pretrained(export, image_cache=ImageCache(tmp_path / "cache"))
    np.testing.assert_array_equal(light.encode(images, batch_size=8), first)
    np.testing.assert_allclose(light.encode(items), with_texts, atol=1e-6)
    np.testing.assert_allclose(light.encode(items[:2]), with_texts[:2], atol=1e-6)
    assert taken(counts) == NOTHING
    light.image_cache.close()  # what was few is in the memory, too
    light.encode(items[:2])
    assert taken(counts) == NOTHING
    light.encode(items[2:4])
    assert taken(counts)["opened"] == 2


def test_other_steps_and_another_limit_of_memory_see_anew(folder, counts, tmp_path, monkeypatch):
    def opened(place):
        Retriever.from_pretrained(place, image_cache=tmp_path / "cache").encode([encoded(0)])
        return taken(counts)["opened"]

    other = shutil.copytree(folder, tmp_path / "other")
    assert [opened(folder), opened(other)] == [1, 0]  # a copy is the same
    values = json.loads((other / EXPORT_FILE).read_text())
    values["images"]["mean"] = [0.1, 0.2, 0.3]
    (other / EXPORT_FILE).write_text(json.dumps(values))
    assert [opened(other), opened(other)] == [1, 0]
    monkeypatch.setattr(seen_images, "image_memory", lambda: 2**25)
    assert [opened(folder), opened(folder)] == [1, 0]


@pytest.mark.parametrize("export", ["mini", "qwen2_vl"], indirect=True)
def test_a_damaged_entry_is_absent(export, counts, tmp_path):
    cache, wanted = ImageCache(tmp_path / "cache"), one_by_one(export, [encoded(0)])
    Retriever.from_pretrained(export, image_cache=cache).encode([encoded(0)])
    (key,) = next(iter(cache._connection.execute("SELECT key FROM held")))
    whole = cache.get([key])[key]
    numbers = np.frombuffer(whole, "<i8", 4)
    others = [numbers * [0, 1, 1, 1], numbers * [-1, 1, 1, 1], np.add(numbers, [0, 0, 1, 0]), numbers * [1, 1, 1, 2]]
    taken(counts)
    for data in (b"", b"no rows", whole[:-1], whole + whole, *(one.tobytes() + whole[32:] for one in others)):
        cache.put({key: data})  # whole on the disk, and of another writer
        found = Retriever.from_pretrained(export, image_cache=cache).encode([encoded(0)])
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert taken(counts) == {"opened": 1, "passes": 1}
        assert cache.get([key])[key] == whole


def test_a_place_that_cannot_be_written_is_refused_before_the_graphs_load(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("puma.retriever.onnx.runtime.session", lambda file: pytest.fail(f"{file} was loaded"))
    with pytest.raises(InputError, match=r"image_cache=.*file: is a file"):
        Retriever.from_pretrained(folder, image_cache=tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be written"):
        Retriever.from_pretrained(folder, image_cache=tmp_path / "file" / "below")


def test_a_cache_without_torch(folder, tmp_path):
    image(0).save(tmp_path / "red.png")
    words = ("embed", "red.png", "--model", folder, "--image-cache", "seen", "--image-cache-size", 16, "--out")
    for name in ("a.npz", "b.npz"):
        done = lightly(*words, name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    cache = ImageCache(tmp_path / "seen")
    assert (cache.path.name, len(cache)) == (FILE, 1)
    with np.load(tmp_path / "a.npz") as first, np.load(tmp_path / "b.npz") as second:
        np.testing.assert_array_equal(first["vectors"], second["vectors"])
        np.testing.assert_allclose(first["vectors"], one_by_one(folder, [image(0)]), atol=1e-6)
