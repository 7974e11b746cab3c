"""What the model saw in images, on a disk: the same vectors in another process, neither decoder nor tower, never of
another model."""

import io
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import InputError, StorageError
from puma.items import Item
from puma.retriever.encoding import seen_images, vision_identity
from puma.retriever.encoding.image_cache import FILE, ImageCache
from puma.retriever.encoding.seen import Seen, from_bytes, to_bytes
from puma.retriever.model import Retriever
from support import families
from support.plain import plain_vectors
from support.seeing import counted_seeing

CANNOT = ("gemma3",)
"""Its processor writes line breaks around an image, which may join with a text."""
keeping = pytest.mark.parametrize("retriever", [f for f in families.FAMILIES if f not in CANNOT], indirect=True)
"""For tests of what is kept."""


@pytest.fixture(scope="module", params=families.FAMILIES)
def retriever(request, family_base):
    made = Retriever.from_base(family_base(request.param), layers=2, device="cpu")
    made.family = request.param
    return made


@pytest.fixture
def counted(retriever, tmp_path, monkeypatch):
    """How many images were read by the processor, and how many passes went through the tower; with a cache."""
    counts = counted_seeing(retriever, monkeypatch)
    retriever.image_cache = ImageCache(tmp_path / "cache")
    forget(monkeypatch, counts)
    yield counts
    retriever.image_cache.close()
    retriever.image_cache = None


def forget(monkeypatch, counts):
    """As if in another process: nothing is in memory."""
    monkeypatch.setattr(seen_images, "MEMORIES", type(seen_images.MEMORIES)())
    monkeypatch.setattr(vision_identity, "_KNOWN", type(vision_identity._KNOWN)())
    counts.update(read=0, passes=0)


def encoded(seed, size=(40, 24)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("count", [3, 20])
def test_the_next_run_needs_neither_decoder_nor_tower(retriever, counted, monkeypatch, tmp_path, count):
    images = [encoded(n, (40, 24 + 8 * (n % 3))) for n in range(count)]
    plain = plain_vectors(retriever, [Item(image=image) for image in images])
    with_texts = [Item(image=image, text=f"a red fox {n}") for n, image in enumerate(images)]
    expected = plain_vectors(retriever, with_texts, "Find it.")
    forget(monkeypatch, counted)
    np.testing.assert_allclose(retriever.encode(images, batch_size=8), plain, atol=1e-5)
    assert counted["read"] == count
    forget(monkeypatch, counted)
    again = retriever.encode(images, batch_size=8)
    np.testing.assert_allclose(again, plain, atol=1e-5)
    for n, image in enumerate(images):
        (tmp_path / f"{n}.png").write_bytes(image)
    given = [{"image": tmp_path / f"{n}.png", "text": item.text} for n, item in enumerate(with_texts)]
    np.testing.assert_allclose(retriever.encode(given, "Find it.", batch_size=8), expected, atol=1e-5)
    if retriever.family in CANNOT:
        assert len(retriever.image_cache) == 0
    else:
        assert counted == {"read": 0, "passes": 0}
        assert len(retriever.image_cache) == count


def test_new_images_beside_known_ones(retriever, counted, monkeypatch):
    retriever.encode([encoded(n) for n in range(4)])
    images = [encoded(n) for n in range(8)]
    expected = plain_vectors(retriever, [Item(image=image) for image in images])
    forget(monkeypatch, counted)
    np.testing.assert_allclose(retriever.encode(images), expected, atol=1e-5)
    assert counted["read"] == (8 if retriever.family in CANNOT else 4)


@keeping
def test_what_was_seen_before_there_was_a_disk_goes_onto_it(retriever, counted, monkeypatch):
    images, disk = [encoded(n) for n in range(3)], retriever.image_cache
    retriever.image_cache = None
    first = retriever.encode(images)
    retriever.image_cache = disk
    np.testing.assert_array_equal(retriever.encode(images), first)
    forget(monkeypatch, counted)
    np.testing.assert_array_equal(retriever.encode(images), first)
    assert (counted["read"], counted["passes"]) == (0, 0)


@keeping
def test_states_come_back_to_the_last_bit(retriever, counted, monkeypatch):
    given, kept = {}, []
    monkeypatch.setattr(seen_images, "to_bytes", lambda one: kept.append(one) or to_bytes(one))
    retriever.encode([encoded(1)])
    monkeypatch.setattr(
        seen_images, "from_bytes", lambda data, device: given.setdefault("one", from_bytes(data, device))
    )
    forget(monkeypatch, counted)
    retriever.encode([encoded(1)])
    before, after = kept[0], given["one"]
    assert (before.ids, before.stacked) == (after.ids, after.stacked)
    assert torch.equal(before.states, after.states)
    assert before.states.dtype == after.states.dtype
    assert len(before.deeper) == len(after.deeper)
    assert all(torch.equal(a, b) for a, b in zip(before.deeper, after.deeper, strict=True))
    for one, other in ((before.per_token, after.per_token), (before.per_image, after.per_image)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@keeping
def test_other_weights_processing_and_number_types_see_anew(retriever, counted, monkeypatch):
    retriever.encode([encoded(5)])

    def misses():
        forget(monkeypatch, counted)
        retriever.encode([encoded(5)])
        return counted["passes"]

    decoder = {id(one) for one in retriever.model.get_decoder().parameters()}
    own = [p for p in retriever.model.parameters() if id(p) not in decoder]
    assert misses() == 0
    with torch.no_grad():
        for weight in (own[0], own[-1]):  # of the tower, and of what projects its outputs
            number = weight.view(-1)[-1].item()
            weight.view(-1)[-1] += 0.5  # one number is enough
            assert misses() == 1
            weight.view(-1)[-1] = number
            assert misses() == 0
        layer = next(retriever.model.get_decoder().layers[0].parameters())
        before = layer.clone()
        layer.mul_(1.5)
        assert misses() == 0  # the decoder's weights are none of it
        layer.copy_(before)
    processor = retriever.processor.image_processor
    monkeypatch.setattr(processor, "image_mean", [0.1, 0.2, 0.3])
    assert misses() == 1
    monkeypatch.undo()


def test_autocast_sees_anew(retriever, counted, monkeypatch):
    identities = {
        vision_identity.vision_identity(retriever.model, retriever.inputs, kind) for kind in (None, torch.bfloat16)
    }
    assert len(identities) == 2
    monkeypatch.setattr(retriever.model, "is_quantized", True, raising=False)
    assert vision_identity.vision_identity(retriever.model, retriever.inputs, None) is None
    retriever.encode([encoded(1)])
    assert len(retriever.image_cache) == 0


@keeping
def test_a_damaged_entry_is_absent(retriever, counted, monkeypatch):
    image, cache = encoded(5), retriever.image_cache
    expected = plain_vectors(retriever, [Item(image=image)])
    retriever.encode([image])
    (key,) = next(iter(cache._connection.execute("SELECT key FROM held")))
    for data in (b"", b"no safetensors", to_bytes(Seen((1,), {}, {}, torch.zeros(1, 2), (), True))[:-1]):
        cache.put({key: data})  # whole on the disk, and of another writer
        forget(monkeypatch, counted)
        np.testing.assert_allclose(retriever.encode([image]), expected, atol=1e-5)
        assert counted == {"read": 1, "passes": 1}


SECOND = """
import sys
import numpy as np
from puma.items import Item
from puma.retriever.model import Retriever
folder, cache, images, out = sys.argv[1:5]
retriever = Retriever.from_pretrained(folder, device="cpu", image_cache=cache)
passes, look = [], type(retriever.model).get_image_features
def looking(self, *args, **options):
    passes.append(1)
    return look(self, *args, **options)
looking.__wrapped__ = look
type(retriever.model).get_image_features = looking
found = np.load(images)
np.save(out, retriever.encode([found[name].tobytes() for name in found.files]))
print(len(passes))
"""


@pytest.mark.slow
def test_two_processes_share_a_folder(family_base, tmp_path):
    made = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu")
    made.save_pretrained(tmp_path / "model")
    images = [encoded(n) for n in range(40)]
    np.savez(tmp_path / "images.npz", *[np.frombuffer(image, dtype=np.uint8) for image in images])

    def started(name):
        words = [sys.executable, "-c", SECOND, tmp_path / "model", tmp_path / "cache", tmp_path / "images.npz"]
        return subprocess.Popen([*words, tmp_path / name], stdout=subprocess.PIPE, text=True)

    both = [started("a.npy"), started("b.npy")]
    counts = [one.communicate(timeout=120)[0].strip() for one in both]
    assert all(one.returncode == 0 for one in both)
    assert max(map(int, counts)) == 1
    third = started("c.npy")
    assert third.communicate(timeout=120)[0].strip() == "0"
    expected = plain_vectors(made, [Item(image=image) for image in images])
    for name in ("a.npy", "b.npy", "c.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), expected, atol=1e-5)


def test_a_place_that_cannot_be_written_is_told_before_the_model_loads(tmp_path, family_base, monkeypatch):
    Retriever.from_base(family_base("fast_vlm"), layers=2, device="cpu").save_pretrained(tmp_path / "model")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("puma.retriever.loading.load_retriever", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match=r"image_cache=.*file: is a file"):
        Retriever.from_pretrained(tmp_path / "model", image_cache=tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be written"):
        Retriever.from_pretrained(tmp_path / "model", image_cache=tmp_path / "file" / "below")


def test_a_bound_is_kept_and_a_broken_file_stops_nothing(tmp_path, family_base, caplog):
    made = Retriever.from_base(family_base("llava"), layers=2, device="cpu")
    made.save_pretrained(tmp_path / "model")
    cache = ImageCache(tmp_path / "cache", 2**20)
    made = Retriever.from_pretrained(tmp_path / "model", device="cpu", image_cache=cache)
    assert made.image_cache is cache
    images = [encoded(n) for n in range(300)]
    made.encode(images)
    assert 0 < len(cache) < 300
    assert cache.path.stat().st_size <= 2**20
    cache.close()
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(b"nothing of the kind " * 1000)
    with caplog.at_level(logging.WARNING):
        made.image_cache = ImageCache(tmp_path / "cache")
        found = made.encode(images[:4])
    np.testing.assert_allclose(found, plain_vectors(made, [Item(image=image) for image in images[:4]]), atol=1e-5)
    assert [record.message for record in caplog.records if FILE in record.message or "going on" in record.message]
    assert len(caplog.records) == 1
