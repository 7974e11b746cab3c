"""A disk that is too small: said before anything is embedded where the number of items is known, else before the part
that would fill it; what was embedded by then is kept."""

import json
import shutil

import numpy as np
import pytest

from puma.cli import app as cli
from puma.cli.commands import _room
from puma.errors import StorageError
from puma.evaluation.stored.resumable import made_with, opened_store
from puma.evaluation.stored.streamed import embed_stream
from puma.items import Item
from puma.items.digest import content_digest
from puma.retriever.prompts import PROMPT_FILE
from puma.storage.room import RESERVE, free_bytes, same_disk
from support.encoders import ToyEncoder

LINES, DIM = 1000, 32
VECTORS = LINES * DIM * 4


@pytest.fixture
def disk(monkeypatch):
    """Sets how much is free on every disk."""

    def set_free(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))

    return set_free


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"red green {number}\n" for number in range(LINES)))
    return path


@pytest.fixture
def loaded(monkeypatch):
    """The encoders that the command has loaded."""
    found = []

    def load(*_, **__):
        found.append(ToyEncoder())
        return found[-1]

    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", load)
    return found


def embed(source, out, *more):
    return cli.main(["embed", str(source), "--out", str(out), *more])


def test_a_known_number_of_items_is_refused_before_the_model_is_loaded(tmp_path, source, disk, loaded, capsys):
    model = tmp_path / "model"
    model.mkdir()
    (model / PROMPT_FILE).write_text("{}")
    (model / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 768}}))
    disk(RESERVE + VECTORS)  # enough for 32 numbers each, with the result, not for 768
    assert embed(source, tmp_path / "out.npz", "--model", str(model)) == 1
    told = capsys.readouterr().err
    assert "the vectors of about 1,000 items, 768 numbers each, need 5,529,600 bytes here" in told
    assert f"{RESERVE + VECTORS:,} are free" in told
    assert "--out" in told
    assert embed(source, tmp_path / "out.npz", "--model", "toy", "--dimensions", "64") == 1
    assert "64 numbers each" in capsys.readouterr().err
    assert loaded == []


def test_where_only_the_loaded_model_knows_its_length_nothing_is_embedded(tmp_path, source, disk, loaded, capsys):
    disk(RESERVE + VECTORS)  # not enough for the vectors and for the file that is made of them
    assert embed(source, tmp_path / "out.npz", "--model", "toy") == 1
    assert "need 230,400 bytes here" in capsys.readouterr().err
    assert [encoder.calls for encoder in loaded] == [0]
    disk(RESERVE + 2 * VECTORS)
    assert embed(source, tmp_path / "out.npz", "--model", "toy") == 0


def test_two_disks_need_the_vectors_once_each(tmp_path, monkeypatch):
    free = {"out.npz": 10**9, "work": RESERVE + VECTORS}
    monkeypatch.setattr(_room, "same_disk", lambda *_: False)
    monkeypatch.setattr(_room, "free_bytes", lambda path: free[path.name])
    out, work = tmp_path / "out.npz", tmp_path / "work"
    _room.check_room(LINES, DIM, out, work)
    free["work"] = RESERVE
    with pytest.raises(StorageError, match=r"work: .*--work"):
        _room.check_room(LINES, DIM, out, work)
    free |= {"work": 10**9, "out.npz": RESERVE}
    with pytest.raises(StorageError, match=r"out\.npz: .*--out"):
        _room.check_room(LINES, DIM, out, work)


def test_what_an_interrupted_run_has_made_needs_no_more_room(tmp_path, disk):
    rows = tmp_path / "work" / "embed-0" / "items" / "rows"
    rows.parent.mkdir(parents=True)
    disk(RESERVE + VECTORS)
    with pytest.raises(StorageError):
        _room.check_room(LINES, DIM, tmp_path / "out.npz", tmp_path / "work")
    rows.write_bytes(b"1" * VECTORS)
    _room.check_room(LINES, DIM, tmp_path / "out.npz", tmp_path / "work")


def test_a_disk_that_fills_up_stops_before_the_next_part_and_the_same_goes_on(tmp_path, monkeypatch, disk):
    items = [Item(f"red green {number}") for number in range(17)]
    part = 5 * DIM * 4
    left = iter([RESERVE + part, RESERVE + part, RESERVE + part - 1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": next(left)}))

    def embedded(encoder, chosen):
        found = ((item, content_digest(item)) for item in chosen)
        with opened_store(tmp_path, "test", made_with(encoder, 5)) as store:
            done = embed_stream(encoder, store, "items", found, part_size=5, progress=False)
            return np.array(done[0])

    with pytest.raises(
        StorageError, match=r"needs 640 bytes.*33,555,071 that are free.*33,554,432.*all vectors made so"
    ):
        embedded(ToyEncoder(), items)
    disk(RESERVE + part)
    again = ToyEncoder()
    np.testing.assert_allclose(embedded(again, items), ToyEncoder().encode(items), rtol=0, atol=1e-6)
    assert again.calls == 7
    disk(0)  # a part that is made again lies where it lay
    items[2] = Item("blue")
    changed = ToyEncoder()
    np.testing.assert_allclose(embedded(changed, items), ToyEncoder().encode(items), rtol=0, atol=1e-6)
    assert changed.calls == 5


def test_a_place_that_is_not_there_yet_is_on_the_disk_of_the_folder_above_it(tmp_path):
    below = tmp_path / "a" / "b" / "c.npz"
    assert same_disk(below, tmp_path)
    assert free_bytes(below) > 0
