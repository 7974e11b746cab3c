"""/v2/embed, called by the real cohere client of a real server."""

import base64
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

RED, BLUE = png((255, 0, 0), (6, 4)), png((0, 0, 255), kind="JPEG")
TEXTS = ["a red fox", "blue whale"]


class Listening(ToyEncoder):
    """Its vectors tell the instruction, so that a wrong one shows."""

    dimensions = (8, 16)

    def encode(self, items, *, instruction=None):
        given = [Item(f"{instruction or ''} {item.text or ''}".strip() or None, item.image) for item in items]
        return super().encode(given)


@pytest.fixture(scope="module")
def client():
    encoder = Listening()
    with served(None, encoder) as address, httpx.Client() as connections:
        yield cohere.ClientV2(api_key="none", base_url=address, httpx_client=connections)


def expected(items, instruction=None):
    return Listening().encode(items, instruction=instruction)


def same(got, wanted):
    got = np.array(got)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_texts_over_http_are_the_encoders(client):
    answer = client.embed(model="puma-mini", texts=TEXTS, input_type="search_document", embedding_types=["float"])
    same(answer.embeddings.float_, expected([Item(text) for text in TEXTS]))
    assert (answer.response_type, answer.texts) == ("embeddings_by_type", TEXTS)
    assert answer.id
    assert answer.meta.api_version.version == "2"
    query = client.embed(model="puma-mini", texts=TEXTS, input_type="search_query")
    same(query.embeddings.float_, expected([Item(text) for text in TEXTS], INSTRUCTIONS["text", None]))


def test_images_and_mixed_inputs(client):
    answer = client.embed(model="puma-mini", images=[data_uri(RED), data_uri(BLUE, "image/jpeg")], input_type="image")
    same(answer.embeddings.float_, expected([Item(image=RED), Item(image=BLUE)]))
    sizes = [(image.width, image.height, image.format, image.bit_depth) for image in answer.images]
    assert sizes == [(6, 4, "png", 8), (8, 8, "jpeg", 8)]
    inputs = [
        {"content": [{"type": "text", "text": "at night"}, {"type": "image_url", "image_url": {"url": data_uri(RED)}}]},
        {"content": [{"type": "text", "text": "a lake"}]},
    ]
    answer = client.embed(model="puma-mini", inputs=inputs, input_type="search_document")
    same(answer.embeddings.float_, expected([Item("at night", RED), Item("a lake")]))


def test_every_type_says_the_same(client):
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    embedded = client.embed(model="puma-mini", texts=TEXTS, input_type="clustering", embedding_types=kinds).embeddings
    wanted = expected([Item(text) for text in TEXTS])
    same(embedded.float_, wanted)
    assert np.array_equal([np.frombuffer(base64.b64decode(row), "<f4") for row in embedded.base64], wanted)
    small = np.array(embedded.int8)
    assert np.abs(small).max(axis=1).tolist() == [127, 127]
    scale = np.abs(wanted).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(small * scale, wanted, atol=scale.max() / 2 + 1e-7)
    assert np.array_equal(np.array(embedded.uint8), small + 128)
    bits = np.array(embedded.ubinary)
    assert bits.shape == (2, 4)
    assert np.array_equal(np.unpackbits(bits.astype(np.uint8), axis=1), wanted > 0)
    assert np.array_equal(np.array(embedded.binary), bits - 128)


def test_dimensions_are_cut_and_of_unit_length(client):
    answer = client.embed(model="puma-mini", texts=TEXTS, input_type="clustering", output_dimension=8)
    whole = expected([Item(text) for text in TEXTS])[:, :8].astype(np.float64)
    same(answer.embeddings.float_, whole / np.linalg.norm(whole, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "one of texts, images and inputs"),
        ({"texts": ["a"], "images": [data_uri(RED)]}, "texts, images"),
        ({"images": ["https://example.org/a.png"]}, "never fetched"),
        ({"inputs": [{"content": [{"type": "text", "text": " "}]}]}, "is empty"),
        (
            {"texts": ["a"], "output_dimension": 33},
            "output_dimension=33: this model was trained for vectors of 8, 16",
        ),
        (
            {"texts": ["a"], "output_dimension": 12},
            "output_dimension=12: this model was trained for vectors of 8, 16",
        ),
    ],
)
def test_what_cannot_be_embedded(client, given, words):
    with pytest.raises(cohere.errors.BadRequestError) as caught:
        client.embed(model="puma-mini", input_type="search_document", **given)
    assert words in caught.value.body["message"]


def test_what_is_not_served(client):
    with pytest.raises(cohere.errors.NotFoundError) as caught:
        client.embed(model="embed-v4.0", input_type="search_document", texts=["a"])
    assert "puma-mini" in caught.value.body["message"]
    for bad in ({"embedding_types": ["float16"]}, {"truncate": "START"}, {"texts": []}):
        with pytest.raises(cohere.errors.UnprocessableEntityError):
            client.embed(**{"model": "puma-mini", "input_type": "search_document", "texts": ["a"]} | bad)
