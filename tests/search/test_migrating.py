"""An index gets another model: against one filled anew, under kills, while others write, behind a running service."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from puma.cli import app as cli
from puma.errors import InputError, StorageError
from puma.index import Index, Place
from puma.index.addresses import generations_of
from puma.index.generation_notes import CURRENT
from puma.search import Searcher
from puma.search.ingest import unchanged
from puma.search.migrating import migrate
from puma.serve import following
from support import migration_child
from support.encoders import ToyEncoder
from support.engines import ENGINES, placed
from support.served import served

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def old():
    return ToyEncoder(32, "toy-1")


def new():
    return ToyEncoder(48, "toy-2")


@pytest.fixture(autouse=True)
def files_settled(monkeypatch):
    """Files that were just written are remembered too."""
    monkeypatch.setattr(unchanged, "FINE_CLOCK", -1)
    monkeypatch.setattr(unchanged, "COARSE_CLOCK", -1)


@pytest.fixture
def things(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    (folder / "captions.jsonl").write_text(
        '{"text": "green tea", "image": "green.png"}\n{"text": "red fox", "year": 3}\n'
    )
    return folder


def engines(*without):
    """All but some."""
    return [engine for engine in ENGINES if getattr(engine, "values", (engine,))[0] not in without]


@pytest.fixture(params=engines())
def where(request, tmp_path):
    """Makes addresses on all engines."""
    return placed(request, request.param, tmp_path)


@pytest.fixture
def filled(where, things):
    Searcher(old(), where("my")).add_paths([things], progress=False)
    index = Index(where("my"))
    name = next(row.id for row in index.page(9) if row.payload.get("text") == "red fox")
    index.add_places([Place("/elsewhere", name, '{"text": "red fox", "year": 4}')])
    return index


def rows_of(index):
    return {
        row.id: (
            row.modality,
            row.payload,
            row.content,
            row.thumbnail,
            row.other_payloads,
            np.round(row.vector, 5).tolist(),
        )
        for row in index.page(10_000)
    }


def names_of_two_generations(where):
    if where.engine in ("lancedb", "s3"):
        tables = (f"{name}.lance" for name in ("items", "places", "sources", "stamps", "thumbnails"))
        return [*tables, "gen-2"]
    first = where("my").rpartition("/")[2]
    return [f"{first}_companions", first, f"{first}__gen2_companions", f"{first}__gen2"]


def test_it_becomes_the_index_that_the_new_model_would_have_filled(where, things, filled):
    before = rows_of(filled)
    done = migrate(filled.address, new(), "toy-2", progress=False)
    assert (done.embedded, done.present, done.from_thumbnails, done.skips, done.generation) == (5, 0, 0, [], 2)
    migrated = Index(filled.address)
    assert (migrated.dim, migrated.fingerprint) == (48, "toy-2")
    Searcher(new(), where("anew")).add_paths([things], progress=False)
    anew = Index(where("anew"))
    anew.add_places(migrated.places(["/elsewhere"]))
    assert rows_of(migrated) == rows_of(anew)
    assert migrated.sources(["/"]) - {("/elsewhere", name) for name in rows_of(migrated)} == anew.sources([str(things)])
    assert migrated.stamps([str(things)]) == anew.stamps([str(things)])
    assert {row.id: migrated.thumbnail(row.id) for row in anew.page(9)} == {
        row.id: anew.thumbnail(row.id) for row in anew.page(9)
    }
    assert migrated.verify() == []
    # Who had it open goes on with the old vectors, and may not write to them.
    assert rows_of(filled) == before
    with pytest.raises(StorageError, match=r"was changed to another model meanwhile.*; nothing was written"):
        filled.add(["x"], np.eye(32)[:1], ["text"])
    # What is added afterwards knows all that was there.
    again = Searcher(new(), filled.address).add_paths([things], progress=False)
    assert (again.embedded, again.present) == (0, 5)
    third = migrate(filled.address, ToyEncoder(16, "toy-3"), "toy-3", progress=False)
    assert third.generation == 3
    generations = generations_of(filled.address)
    assert generations.drop_old() == names_of_two_generations(where)
    assert Index(filled.address).fingerprint == "toy-3"
    assert generations.drop_old() == []
    with pytest.raises(StorageError):
        filled.add(["x"], np.eye(32)[:1], ["text"])


def test_files_that_are_gone_are_taken_from_thumbnails_and_what_is_lost_is_named(things, filled):
    (things / "blue.png").unlink()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(things / "red.png")
    filled.add(["secret"], np.eye(32)[:1], ["text"], [{"note": "its text was never stored"}])
    with pytest.raises(InputError, match=r"1 items cannot be made anew \(secret: its text is not in the index\)"):
        migrate(filled.address, new(), "toy-2", progress=False)
    assert Index(filled.address).fingerprint == "toy-1"
    done = migrate(filled.address, new(), "toy-2", leave_out=True, progress=False)
    assert (done.embedded, done.present) == (0, 5)
    assert [skip.where for skip in done.skips] == ["secret"]
    migrated = Index(filled.address)
    assert len(migrated) == 5
    red = Searcher(new(), migrated).search("red", 1, "image")[0]
    assert red.payload["image"].endswith("red.png")
    assert migrated.verify() == []


def test_what_others_add_and_remove_meanwhile_is_followed(filled):
    class Meanwhile(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if self.calls < 3:
                other = Searcher(old(), filled.address)
                other.add([f"a late text {self.calls}"])
                other.index.delete([other.index.page(1)[0].id])
            return super().encode(items, instruction=instruction)

    migrate(filled.address, Meanwhile(48, "toy-2"), "toy-2", batch_size=2, progress=False)
    migrated = Index(filled.address)
    assert {row.id for row in migrated.page(99)} == {row.id for row in filled.page(99)}
    texts = {row.payload.get("text") for row in migrated.page(99)}
    assert any(str(text).startswith("a late text") for text in texts)


def test_of_two_migrations_at_once_the_later_one_changes_nothing(filled):
    class Nested(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if not self.calls:
                self.calls = 1
                migrate(filled.address, new(), "toy-2", progress=False)
                Searcher(new(), filled.address).add(["added after the change"])
            return super().encode(items, instruction=instruction)

    with pytest.raises(StorageError, match="another migration has changed the model meanwhile"):
        migrate(filled.address, Nested(48, "toy-2"), "toy-2", progress=False)
    texts = {row.payload.get("text") for row in Index(filled.address).page(99)}
    assert "added after the change" in texts
    assert len(Index(filled.address)) == 6


def test_refusals(filled, where):
    with pytest.raises(InputError, match="holds the vectors of this model already"):
        migrate(filled.address, old(), "toy-1", progress=False)
    with pytest.raises(InputError, match="no index there"):
        migrate(where("none"), new(), "toy-2", progress=False)
    generations = generations_of(filled.address)
    generations.begin("toy-3", "toy-3")
    with pytest.raises(InputError, match="a migration to toy-3 is under way"):
        migrate(filled.address, new(), "toy-2", progress=False)
    generations.abandon()
    assert generations.filling() is None
    migrate(filled.address, new(), "toy-2", progress=False)
    assert (generations.current().number, generations.filling()) == (2, None)


def test_a_damaged_note_is_named(tmp_path):
    Searcher(old(), tmp_path / "my.index").add(["a text"])
    (tmp_path / "my.index" / CURRENT).write_text("{")
    with pytest.raises(StorageError, match="is not what 'puma index migrate' writes"):
        Index(tmp_path / "my.index")


@pytest.mark.parametrize("where", engines("lancedb"), indirect=True)  # writers of a folder wait for its lock
def test_a_write_during_the_change_is_not_acknowledged(filled):
    """Milvus has no lock, and the lease in an object store can be lost: who wrote while the old rows were being closed
    must learn that the write does not count."""
    generations = generations_of(filled.address)
    used = generations.current()

    class Closing(ToyEncoder):
        def encode(self, items, *, instruction=None):
            self.change = generations.closed(used)
            self.change.__enter__()
            return super().encode(items, instruction=instruction)

    writer = Closing(32, "toy-1")
    with pytest.raises(StorageError, match="is being changed now; nothing was written"):
        Searcher(writer, filled.address).add(["a late text"])
    assert not writer.change.__exit__(KeyError, KeyError(), None)  # a change that fails lets writers go on
    Searcher(old(), filled.address).add(["a late text"])
    rows, change = filled._engine._merge_rows, generations.closed(used)

    def while_it_closes(new_rows):
        rows(new_rows)
        change.__enter__()

    filled._engine._merge_rows = while_it_closes
    with pytest.raises(StorageError, match="what was just written is not in it"):
        filled.add(["late"], np.eye(32)[:1], ["text"])
    # What an unfinished change has left is taken back.
    generations.abandon()
    filled._engine._merge_rows = rows
    filled.add(["late"], np.eye(32)[:1], ["text"])


@pytest.mark.parametrize("where", engines("lancedb"), indirect=True)  # the lock of a folder ends with its process
def test_a_killed_change_is_finished_by_the_same_command(filled):
    generations = generations_of(filled.address)
    change = generations.closed(generations.current())
    change.__enter__()  # and never left
    with pytest.raises(StorageError, match="is being changed now"):
        filled.delete([filled.page(1)[0].id])
    migrate(filled.address, new(), "toy-2", progress=False)
    assert (Index(filled.address).fingerprint, len(Index(filled.address))) == ("toy-2", 5)


@pytest.mark.parametrize("where", engines("milvus-lite"), indirect=True)  # whose files belong to one process
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_lose_nothing_and_the_old_model_serves_throughout(where, kills):
    address = where("my")
    searcher = Searcher(old(), address)
    texts = [f"text number {n} of many words" for n in range(40)]
    searcher.add(texts)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(migration_child.__file__), address]
    pauses, unfinished = random.Random(0), 0
    for _ in range(kills):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdout.readline() == "begun\n"
        time.sleep(pauses.uniform(0, 0.6))
        child.kill()
        child.communicate()
        index = Index(address)
        encoder = old() if index.fingerprint == "toy-1" else new()
        assert Searcher(encoder, index).search(texts[7], 1)[0].payload["text"] == texts[7]
        assert len(index) == 40
        unfinished += index.fingerprint == "toy-1"
    assert unfinished >= 2
    if Index(address).fingerprint == "toy-1":
        subprocess.run(command, check=True, env=environment, capture_output=True)
    migrated = Index(address)
    assert (migrated.fingerprint, len(migrated), migrated.verify()) == ("toy-2", 40, [])
    assert Searcher(new(), migrated).search(texts[3], 1)[0].payload["text"] == texts[3]


def test_a_running_service_follows(filled, monkeypatch):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.05)
    loaded = []

    def load(name):
        loaded.append(name)
        return new()

    green = Searcher(old(), filled.address).search("green", 1, "image")[0].id
    with served(Searcher(old(), filled.address), load=load, timeout_s=5.0) as address:
        assert httpx.get(f"{address}/v1/models").json()["data"][0]["fingerprint"] == "toy-1"
        migrate(filled.address, new(), "models/toy-2", progress=False)
        end = time.monotonic() + 30
        seen = set()
        while "toy-2" not in seen and time.monotonic() < end:
            answer = httpx.post(f"{address}/search", json={"text": "green", "modality": "image", "k": 1})
            assert answer.status_code == 200, answer.text
            assert answer.json()["hits"][0]["id"] == green
            seen.add(httpx.get(f"{address}/v1/models").json()["data"][0]["fingerprint"])
        assert "toy-2" in seen
        assert loaded == ["models/toy-2"]
        vector = httpx.post(f"{address}/v1/embeddings", json={"input": "green"}).json()["data"][0]["embedding"]
        assert len(vector) == 48


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_serving(filled, monkeypatch, caplog):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.05)

    def load(name):
        raise InputError(f"{name}: no such model")

    green = Searcher(old(), filled.address).search("green", 1, "image")[0].id
    with served(Searcher(old(), filled.address), load=load) as address:
        migrate(filled.address, new(), "gone", progress=False)
        end = time.monotonic() + 20
        while "cannot be served" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        assert "the old one goes on: gone: no such model" in caplog.text
        answer = httpx.post(f"{address}/search", json={"text": "green", "modality": "image", "k": 1})
        assert answer.json()["hits"][0]["id"] == green


def test_the_command(filled, capsys, monkeypatch):
    monkeypatch.setattr("puma.cli.commands._migrating.load_retriever", lambda *_, **__: new())
    monkeypatch.setattr("puma.cli.commands._migrating.model_path", lambda _: "toy-2")

    def run(*arguments):
        code = cli.main([str(argument) for argument in ("index", "migrate", filled.address, *arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert run()[0] == 2
    code, _, err = run("--model", "toy-2", "--drop-old")
    assert (code, "embed nothing" in err) == (2, True)
    code, out, err = run("--model", "toy-2")
    assert (code, "5 embedded, 0 there already; 5 items, now with toy-2" in out) == (0, True)
    assert "--drop-old" in err
    code, out, _ = run("--drop-old")
    assert (code, out.startswith(f"{filled.address}: removed of earlier models: ")) == (0, True)
    generations_of(filled.address).begin("toy-3", "fingerprint of toy-3")
    assert run("--abandon")[:2] == (0, f"{filled.address}: the unfinished migration was removed\n")
    assert run("--abandon")[:2] == (0, f"{filled.address}: there is no unfinished migration\n")
    assert len(Index(filled.address)) == 5
