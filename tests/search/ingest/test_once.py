"""An ingest opens the index once, walks a folder once, reads a file once and encodes a payload once."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.errors import InputError
from puma.index import Index, lance
from puma.items import Item
from puma.search import Searcher
from puma.search.ingest import content_digest, read_items
from puma.search.ingest.prepared import PreparedPaths
from support.encoders import ToyEncoder


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for shade, name in enumerate(("a.png", "b.png", "deep/c.png")):
        Image.new("RGB", (8, 8), (255, 60 * shade, 0)).save(folder / name)
        os.utime(folder / name, (1_700_000_000.5, 1_700_000_000.5))
    (folder / "notes.md").write_text("ignored")
    return folder


@pytest.fixture
def counted(monkeypatch):
    """How often an index was opened, a folder walked, a file read, a dict of a payload encoded."""
    counts = Counter()

    def count(target, name, kind):
        plain = getattr(target, name)

        def counting(*given, **options):
            counts[kind(given[0])] += 1
            return plain(*given, **options)

        monkeypatch.setattr(target, name, counting)

    count(lance, "LanceEngine", lambda folder: ("open", Path(folder).name))
    count(os, "walk", lambda path: ("walk", Path(path).name))
    count(Path, "read_bytes", lambda path: ("read", path.name))
    count(json, "dumps", lambda value: ("encode", Path(value["image"]).name) if "image" in value else ("other", ""))
    return counts


def test_sync_opens_walks_reads_and_encodes_once(folder, tmp_path, counted):
    Searcher(ToyEncoder(), tmp_path / "i").add(["a text"])
    for round_ in range(2):
        counted.clear()
        index = Index(tmp_path / "i")
        searcher = Searcher(ToyEncoder(), index)
        assert searcher.index is index
        added = searcher.add_prepared(PreparedPaths(index, [folder], sync=True))
        assert (added.embedded, added.present, added.ignored) == ((3, 0, 1), (0, 3, 1))[round_]
        del counted["other", ""]
        names = ("a.png", "b.png", "c.png")
        once = {(kind, name): 1 for kind in ("read", "encode") for name in names if round_ == 0}
        assert counted == {("open", "i"): 1, ("walk", "images"): 1} | once
    assert searcher.index.verify() == []


def test_what_is_embedded_is_what_was_digested(folder, tmp_path):
    """A file that changes while the ingest runs does not leave a row whose vector is of other content."""

    class Changing(ToyEncoder):
        def encode(self, items, *, instruction=None):
            Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "a.png")
            return super().encode(items, instruction=instruction)

    digest = content_digest(Item(image=folder / "a.png"))
    before = ToyEncoder().encode([Item(image=(folder / "a.png").read_bytes())])[0]
    searcher = Searcher(Changing(), tmp_path / "i")
    searcher.add_paths([folder / "a.png"], progress=False)
    row = searcher.index.get([digest])[digest]
    assert np.allclose(row.vector, before, atol=1e-6)


def test_a_broken_image_is_still_called_by_its_path(folder, tmp_path):
    (folder / "a.png").write_bytes(b"no image")
    added = Searcher(ToyEncoder(), tmp_path / "i").add_paths([folder], progress=False)
    assert [(skip.where, "not an image" in skip.reason) for skip in added.skips] == [(str(folder / "a.png"), True)]


def test_records_that_are_listed_hold_no_files(folder):
    assert all(getattr(entry, "file", None) is None for entry in read_items([folder]))


def test_paths_prepared_for_another_index_are_refused(folder, tmp_path):
    prepared = PreparedPaths(Index(tmp_path / "one"), [folder])
    with pytest.raises(InputError, match="for index"):
        Searcher(ToyEncoder(), tmp_path / "two").add_prepared(prepared)


def test_skips_of_given_items_say_their_position(folder, tmp_path):
    given = ["a text", folder / "gone.png", b"broken", folder / "a.png"]
    added = Searcher(ToyEncoder(), tmp_path / "i").add(given)
    assert sorted(skip.position for skip in added.skips) == [1, 2]
    assert [name is None for name in added.ids] == [False, True, True, False]


def test_files_of_given_items_are_read_when_their_batch_comes(folder, tmp_path, counted):
    class Counting(ToyEncoder):
        def encode(self, items, *, instruction=None):
            assert sum(count for (kind, _), count in counted.items() if kind == "read") <= self.calls + 3
            return super().encode(items, instruction=instruction)

    paths = [folder / "a.png", folder / "b.png", folder / "deep" / "c.png"]
    many = [Item(text=f"{n}", image=paths[n % 3]) for n in range(30)]
    added = Searcher(Counting(), tmp_path / "i").add(many, batch_size=1)
    del counted["other", ""]
    assert added.embedded == 30
    assert sum(count for (kind, _), count in counted.items() if kind == "read") == 30


def test_a_payload_that_cannot_be_stored_is_refused_before_anything_is(tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "i")
    with pytest.raises(InputError, match="cannot be written as JSON"):
        searcher.add(["a", "b"], payloads=[None, {"x": object()}], batch_size=1)
    with pytest.raises(InputError, match="not valid Unicode"):
        searcher.add(["a", "\ud800"], payloads=[None, {"x": 1}], batch_size=1)
    assert len(searcher.index) == 0
