"""/v1/embeddings and /v1/models, called by the real openai client of a real server."""

import base64

import httpx
import numpy as np
import openai
import pytest

from puma.index import Index
from puma.items import Item
from puma.items.dimensions import ShortenedEncoder, shortened
from puma.search import Searcher
from puma.search.queries import INSTRUCTIONS
from puma.serve.formats import query_instruction
from puma.serve.service import Service
from puma.serve.settings import ServeSettings
from support.encoders import ToyEncoder
from support.served import data_uri, png, served, toy_searcher

RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
TEXTS = ["a red fox", "blue whale", "tea \u00e9 \U0001f98a"]


class Listening(ToyEncoder):
    """Its vectors tell the instruction, so that a wrong one shows."""

    dimensions = (8, 16)

    def encode(self, items, *, instruction=None):
        given = [Item(f"{instruction or ''} {item.text or ''}".strip() or None, item.image) for item in items]
        return super().encode(given)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    searcher = toy_searcher(tmp_path_factory.mktemp("index"))
    searcher.encoder = Listening()
    with served({"my": searcher}, model_names=("puma-mini", "org/other")) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(items, instruction=None):
    return Listening().encode(items, instruction=instruction)


def vectors(answer):
    return np.array([entry.embedding for entry in answer.data])


def same(got, wanted):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_texts_over_http_are_the_encoders(client, form):
    answer = client.embeddings.create(model="puma-mini", input=TEXTS, **form)
    if form.get("encoding_format") == "base64":  # asked for by name, the client leaves it as it is
        got = np.stack([np.frombuffer(base64.b64decode(entry.embedding), "<f4") for entry in answer.data])
    else:
        got = vectors(answer)
    same(got, expected([Item(text) for text in TEXTS]))
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert (answer.model, answer.object, answer.usage.total_tokens) == ("puma-mini", "list", 0)
    same(vectors(client.embeddings.create(model="org/other", input=TEXTS[0])), expected([Item(TEXTS[0])]))


def test_base64_is_the_exact_float32(address):
    answer = httpx.post(f"{address}/v1/embeddings", json={"input": "a red fox", "encoding_format": "base64"}).json()
    got = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    assert np.array_equal(got, expected([Item("a red fox")])[0])


def test_instructions_and_tasks(client):
    def ask(**extra):
        return vectors(client.embeddings.create(model="puma-mini", input="red", extra_body=extra))

    same(ask(instruction="Find tea."), expected([Item("red")], "Find tea."))
    same(ask(instruction=""), expected([Item("red")]))
    same(ask(task="retrieval.query"), expected([Item("red")], INSTRUCTIONS["text", None]))
    same(ask(task="retrieval.passage"), expected([Item("red")]))


def test_dimensions_are_cut_and_of_unit_length(client):
    whole = expected([Item("a red fox")])[:, :8].astype(np.float64)
    got = vectors(client.embeddings.create(model="puma-mini", input="a red fox", dimensions=8))
    same(got, whole / np.linalg.norm(whole))
    same(vectors(client.embeddings.create(model="puma-mini", input="a", dimensions=32)), expected([Item("a")]))
    for wrong in (9, 33):
        with pytest.raises(openai.BadRequestError, match=f"dimensions={wrong}: this model was trained for"):
            client.embeddings.create(model="puma-mini", input="a", dimensions=wrong)
    with pytest.raises(openai.BadRequestError, match=r"output_dimension=4: .* of 8, 16, 32 numbers; give one of them"):
        client.embeddings.create(model="puma-mini", input="a", extra_body={"output_dimension": 4})
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions"):
        client.embeddings.create(model="puma-mini", input="a", dimensions=0)


def test_a_model_that_was_trained_for_no_other_length_says_so():
    with served(None, ToyEncoder()) as address:
        answer = httpx.post(f"{address}/v1/embeddings", json={"input": "a", "dimensions": 8})
        assert answer.status_code == 400
        assert "dimensions=8: this model was trained for vectors of 32 numbers; leave dimensions out" in answer.text
        whole = httpx.post(f"{address}/v1/embeddings", json={"input": "a", "dimensions": 32}).json()
        assert len(whole["data"][0]["embedding"]) == 32
        assert httpx.get(f"{address}/v1/models").json()["data"][0]["matryoshka_dimensions"] == [32]


def test_an_index_of_shortened_vectors_beside_a_whole_one(tmp_path):
    """One encoder, two lengths: items that come over HTTP are cut for the index that they go to, and so are queries."""
    encoder = Listening()
    searchers = {"whole": Searcher(encoder, tmp_path / "whole.index")}
    short = Index(tmp_path / "short.index")
    searchers["short"] = Searcher(ShortenedEncoder(encoder, 8), short)
    words = ["a red fox", "a blue whale", "green tea"]
    with served(searchers) as address:
        for name in searchers:
            items = {"index": name, "items": [{"text": text} for text in words]}
            assert httpx.post(f"{address}/items", json=items).status_code == 200
        for name, length in (("whole", 32), ("short", 8)):
            query = {"index": name, "text": "a blue whale", "instruction": "", "modality": "text"}
            hits = httpx.post(f"{address}/search", json=query).json()["hits"]
            vectors = shortened(expected([Item(text) for text in ["a blue whale", *words]]), length)
            scores = dict(zip(words, (vectors[1:] @ vectors[0]).tolist(), strict=True))
            assert {hit["text"]: hit["score"] for hit in hits} == pytest.approx(scores, abs=1e-5)
    assert (short.dim, short.fingerprint) == (8, "toy-1:8")


def test_chat_messages_of_vllm(client):
    content = [
        {"type": "image_url", "image_url": {"url": data_uri(BLUE)}},
        {"type": "text", "text": "at night"},
        {"type": "text", "text": "and wet"},
    ]
    body = {
        "model": "puma-mini",
        "encoding_format": "float",
        "messages": [{"role": "system", "content": "Find a lake."}, {"role": "user", "content": content}],
    }
    answer = client.post("/embeddings", body=body, cast_to=openai.types.CreateEmbeddingResponse)
    same(vectors(answer), expected([Item("at night\nand wet", BLUE)], "Find a lake."))
    body = {"model": "puma-mini", "messages": [{"role": "user", "content": "a lake"}]}
    answer = client.post("/embeddings", body=body, cast_to=openai.types.CreateEmbeddingResponse)
    same(vectors(answer), expected([Item("a lake")]))


def test_images_of_jina(client):
    given = [
        {"text": "red"},
        {"image": base64.b64encode(RED).decode()},
        {"image": data_uri(BLUE), "text": "at night"},
        "a plain one",
    ]
    items = [Item("red"), Item(image=RED), Item("at night", BLUE), Item("a plain one")]
    same(vectors(client.embeddings.create(model="puma-mini", input=given)), expected(items))
    got = vectors(client.embeddings.create(model="puma-mini", input=given[1:3], extra_body={"task": "retrieval.query"}))
    wanted = [expected([item], INSTRUCTIONS[item.modality, None])[0] for item in items[1:3]]
    same(got, np.stack(wanted))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([1, 2, 3], "no tokenizer"),
        ([[1, 2], [3]], r"input\[0\]: .*no tokenizer"),
        ("", "at least 1 character"),
        ("  ", "white space only"),
        ([], "at least 1 item"),
        ([{"image": "https://example.org/a.png"}], "never fetched"),
        ([{"image": data_uri(b"<svg/>", "image/svg+xml")}], "SVG"),
        ([{}], "is empty"),
        (5, "input: give a text, or a list"),
        (["a", 5], r"input\[1\]: give a text, or an object"),
    ],
)
def test_inputs_that_cannot_be_embedded(client, given, match):
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError), match=match):
        client.embeddings.create(model="puma-mini", input=given)


def test_messages_that_cannot_be_embedded(address):
    def ask(*messages, **extra):
        return httpx.post(f"{address}/v1/embeddings", json={"messages": messages, **extra})

    image = {"type": "image_url", "image_url": {"url": data_uri(RED)}}
    user = {"role": "user", "content": "red"}
    for answer, words in (
        (ask({"role": "system", "content": "only"}), "user message is needed"),
        (ask({"role": "system", "content": [image]}, user), "takes text only"),
        (ask({"role": "user", "content": [image, image]}), "one picture"),
        (ask(user, input="red"), "give one of them"),
        (ask({"role": "assistant", "content": "hm"}), "role"),
        (httpx.post(f"{address}/v1/embeddings", json={"model": "puma-mini"}), "give a text"),
    ):
        assert answer.status_code in (400, 422)
        assert words in answer.json()["error"]["message"]


def test_models(client, address):
    assert [model.id for model in client.models.list()] == ["puma-mini", "org/other"]
    assert client.models.retrieve("puma-mini").owned_by == "puma"
    about = httpx.get(f"{address}/v1/models/org/other").json()
    assert (about["dimensions"], about["matryoshka_dimensions"]) == (32, [8, 16, 32])
    for ask in (
        lambda: client.models.retrieve("gpt"),
        lambda: client.embeddings.create(model="text-embedding-3-small", input="a"),
    ):
        with pytest.raises(openai.NotFoundError, match="puma-mini") as caught:
            ask()
        assert caught.value.code == "model_not_found"


def test_without_an_index_a_query_has_the_general_instruction():
    with served(None) as address:
        answer = httpx.post(f"{address}/v1/embeddings", json={"input": "red", "task": "retrieval.query"})
        same(np.array([answer.json()["data"][0]["embedding"]]), ToyEncoder().encode([Item("red")]))
        assert httpx.get(f"{address}/indexes").json()["indexes"] == []
        assert httpx.post(f"{address}/search", json={"text": "red"}).status_code == 404
        assert httpx.get(f"{address}/v1/vector_stores").json()["data"] == []


def test_a_real_models_vectors_come_whole_through_every_shape(base):
    from puma.retriever.model import Retriever

    retriever = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
    url = data_uri(BLUE)
    instruction = "Find a picture."
    shapes = [
        ("/v1/embeddings", {"input": "a red fox"}, Item("a red fox"), None),
        ("/v1/embeddings", {"input": ["a red fox"], "instruction": instruction}, Item("a red fox"), instruction),
        ("/v1/embeddings", {"input": [{"image": url, "text": "at night"}]}, Item("at night", BLUE), None),
        (
            "/v1/embeddings",
            {
                "messages": [
                    {"role": "system", "content": instruction},
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
                ]
            },
            Item(image=BLUE),
            instruction,
        ),
        ("/v2/embed", {"texts": ["a red fox"]}, Item("a red fox"), None),
        ("/v2/embed", {"images": [url]}, Item(image=BLUE), None),
    ]
    with served(None, retriever) as address:
        for path, body, item, instruction in shapes:
            answer = httpx.post(f"{address}{path}", json=body, timeout=60).json()
            got = answer["data"][0]["embedding"] if "data" in answer else answer["embeddings"]["float"][0]
            same(np.array([got]), retriever.encode([item], instruction))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, INSTRUCTIONS["text", None]),
        ({("text", "image"): "Show me:"}, None),
        ({("text", "image"): "Show me:", ("text", None): "Find anything."}, "Find anything."),
    ],
)
def test_without_an_index_a_model_that_was_taught_an_instruction_for_any_modality_gets_it(own, said):
    encoder = ToyEncoder()
    encoder.instructions = own
    service = Service({}, ServeSettings(), encoder)
    assert query_instruction(service.main, Item("red")) == said
    service.close()
