"""What a client means is embedded, or refused: pictures sent as strings, long texts, tokens, misplaced fields. With a
real small model, whose tokenizer and image processor are its own."""

import base64

import httpx
import numpy as np
import openai
import pytest

from puma.items import Item
from puma.retriever.model import Retriever
from puma.search import Searcher
from support.served import data_uri, png, served

RED, BLUE = png((255, 0, 0), (40, 40)), png((0, 0, 255), (40, 40))
LONG = "a red fox in the snow " * 200


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


@pytest.fixture(scope="module")
def address(retriever, tmp_path_factory):
    searcher = Searcher(retriever, tmp_path_factory.mktemp("index") / "my.index")
    searcher.add([{"text": "a red fox"}, {"image": RED}, {"image": BLUE}], ["fox", "red", "blue"])
    with served({"my": searcher}) as found:
        yield found


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(address, path, body):
    return httpx.post(f"{address}{path}", json=body, timeout=60)


def vectors(client, given, **extra):
    answer = client.embeddings.create(model="puma-mini", input=given, extra_body=extra)
    return np.array([entry.embedding for entry in answer.data])


@pytest.mark.parametrize("modality", [{}, {"modality": "image"}])
@pytest.mark.parametrize("form", ["uri", "base64"])
def test_pictures_as_strings_are_pictures(client, retriever, form, modality):
    given = [data_uri(data) if form == "uri" else base64.b64encode(data).decode() for data in (RED, BLUE)]
    wanted = retriever.encode([Item(image=RED), Item(image=BLUE)])
    np.testing.assert_allclose(vectors(client, given, **modality), wanted, atol=1e-6)
    np.testing.assert_allclose(vectors(client, given[1], **modality), wanted[1:], atol=1e-6)


def test_an_address_is_never_silently_text_and_can_be_meant(client, retriever):
    address = "https://example.org/fox.png"
    for first, extra in (("a fox", {}), (data_uri(RED), {"modality": "image"})):
        with pytest.raises(openai.BadRequestError, match=r"input\[1\].*never fetched"):
            vectors(client, [first, address], **extra)
    wanted = retriever.encode([Item(address)])
    for given, extra in (([{"text": address}], {}), ([address], {"modality": "text"})):
        np.testing.assert_allclose(vectors(client, given, **extra), wanted, atol=1e-6)


URI = data_uri(RED)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [{"text": URI}]}),
        ("/v1/embeddings", {"input": URI, "modality": "text"}),
        ("/v1/embeddings", {"input": "data:text/plain;base64,aGVsbG8="}),
        ("/v1/embeddings", {"messages": [{"role": "user", "content": URI}]}),
        ("/v1/embeddings", {"messages": [{"role": "user", "content": [{"type": "text", "text": URI}]}]}),
        ("/v1/embeddings", {"input": f"what is in {URI}?"}),
        ("/v2/embed", {"texts": [URI]}),
        ("/v2/embed", {"inputs": [{"content": [{"type": "text", "text": URI}]}]}),
        ("/search", {"text": URI}),
        ("/v1/vector_stores/my/search", {"query": URI}),
        ("/v1/rerank", {"query": "red", "documents": [{"text": URI}]}),
    ],
)
def test_a_picture_where_words_belong_is_refused(address, path, body):
    answer = post(address, path, body)
    assert answer.status_code == 400
    assert "picture" in answer.json()["message"]


def test_a_picture_stored_as_text_is_left_out(address):
    answer = post(address, "/items", {"items": [{"text": URI}, {"text": ""}]}).json()
    assert answer["ids"] == [None, None]
    assert "picture" in answer["skipped"][0]["reason"]
    assert "give text, image or both" in answer["skipped"][1]["reason"]


@pytest.mark.parametrize(
    ("path", "body", "lost"),
    [
        ("/v1/embeddings", {"input": "red", "image": URI}, "image"),
        ("/v1/embeddings", {"input": "red", "images": [URI]}, "images"),
        ("/v1/embeddings", {"input": [{"text": "red", "url": URI}]}, "url"),
        ("/v1/embeddings", {"input": [{"text": "red", "image_url": {"url": URI}}]}, "image_url"),
        (
            "/v1/embeddings",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "image_url": {"url": URI}}]}]},
            "image_url",
        ),
        (
            "/v1/embeddings",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": URI, "text": "at night"}]}]},
            "text",
        ),
        ("/v2/embed", {"texts": ["a"], "image": URI}, "image"),
        ("/v1/vector_stores/my/search", {"query": "red", "filter": {"type": "eq", "key": "a", "value": 1}}, "filter"),
        ("/v1/vector_stores/my/search", {"query": "red", "k": 3}, "k"),
        ("/v1/rerank", {"query": "red", "documents": ["a"], "texts": ["b"]}, "texts"),
    ],
)
def test_a_field_that_is_meant_is_not_dropped(address, path, body, lost):
    answer = post(address, path, body)
    assert answer.status_code == 422
    assert lost in answer.json()["message"]


@pytest.mark.parametrize(
    "extra", [{"normalized": False}, {"late_chunking": True}, {"output_dtype": "int8"}, {"modality": "audio"},
              {"embedding_type": "binary"}, {"truncate_prompt_tokens": 5}]
)  # fmt: skip
def test_what_would_change_the_vectors_and_cannot_is_refused(address, extra):
    assert post(address, "/v1/embeddings", {"input": "red"} | extra).status_code == 422


def test_a_query_by_any_clients_name_has_the_instruction(client, retriever):
    from puma.search.queries import INSTRUCTIONS

    wanted = retriever.encode([Item("red")], INSTRUCTIONS["text", None])
    plain = retriever.encode([Item("red")])
    for extra in ({"task": "retrieval.query"}, {"input_type": "query"}, {"prompt_name": "query"}):
        np.testing.assert_allclose(vectors(client, "red", **extra), wanted, atol=1e-6)
    for extra in ({"input_type": "document"}, {"input_type": "passage"}, {"input_type": None}):
        np.testing.assert_allclose(vectors(client, "red", **extra), plain, atol=1e-6)
    assert np.abs(wanted - plain).max() > 1e-3


def test_tokens_are_those_the_model_read(client, retriever):
    def read(items, instruction=None):
        return int(retriever.inputs.features(items, instruction)["attention_mask"].sum())

    for given, items in (
        (["a red fox", "a"], [Item("a red fox"), Item("a")]),
        ([data_uri(RED)], [Item(image=RED)]),
        ([{"text": "a fox", "image": data_uri(RED)}], [Item("a fox", RED)]),
        ([LONG], [Item(LONG)]),
    ):
        usage = client.embeddings.create(model="puma-mini", input=given).usage
        assert usage.prompt_tokens == usage.total_tokens == read(items) > 0
    usage = client.embeddings.create(model="puma-mini", input="a", extra_body={"instruction": "Find it."}).usage
    assert usage.total_tokens == read([Item("a")], "Find it.")


def test_truncation_is_told_everywhere_and_can_be_refused(address):
    limit = 450
    given = ["a fox", LONG, "b", LONG]
    answer = post(address, "/v1/embeddings", {"input": given})
    assert answer.headers["x-puma-truncated"] == "1, 3"
    assert answer.json()["usage"]["truncated_inputs"] == [1, 3]
    whole = post(address, "/v1/embeddings", {"input": given[::2]})
    assert "x-puma-truncated" not in whole.headers
    assert whole.json()["usage"]["truncated_inputs"] == []
    assert post(address, "/v1/embeddings", {"input": given[::2], "truncate": False}).status_code == 200
    for refusing in ({"truncate": False}, {"truncation": False}):
        answer = post(address, "/v1/embeddings", {"input": given} | refusing)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[1]")
        assert f"limit of {limit} tokens" in answer.json()["message"]
    answer = post(address, "/v2/embed", {"texts": given})
    assert answer.json()["meta"]["warnings"] == [f"texts[{n}]: too long, its end was not read" for n in (1, 3)]
    assert post(address, "/v2/embed", {"texts": given, "truncate": "NONE"}).status_code == 400
    assert post(address, "/v2/embed", {"texts": given, "truncate": "END"}).status_code == 200
    assert post(address, "/search", {"text": LONG}).json()["query"]["truncated"] is True
    assert post(address, "/search", {"text": "a fox"}).json()["query"]["truncated"] is False
    answer = post(address, "/v1/vector_stores/my/search", {"query": ["a fox", LONG]})
    assert answer.headers["x-puma-truncated"] == "1"
    answer = post(address, "/v1/rerank", {"query": "a fox", "documents": given})
    assert answer.json()["usage"]["truncated_inputs"] == [1, 3]
    answer = post(address, "/items", {"items": [{"text": ""}, {"id": "long", "text": LONG}]})
    assert (answer.json()["truncated"], answer.headers["x-puma-truncated"]) == ([1], "1")
    assert httpx.delete(f"{address}/item?id=long").status_code == 200


def test_the_limit_of_tokens_is_exact(retriever, address):
    counter = retriever.text_tokens
    words = ["fox"]
    while counter.count(" ".join(words)) < counter.limit:
        words.append("fox")
    at_the_limit, over = " ".join(words), " ".join([*words, "fox fox"])
    assert counter.count(at_the_limit) == counter.limit
    for text, cut in ((at_the_limit, []), (over, [0])):
        assert post(address, "/v1/embeddings", {"input": [text]}).json()["usage"]["truncated_inputs"] == cut
        # What is said is what happens: cut texts are those whose end makes no difference.
        vectors = retriever.encode([text, text + " and a whale beside it"])
        np.testing.assert_array_equal(vectors[0], vectors[1])
    shorter = " ".join(words[:-2])
    assert np.abs(np.subtract(*retriever.encode([shorter, shorter + " whale"]))).max() > 1e-5


def test_tokens_of_the_models_own_tokenizer_are_its_texts(client, retriever):
    tokenizer = retriever.processor.tokenizer
    texts = ["a red fox in snow", "blue"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    wanted = retriever.encode(texts)
    np.testing.assert_allclose(vectors(client, ids), wanted, atol=1e-6)
    np.testing.assert_allclose(vectors(client, ids[0]), wanted[:1], atol=1e-6)
    np.testing.assert_allclose(vectors(client, [ids[0], texts[1]]), wanted, atol=1e-6)


def test_tokens_of_another_tokenizer_are_refused(client, retriever):
    tokenizer = retriever.processor.tokenizer
    split = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "fox"]
    assert tokenizer.decode(split) == "fox"
    assert tokenizer("fox", add_special_tokens=False)["input_ids"] != split
    for given in (split, [len(tokenizer)], [retriever.inputs.ret_id], [split, [10**9]]):
        with pytest.raises(openai.BadRequestError, match="another model's tokenizer"):
            vectors(client, given)
    for given in ([-1], [1.5], [[1], ["a"]], [True]):
        with pytest.raises(openai.UnprocessableEntityError):
            vectors(client, given)


def test_which_picture_is_broken_is_said(client, address):
    broken = data_uri(RED[:70])
    for path, body, name in (
        ("/v1/embeddings", {"input": [URI, {"text": "a", "image": broken}]}, "input[1]"),
        ("/v1/embeddings", {"input": [URI, broken]}, "input[1]"),
        ("/v1/embeddings", {"input": ["red", {"image": data_uri(b"hello")}]}, "input[1].image"),
        ("/v1/embeddings", {"input": ["red", {"image": 5}]}, "input[1].image"),
        ("/v2/embed", {"images": [URI, URI, broken]}, "images[2]"),
        ("/v2/embed", {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": broken}}]}]}, "inputs[0]"),
        ("/v1/rerank", {"query": "red", "documents": ["a", {"image": broken}]}, "documents[1]"),
    ):
        answer = post(address, path, body)
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]["param"] == name, answer.text
        assert answer.json()["message"].startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        (
            "/v1/embeddings",
            {"input": "red"},
            (
                "model",
                "messages",
                "dimensions",
                "encoding_format",
                "instruction",
                "task",
                "user",
                "modality",
                "truncate",
                "input_type",
                "output_dimension",
            ),
        ),
        (
            "/v2/embed",
            {"texts": ["red"]},
            ("model", "images", "inputs", "input_type", "embedding_types", "output_dimension", "truncate"),
        ),
        (
            "/v1/vector_stores/my/search",
            {"query": "red"},
            ("image", "filters", "max_num_results", "ranking_options", "rewrite_query", "instruction"),
        ),
        (
            "/search",
            {"text": "red"},
            ("index", "image", "item", "minus", "modality", "where", "k", "offset", "instruction", "min_score"),
        ),
        ("/items", {"items": [{"text": "red fox", "id": None, "image": None, "metadata": None}]}, ("index",)),
        ("/v1/rerank", {"query": "red", "documents": ["a"]}, ("model", "top_n", "return_documents", "instruction")),
    ],
)
def test_null_is_the_default(address, path, body, fields):
    def content(answer):
        assert answer.status_code == 200, answer.text
        return {
            key: value for key, value in answer.json().items() if key not in ("id", "took_ms", "embedded", "present")
        }

    plain = content(post(address, path, body))
    assert content(post(address, path, body | dict.fromkeys(fields))) == plain
    for field in fields:
        assert content(post(address, path, body | {field: None})) == plain


def test_min_score_is_the_same_in_every_search(address):
    scores = [hit["score"] for hit in post(address, "/search", {"text": "a red fox"}).json()["hits"]]
    assert len(scores) >= 3
    least = scores[1]
    form = {"text": "a red fox"}
    upload = {"image": RED}
    by_upload = httpx.post(f"{address}/search/upload", data=form, files=upload, timeout=60).json()["hits"]
    third = by_upload[2]["score"]
    for answer in (
        post(address, "/search", {"text": "a red fox", "min_score": least}),
        httpx.get(f"{address}/search", params={"text": "a red fox", "min_score": least}, timeout=60),
        httpx.post(f"{address}/search/upload", data=form | {"min_score": third}, files=upload, timeout=60),
    ):
        hits = answer.json()["hits"]
        assert answer.json()["more"] is False
        assert len(hits) == (3 if hits[0]["id"] == by_upload[0]["id"] and answer.request.url.path != "/search" else 2)
        assert all(hit["score"] >= min(least, third) for hit in hits)
    options = {"ranking_options": {"score_threshold": least}}
    found = post(address, "/v1/vector_stores/my/search", {"query": "a red fox"} | options).json()
    assert [hit["score"] for hit in found["data"]] == scores[:2]
    assert found["has_more"] is False
    for wrong in (1.1, -2, "much"):
        assert post(address, "/search", {"text": "a", "min_score": wrong}).status_code == 422
