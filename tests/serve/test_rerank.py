"""/v1/rerank and /v2/rerank, called by the real cohere clients of a real server."""

import warnings

import httpx
import numpy as np
import pytest

from puma.items import Item
from puma.search.queries import INSTRUCTIONS
from support.encoders import ToyEncoder
from support.served import data_uri, png, served

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cohere

RED = png((255, 0, 0))
DOCUMENTS = ["blue whale", "a red fox", "tea", "red"]


class Listening(ToyEncoder):
    """Its vectors tell the instruction, so that a wrong one shows."""

    def encode(self, items, *, instruction=None):
        given = [Item(f"{instruction or ''} {item.text or ''}".strip() or None, item.image) for item in items]
        return super().encode(given)


@pytest.fixture(scope="module")
def address():
    with served(None, Listening()) as found:
        yield found


def expected(query, documents, instruction):
    """Cosines with the query, each computed by itself."""
    own = Listening()
    asked = own.encode([query], instruction=instruction)[0].astype(np.float64)
    return [round(float(own.encode([document])[0].astype(np.float64) @ asked), 6) for document in documents]


@pytest.mark.parametrize("kind", ["ClientV2", "Client"])
def test_texts_are_ordered_by_their_cosine(address, kind):
    with httpx.Client() as connections:
        client = getattr(cohere, kind)(api_key="none", base_url=address, httpx_client=connections)
        answer = client.rerank(model="puma-mini", query="red fox", documents=DOCUMENTS)
        scores = expected(Item("red fox"), [Item(text) for text in DOCUMENTS], INSTRUCTIONS["text", "text"])
        assert [entry.index for entry in answer.results] == sorted(range(4), key=lambda n: (-scores[n], n))
        np.testing.assert_allclose(
            [entry.relevance_score for entry in answer.results], sorted(scores, reverse=True), atol=2e-6
        )
        assert answer.id
        few = client.rerank(model="puma-mini", query="red fox", documents=DOCUMENTS, top_n=2)
        assert [entry.index for entry in few.results] == [entry.index for entry in answer.results][:2]


def test_pictures_documents_and_addresses(address):
    def ask(**body):
        return httpx.post(f"{address}/rerank", json=body, timeout=60)

    documents = ["red", {"text": "blue"}, {"image": data_uri(RED)}, data_uri(png((0, 0, 255)))]
    items = [Item("red"), Item("blue"), Item(image=RED), Item(image=png((0, 0, 255)))]
    answer = ask(query={"image": data_uri(RED)}, documents=documents, return_documents=True).json()
    scores = expected(Item(image=RED), items, INSTRUCTIONS["image", None])
    got = {entry["index"]: entry for entry in answer["results"]}
    np.testing.assert_allclose([got[n]["relevance_score"] for n in range(4)], scores, atol=2e-6)
    assert [got[n]["document"] for n in range(4)] == [{"text": "red"}, {"text": "blue"}, {}, {}]
    pictures = ask(query="red", documents=documents[2:]).json()["results"]
    scores = expected(Item("red"), items[2:], INSTRUCTIONS["text", "image"])
    assert [entry["index"] for entry in pictures] == sorted(range(2), key=lambda n: -scores[n])
    same = ask(query="red", documents=["a", "a", "a"]).json()["results"]
    assert [entry["index"] for entry in same] == [0, 1, 2]
    plain = ask(query="red", documents=["red"], instruction="").json()["results"][0]["relevance_score"]
    assert plain == pytest.approx(1)
    for body in (
        {"query": "", "documents": ["a"]},
        {"query": "a", "documents": []},
        {"query": "a"},
        {"query": "a", "documents": ["a", " "]},
        {"query": "a", "documents": ["a"], "top_n": 0},
        {"query": "a", "documents": ["https://example.org/a.png"]},
        {"query": "a", "documents": ["a"], "model": "other"},
    ):
        assert ask(**body).status_code in (400, 404, 422), body


def test_addresses_without_the_version_work_as_those_with_it(address):
    body = {"input": "red"}
    for path in ("embeddings", "models", "vector_stores"):
        answers = [
            httpx.post(f"{address}{prefix}/{path}", json=body)
            if path == "embeddings"
            else httpx.get(f"{address}{prefix}/{path}")
            for prefix in ("", "/v1")
        ]
        assert answers[0].status_code == 200
        assert answers[0].json() == answers[1].json()
