"""A service of several indexes when one of them, and then the next, gets another model: real small models under load,
and what of it can be seen with toy encoders."""

import contextlib
import json
import threading
import time
import weakref
from dataclasses import replace

import httpx
import numpy as np
import pytest

from puma.cli import app as cli
from puma.errors import IndexMismatchError, InputError
from puma.index import Index
from puma.items import Item
from puma.retriever.model import Retriever
from puma.search import Searcher
from puma.search.cutoffs import CUTOFFS_FILE
from puma.search.migrating import migrate
from puma.serve import ServeSettings, create_app, following
from puma.serve.following import noted_model, searchers_of
from support.encoders import ToyEncoder
from support.served import running, served

TEXTS = [f"a red fox and {n} blue hearts" for n in range(12)]
WAIT_S = 60.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.05)


@pytest.fixture(scope="module")
def models(base, tmp_path_factory):
    """The folders of two models, which differ in depth."""
    folders = {}
    for name, layers in (("shallow", 1), ("deep", 2)):
        folders[name] = str(tmp_path_factory.mktemp("models") / name)
        Retriever.from_base(base, layers=layers, prompt="open-quote", device="cpu").save_pretrained(folders[name])
    return folders


def load_here(folder):
    return Retriever.from_pretrained(folder, device="cpu")


def until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


@contextlib.contextmanager
def asked_throughout(address, names):
    """Clients that search each index without a pause. Each text must find itself with a cosine of 1, which vectors of
    two models do not give. Yields a list of what went wrong and the number of answers by index."""
    wrong, answers, done = [], dict.fromkeys(names, 0), threading.Event()

    def ask(name):
        with httpx.Client(base_url=address, timeout=60) as client:
            while not done.is_set():
                text = TEXTS[answers[name] % len(TEXTS)]
                answer = client.post("/search", json={"text": text, "index": name, "k": 1, "instruction": ""})
                found = answer.json()["hits"][0] if answer.status_code == 200 else {"id": answer.text, "score": 0}
                if found["id"] != text.replace(" ", "-") or found["score"] < 0.9999:
                    wrong.append((name, text, found["id"], found["score"]))
                answers[name] += 1

    threads = [threading.Thread(target=ask, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield wrong, answers
    finally:
        done.set()
        for thread in threads:
            thread.join(WAIT_S)


def fill(searcher):
    searcher.add(TEXTS, [text.replace(" ", "-") for text in TEXTS])
    return searcher


def filled(encoder, folder):
    return {name: fill(Searcher(encoder, folder / f"{name}.index")) for name in ("birds", "trees")}


def test_indexes_of_a_running_service_change_their_model_one_after_the_other(models, tmp_path):
    loaded = []

    def load(name):
        loaded.append(name)
        return load_here(name)

    searchers = filled(load_here(models["deep"]), tmp_path)
    first = weakref.ref(searchers["birds"].encoder)
    shallow = load_here(models["shallow"])
    assert shallow.fingerprint != first().fingerprint
    app = create_app(searchers, load=load)
    own = app.state.service
    del searchers
    with running(app) as address:
        with asked_throughout(address, ("birds", "trees")) as (wrong, answers):

            def model_of_embeddings():
                return httpx.get(f"{address}/v1/models").json()["data"][0]["fingerprint"]

            until(lambda: min(answers.values()) > 3)
            for name in ("trees", "birds"):
                migrate(tmp_path / f"{name}.index", shallow, models["shallow"], progress=False)
                until(lambda name=name: own.index(name).model.fingerprint == shallow.fingerprint)
                seen = min(answers.values())
                until(lambda seen=seen: min(answers.values()) > seen + 3)
                # What is not about one index follows the first one, which is the last to change here.
                assert model_of_embeddings() == (first().fingerprint if name == "trees" else shallow.fingerprint)
                fingerprints = {
                    entry["name"]: entry["fingerprint"] for entry in httpx.get(f"{address}/indexes").json()["indexes"]
                }
                assert fingerprints["trees"] == shallow.fingerprint
                assert fingerprints["birds"] == (first().fingerprint if name == "trees" else shallow.fingerprint)
                assert len(own.models) == 2
                for each in ("birds", "trees"):
                    items = [{"id": f"after-{name}", "text": f"a new {name}"}]
                    added = httpx.post(f"{address}/items", json={"index": each, "items": items}, timeout=60)
                    assert added.json()["embedded"] == 1, added.text
            answer = httpx.post(f"{address}/v1/embeddings", json={"input": "a red fox"}, timeout=60).json()
            np.testing.assert_allclose(
                answer["data"][0]["embedding"], shallow.encode([Item("a red fox")])[0], rtol=0, atol=1e-6
            )
        own.settings = replace(own.settings, timeout_s=0.1)  # nobody waits for an answer any more
        until(lambda: len(own.models) == 1)
        assert loaded == [models["shallow"]]
        until(lambda: first() is None)
    assert wrong == []
    for name in ("birds", "trees"):
        index = Index(tmp_path / f"{name}.index")
        assert (index.fingerprint, len(index), index.verify()) == (shallow.fingerprint, len(TEXTS) + 2, [])


def test_what_was_accepted_before_is_answered_by_the_old_model(tmp_path):
    class Gated(ToyEncoder):
        gate, entered = threading.Event(), threading.Event()

        def encode(self, items, *, instruction=None):
            if any(item.text == "held" for item in items):
                self.entered.set()
                assert self.gate.wait(WAIT_S)
            return super().encode(items, instruction=instruction)

    searchers = filled(Gated(), tmp_path)
    app = create_app(searchers, settings=ServeSettings(), load=lambda _: ToyEncoder(48, "toy-2"))
    own = app.state.service
    with running(app) as address:
        answers = {}

        def ask(path, body):
            answers[path] = httpx.post(f"{address}{path}", json=body, timeout=60)

        held = [
            threading.Thread(target=ask, args=["/search", {"text": "held", "k": 2}]),
            threading.Thread(target=ask, args=["/v1/embeddings", {"input": ["red", "blue"]}]),
        ]
        held[0].start()
        assert Gated.entered.wait(WAIT_S)
        held[1].start()
        until(lambda: own.main.batcher.depth == 2)
        migrate(tmp_path / "birds.index", ToyEncoder(48, "toy-2"), "toy-2", progress=False)
        until(lambda: own.main.fingerprint == "toy-2")
        new = httpx.post(f"{address}/v1/embeddings", json={"input": "red"}).json()
        assert len(new["data"][0]["embedding"]) == 48
        Gated.gate.set()
        for thread in held:
            thread.join(WAIT_S)
    assert {answer.status_code for answer in answers.values()} == {200}
    assert len(answers["/search"].json()["hits"]) == 2
    assert [len(row["embedding"]) for row in answers["/v1/embeddings"].json()["data"]] == [32, 32]


def test_one_model_that_cannot_be_loaded_holds_up_only_its_index(tmp_path, caplog):
    def load(name):
        if name == "gone":
            raise InputError(f"{name}: no such model")
        return ToyEncoder(48, name)

    with served(filled(ToyEncoder(), tmp_path), load=load) as address:
        migrate(tmp_path / "birds.index", ToyEncoder(40, "gone"), "gone", progress=False)
        until(lambda: "the old one goes on: gone: no such model" in caplog.text)
        migrate(tmp_path / "trees.index", ToyEncoder(48, "toy-2"), "toy-2", progress=False)
        until(lambda: "now served with toy-2" in caplog.text)
        for name in ("birds", "trees"):
            answer = httpx.post(f"{address}/search", json={"text": TEXTS[5], "index": name, "k": 1})
            assert answer.json()["hits"][0]["text"] == TEXTS[5]


def test_an_index_that_changed_while_the_service_started_is_followed(tmp_path, caplog):
    searchers = filled(ToyEncoder(), tmp_path)
    migrate(tmp_path / "trees.index", ToyEncoder(48, "toy-2"), "toy-2", progress=False)
    with served(searchers, load=lambda name: ToyEncoder(48, name)):
        until(lambda: "trees.index: now served with toy-2" in caplog.text)
    assert "birds.index" not in caplog.text


def test_a_service_starts_with_the_models_that_migrations_have_noted(tmp_path):
    old, loaded = ToyEncoder(), []

    def load(name):
        loaded.append(name)
        return ToyEncoder(48, name)

    filled(old, tmp_path)
    fill(Searcher(old, tmp_path / "roads.index"))
    names = ("birds", "trees", "roads")
    for name in ("birds", "trees"):
        migrate(tmp_path / f"{name}.index", ToyEncoder(48, "toy-2"), "toy-2", progress=False)

    def indexes(*names):
        return {name: Index(tmp_path / f"{name}.index", create=False) for name in names}

    searchers = searchers_of(old, indexes(*names), load)
    assert (list(searchers), loaded) == (list(names), ["toy-2"])
    assert searchers["birds"].encoder is searchers["trees"].encoder
    assert [noted_model(searcher.index) for searcher in searchers.values()] == ["toy-2", "toy-2", ""]
    own = create_app(searchers, encoder=old).state.service
    assert ([model.fingerprint for model in own.models], own.main.fingerprint) == (["toy-2", "toy-1"], "toy-2")
    with served(searchers) as address:
        for name in names:
            answer = httpx.post(f"{address}/search", json={"text": TEXTS[5], "index": name, "k": 1})
            assert answer.json()["hits"][0]["text"] == TEXTS[5]
    # A model that made none of them is a mistake; so is an index of which nobody knows the model.
    with pytest.raises(IndexMismatchError, match=r"birds\.index"):
        searchers_of(old, indexes("birds", "trees"), load)
    Searcher(ToyEncoder(8, "toy-8"), tmp_path / "rivers.index").add(["a river"])
    with pytest.raises(IndexMismatchError, match=r"rivers\.index"):
        searchers_of(old, indexes("roads", "rivers"), load)
    assert loaded == ["toy-2"]


def test_the_command_starts_with_several_models(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("puma.cli.commands.serve.load_retriever", lambda name, **_: ToyEncoder(32, name or "toy-1"))
    started = []
    monkeypatch.setattr("puma.serve.server.run", lambda app, *_, **__: started.append(app) or 0)
    filled(ToyEncoder(), tmp_path)
    folder = tmp_path / "toy-2"
    folder.mkdir()
    row = {"query": "text", "wanted": None, "hit": "text", "score": 0.5}
    (folder / CUTOFFS_FILE).write_text(json.dumps({"models": {str(folder): {"cutoffs": [row]}}}))
    migrate(tmp_path / "trees.index", ToyEncoder(32, str(folder)), str(folder), progress=False)
    addresses = [str(tmp_path / f"{name}.index") for name in ("birds", "trees")]
    assert cli.main(["serve", *addresses, "--port", "0"]) == 0
    assert f"trees: served with the model of its last migration, {folder}" in capsys.readouterr().err
    own = started[0].state.service
    assert [index.model.fingerprint for index in own.indexes.values()] == ["toy-1", str(folder)]
    assert own.index("birds").cutoffs is None
    assert own.index("trees").cutoffs.scores == {("text", None, "text"): 0.5}
    own.close()


def test_an_index_of_shortened_vectors_shares_the_whole_model(tmp_path):
    class Nested(ToyEncoder):
        dimensions = (16,)

    encoder = Nested(32, "nested")
    whole = Searcher(encoder, tmp_path / "whole.index")
    short = Searcher(encoder, Index(tmp_path / "short.index", dim=16))
    own = create_app({"whole": whole, "short": short}).state.service
    assert [model.encoder for model in own.models] == [encoder]
    assert own.index("short").model is own.index("whole").model
