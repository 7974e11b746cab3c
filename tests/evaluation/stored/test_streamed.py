"""Items embedded as they are read: once, in parts within a bound of memory, and again only where they changed."""

import numpy as np
import pytest

from puma.cli import app as cli
from puma.evaluation.stored import streamed
from puma.evaluation.stored.resumable import made_with, opened_store
from puma.evaluation.stored.streamed import embed_stream
from puma.items import Item
from puma.items.digest import content_digest, read_content
from puma.items.encoder import embed_readable
from puma.items.opening import FileBytes
from support.embedding_child import Batched
from support.encoders import ToyEncoder
from support.objects import Bucket
from support.served import png

TEXTS = [f"red green {number}" for number in range(17)]


def embedded(folder, encoder, items, **options):
    drawn = []

    def found():
        for item in items:
            drawn.append(item)
            yield item, content_digest(item)

    with opened_store(folder, "test", made_with(encoder, 5)) as store:
        vectors, readable, faults = embed_stream(
            encoder, store, "items", found(), part_size=5, progress=False, **options
        )
        assert drawn == items
        return np.array(vectors), readable, faults


def test_the_vectors_are_those_of_one_pass_and_only_changed_parts_are_made_again(tmp_path):
    items = [Item(text) for text in TEXTS]
    expected = embed_readable(Batched(), items, instruction="Find it.", batch_size=5)
    first = embedded(tmp_path, Batched(), items, instruction="Find it.", total=3)
    np.testing.assert_array_equal(first[0], expected[0])
    assert (first[1].all(), first[2]) == (True, [])
    again = Batched()
    np.testing.assert_array_equal(embedded(tmp_path, again, items, instruction="Find it.")[0], expected[0])
    assert again.calls == 0
    changed = Batched()
    items[7] = Item("blue")
    vectors = embedded(tmp_path, changed, items, instruction="Find it.")[0]
    assert changed.calls == 5
    np.testing.assert_array_equal(vectors, embed_readable(Batched(), items, instruction="Find it.", batch_size=5)[0])
    # Fewer items than before, and none: what an earlier run wrote behind them is not given.
    fewer = Batched()
    np.testing.assert_array_equal(embedded(tmp_path, fewer, items[:10], instruction="Find it.")[0], vectors[:10])
    assert (fewer.calls, embedded(tmp_path, fewer, [])[0].shape) == (0, (0, 32))
    assert embedded(tmp_path, other := Batched(), items[:10])[0].shape == (10, 32)
    assert other.calls == 10  # without the instruction


def test_a_part_ends_where_its_images_are_too_large_together(tmp_path, monkeypatch):
    data = [png((40 * number, 90, 10)) for number in range(6)]
    monkeypatch.setattr(streamed, "HELD_BYTES", 2 * len(data[0]))
    items = [Item(image=FileBytes(one, f"{number}.png")) for number, one in enumerate(data)]
    items[4] = Item(image=FileBytes(b"no image", "four.png"))
    batches = []

    class Noting(ToyEncoder):
        def encode(self, items, *, instruction=None):
            batches.append(len(items))
            return super().encode(items, instruction=instruction)

    vectors, readable, faults = embedded(tmp_path, Noting(), items)
    assert batches[0] == 3
    assert [place for place, _ in faults] == [4]
    assert "four.png" in faults[0][1]
    assert readable.tolist() == [True] * 4 + [False, True]
    np.testing.assert_array_equal(vectors[5], ToyEncoder().encode([items[5]])[0])
    assert embedded(tmp_path, Noting(), items)[2] == faults  # kept with its reason


def test_the_command_fetches_each_object_once(tmp_path, monkeypatch, capsys):
    pytest.importorskip("obstore", reason="needs the extra object-store")
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())
    bucket = Bucket(monkeypatch)
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(12):
        (folder / f"deep/{number}.png").write_bytes(png((20 * number, 90, 10)))
    (folder / "bad.png").write_bytes(b"no")
    address = bucket.upload(folder, "photos")
    for place, out in ((folder, "here.npz"), (address, "there.npz")):
        assert cli.main(["embed", str(place), "--out", str(tmp_path / out), "--model", "toy"]) == 0
        output = capsys.readouterr()
        assert "12 vectors of length 32, 1 skipped" in output.out
        assert f"{place}/bad.png" in output.err
    assert sorted(bucket.got) == sorted(f"photos/{path.relative_to(folder)}" for path in folder.rglob("*.png"))
    with np.load(tmp_path / "here.npz") as here, np.load(tmp_path / "there.npz") as there:
        for name in ("ids", "modalities", "vectors"):
            np.testing.assert_array_equal(here[name], there[name])


def test_each_image_is_read_from_the_bytes_that_its_digest_is_of(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(png((255, 0, 0)))
    content, file = read_content(Item(image=path))
    path.write_bytes(png((0, 0, 255)))
    with opened_store(tmp_path / "work", "test", made_with(ToyEncoder(), 5)) as store:
        found = [(Item(image=file), content)]
        vectors = embed_stream(ToyEncoder(), store, "items", found, part_size=5, progress=False)[0]
        np.testing.assert_array_equal(vectors, ToyEncoder().encode([Item(image=png((255, 0, 0)))]))
