"""The LlamaIndex adapter: texts, queries and images, alone and inside an index of theirs."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from puma.errors import ImageError
from puma.items import TEXT, Item
from puma.search.queries import INSTRUCTIONS
from support.encoders import ToyEncoder

pytestmark = pytest.mark.slow  # the framework takes seconds to import


@pytest.fixture
def adapter():
    pytest.importorskip("llama_index.core")
    from puma.search.integrations.llama_index import PumaEmbedding

    return PumaEmbedding


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_texts_queries_and_images(adapter, image):
    encoder = ToyEncoder()
    model = adapter(encoder, embed_batch_size=2)
    texts = model.get_text_embedding_batch(["red", "blue", "a fox"])
    assert encoder.seen_instructions == [None, None]
    query = model.get_query_embedding("red")
    assert encoder.seen_instructions[2:] == [INSTRUCTIONS[TEXT, TEXT]]
    images = model.get_image_embedding_batch([str(image), io.BytesIO(image.read_bytes())])
    assert encoder.seen_instructions[3:] == [None]
    expected = ToyEncoder().encode([Item(text="red"), Item(text="blue"), Item(text="a fox"), Item(image=image)])
    assert np.allclose([*texts, images[0]], expected)
    assert np.allclose(query, expected[0])
    assert images[0] == images[1] == model.get_image_embedding(str(image))
    assert model.similarity(query, images[0]) > 0.9 > model.similarity(texts[1], images[0])
    with pytest.raises(ImageError, match="no such file"):
        model.get_image_embedding("gone.png")


def test_asynchronous_calls_give_the_same(adapter, image):
    model = adapter(ToyEncoder())

    async def together():
        return [
            await model.aget_query_embedding("red"),
            await model.aget_text_embedding("red"),
            *await model.aget_text_embedding_batch(["red"]),
            await model.aget_image_embedding(str(image)),
            *await model.aget_image_embedding_batch([str(image)]),
        ]

    text, vector = model.get_text_embedding("red"), model.get_image_embedding(str(image))
    assert asyncio.run(together()) == [text, text, text, vector, vector]


def test_instruction_and_name(adapter):
    encoder = ToyEncoder(fingerprint="toy-7")
    encoder.instructions = {(TEXT, TEXT): "Taught."}
    for given in (None, "Mine.", ""):
        adapter(encoder, instruction=given).get_query_embedding("red")
    assert encoder.seen_instructions == ["Taught.", "Mine.", None]
    described = adapter(encoder).to_dict()
    assert (described["model_name"], described["class_name"]) == ("toy-7", "PumaEmbedding")


def test_inside_an_index_of_theirs(adapter):
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    nodes = [TextNode(text=text) for text in ("red fox", "blue whale", "green field")]
    index = VectorStoreIndex(nodes, embed_model=adapter(ToyEncoder()))
    found = index.as_retriever(similarity_top_k=1).retrieve("blue")
    assert [hit.node.get_content() for hit in found] == ["blue whale"]
