"""Cut-offs of scores: found by the model's weights, one for each pair of modalities; and what they do to hits."""

import json

import pytest
from fastapi.testclient import TestClient

from puma.cli import app as cli
from puma.errors import ModelError
from puma.search import Searcher
from puma.search.cutoffs import CUTOFFS_FILE, Cutoffs, cutoffs_of
from puma.serve import create_app
from support.encoders import ToyEncoder
from support.served import png

ROWS = [
    {"query": "text", "wanted": "image", "hit": "image", "score": 0.9},
    {"query": "text", "wanted": None, "hit": "image", "score": 0.5},
    {"query": "text", "wanted": None, "hit": "text", "score": 0.8},
]


def table(fingerprint="toy-1", rows=ROWS):
    return {"models": {fingerprint: {"name": "toy", "cutoffs": rows}}}


def test_each_pair_has_its_own_and_what_was_not_measured_is_not_known():
    cutoffs = Cutoffs({(row["query"], row["wanted"], row["hit"]): row["score"] for row in ROWS})
    assert cutoffs.is_weak("text", "image", "image", 0.89) is True
    assert cutoffs.is_weak("text", ["image"], "image", 0.9) is False
    assert cutoffs.is_weak("text", None, "image", 0.89) is False
    assert cutoffs.is_weak("text", ["image", "text"], "text", 0.79) is True
    assert cutoffs.is_weak("image", None, "image", 0.1) is None
    assert cutoffs.is_weak("text", "text", "text", 0.1) is None


def test_a_models_folder_and_only_its_own_weights(tmp_path):
    assert cutoffs_of(ToyEncoder()) is None
    assert cutoffs_of(ToyEncoder(), tmp_path) is None
    (tmp_path / CUTOFFS_FILE).write_text(json.dumps(table()))
    found = cutoffs_of(ToyEncoder(), tmp_path)
    assert found is not None
    assert found.least("text", "image", "image") == 0.9
    assert cutoffs_of(ToyEncoder(fingerprint="toy-2"), tmp_path) is None
    for broken in ("{", "[]", '{"models": {"toy-1": {}}}', '{"models": {"toy-1": {"cutoffs": [{}]}}}', "5"):
        (tmp_path / CUTOFFS_FILE).write_text(broken)
        with pytest.raises(ModelError, match=CUTOFFS_FILE):
            cutoffs_of(ToyEncoder(), tmp_path)


def test_the_packages_own_table_is_sound():
    from importlib import resources

    models = json.loads((resources.files("puma.search") / CUTOFFS_FILE).read_text())["models"]
    for model in models.values():
        keys = [(row["query"], row["wanted"], row["hit"]) for row in model["cutoffs"]]
        assert len(set(keys)) == len(keys) > 0
        assert all(-1 < row["score"] < 1 for row in model["cutoffs"])


@pytest.fixture
def searcher(tmp_path):
    found = Searcher(ToyEncoder(), tmp_path / "my.index")
    found.add([{"image": png((255, 0, 0))}, {"image": png((200, 150, 150))}], ["red", "pale"])
    found.add(["red", "red fox"], ["word", "fox"])
    return found


def test_the_service_marks_weak_hits_and_leaves_them_out_on_demand(searcher):
    cutoffs = Cutoffs({(row["query"], row["wanted"], row["hit"]): row["score"] for row in ROWS})
    client = TestClient(create_app(searcher, cutoffs=cutoffs), base_url="http://localhost")
    hits = client.post("/search", json={"text": "red", "instruction": ""}).json()["hits"]
    assert len(hits) == 4
    # Each modality was searched for by itself, and texts so were not measured.
    assert {hit["id"]: hit["weak"] for hit in hits} == {"red": False, "pale": True, "word": None, "fox": None}
    pictures = client.get("/search", params={"text": "red", "modality": "image", "instruction": ""}).json()["hits"]
    assert {hit["id"]: hit["weak"] for hit in pictures} == {"red": False, "pale": True}
    body = {"text": "red", "modality": "image", "instruction": "", "drop_weak": True}
    assert [hit["id"] for hit in client.post("/search", json=body).json()["hits"]] == ["red"]
    own = TestClient(create_app(searcher), base_url="http://localhost")
    assert {hit["weak"] for hit in own.post("/search", json={"text": "red"}).json()["hits"]} == {None}
    answer = own.post("/search", json=body)
    assert (answer.status_code, "min_score" in answer.json()["message"]) == (400, True)


def test_the_command_marks_them_too(searcher, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())
    model = tmp_path / "model"
    model.mkdir()
    given = ["search", str(searcher.index.path), "red", "--modality", "image", "--instruction", "", "-m", str(model)]

    def run(*more):
        code = cli.main([*given, *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert "(weak)" not in run()[1]
    code, _, err = run("--drop-weak")
    assert (code, "cut-offs are not known" in err) == (2, True)
    (model / CUTOFFS_FILE).write_text(json.dumps(table()))
    lines = run()[1].splitlines()
    assert [line.endswith("(weak)") for line in lines] == [False, True]
    assert [hit["weak"] for hit in json.loads(run("--json")[1])] == [False, True]
    assert [hit["id"] for hit in json.loads(run("--json", "--drop-weak")[1])] == ["red"]
