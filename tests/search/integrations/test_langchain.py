"""The LangChain adapters: what they hand to the encoder and the index, and LangChain's own standard tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from puma import Index, Searcher
from puma.errors import IndexMismatchError, InputError
from puma.items import IMAGE, TEXT
from puma.items.dimensions import ShortenedEncoder
from puma.search.integrations.langchain import PumaEmbeddings, PumaVectorStore
from puma.search.queries import INSTRUCTIONS
from support.encoders import ToyEncoder

HERE = Path(__file__).parent


@pytest.fixture
def encoder():
    return ToyEncoder()


@pytest.fixture
def store(encoder, tmp_path):
    return PumaVectorStore(tmp_path / "notes.index", PumaEmbeddings(encoder))


@pytest.fixture
def with_image(encoder, tmp_path):
    """A searcher of a red and a blue image and a captioned green one."""
    searcher = Searcher(encoder, tmp_path / "pictures.index")
    for name, colour in {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    searcher.add([tmp_path / "red.png", tmp_path / "blue.png"], ["red", "blue"])
    searcher.add([{"image": tmp_path / "green.png", "text": "a green field"}], ["green"])
    return searcher


def test_an_index_of_shortened_vectors_shortens_the_embeddings(encoder, tmp_path):
    encoder.dimensions = (8,)
    index = tmp_path / "short.index"
    Searcher(ShortenedEncoder(encoder, 8), index)
    store = PumaVectorStore(index, PumaEmbeddings(encoder))
    store.add_texts(["a red fox", "blue whale"])
    assert (store.index.dim, len(store.embeddings.embed_query("red"))) == (8, 8)
    assert store.similarity_search("a red fox", k=1)[0].page_content == "a red fox"


def test_documents_get_no_instruction_and_queries_one(encoder):
    embeddings = PumaEmbeddings(encoder)
    documents, query = embeddings.embed_documents(["red", "a fox"]), embeddings.embed_query("red")
    assert encoder.seen_instructions == [None, INSTRUCTIONS[TEXT, TEXT]]
    assert np.allclose(np.linalg.norm([*documents, query], axis=1), 1, atol=1e-6)
    assert documents[0] == query  # this encoder ignores the instruction
    assert embeddings.embed_documents([]) == []


@pytest.mark.parametrize(
    ("own", "given", "expected"), [({}, "Mine.", "Mine."), ({}, "", None), ({1: 1}, None, "Taught.")]
)
def test_which_instruction(encoder, own, given, expected):
    if own:
        encoder.instructions = {(TEXT, TEXT): "Taught."}
    PumaEmbeddings(encoder, instruction=given).embed_query("red")
    assert encoder.seen_instructions == [expected]


def test_texts_come_back_as_they_went_in(store):
    metadata = {"id": 7, "tags": ["a", "b"], "page": {"number": 3}}
    names = store.add_texts(["a red fox", "a blue whale"], [metadata, {}], ids=["fox", None])
    assert names[0] == "fox"
    assert len(names[1]) == 32
    assert store.similarity_search("red", k=1) == [Document(id="fox", page_content="a red fox", metadata=metadata)]
    assert [document.page_content for document in store.get_by_ids([names[1], "gone", "fox"])] == [
        "a blue whale",
        "a red fox",
    ]


def test_the_same_document_is_stored_once(store):
    names = store.add_texts(["red", "red", "red"], [{"page": 1}, {"page": 1}, {"page": 2}])
    assert names[0] == names[1] != names[2]
    assert store.add_texts(["red"], [{"page": 1}]) == names[:1]
    assert len(store.index) == 2


def test_more_documents_than_a_batch(store):
    names = store.add_texts([f"word{number}" for number in range(600)])
    assert len(set(names)) == len(store.index) == 600
    assert [found.page_content for found in store.get_by_ids([names[599], names[0]])] == ["word599", "word0"]


def test_filter_and_modality(encoder, with_image):
    store = PumaVectorStore(with_image)
    store.add_texts(["red fox", "red brick"], [{"price": 3}, {"price": 30}])
    cheap = {"type": "lt", "key": "price", "value": 10}
    assert [found.page_content for found in store.similarity_search("red", k=9, filter=cheap)] == ["red fox"]
    assert {found.page_content for found in store.similarity_search("red", k=9, modality=TEXT)} == {
        "red fox",
        "red brick",
    }
    assert encoder.seen_instructions[-1] == INSTRUCTIONS[TEXT, TEXT]
    store = PumaVectorStore(with_image, modality=IMAGE)
    assert [found.id for found in store.similarity_search("red", k=9)] == ["red", "blue"]
    assert encoder.seen_instructions[-1] == INSTRUCTIONS[TEXT, IMAGE]
    with pytest.raises(InputError, match="near"):
        store.similarity_search("red", filter={"type": "near", "key": "price", "value": 10})


def test_images_come_back_as_documents(with_image, tmp_path):
    red, *_ = PumaVectorStore(with_image).similarity_search("red", k=3)
    assert red == Document(id="red", page_content="", metadata={"image": str(tmp_path / "red.png"), "modality": IMAGE})
    green, *_ = PumaVectorStore(with_image).similarity_search("green", k=3)
    assert (green.page_content, green.metadata["modality"]) == ("a green field", "image,text")


def test_scores_are_cosines_and_relevance_is_never_negative(store):
    store.add_texts(["red", "blue"])
    (red, near), (blue, far) = store.similarity_search_with_score("red", k=2)
    assert (red.page_content, blue.page_content) == ("red", "blue")
    assert near == pytest.approx(1, abs=1e-5)
    assert far < 0.1
    assert [score for _, score in store.similarity_search_with_relevance_scores("red", k=2)] == [near, far]
    assert store._select_relevance_score_fn()(-0.5) == 0


def test_searches_agree_with_langchains_own_store(tmp_path):
    embeddings = DeterministicFakeEmbedding(size=16)  # not of unit length
    ours, theirs = PumaVectorStore(tmp_path / "index", embeddings), InMemoryVectorStore(embeddings)
    texts = [f"text {number}" for number in range(40)]
    for store in (ours, theirs):
        store.add_texts(texts, ids=texts)
    vector = embeddings.embed_query("something")
    for weight in (0.0, 0.3, 0.9, 1.0):
        options = {"k": 6, "fetch_k": 15, "lambda_mult": weight}
        for name, query in (
            ("max_marginal_relevance_search", "something"),
            ("max_marginal_relevance_search_by_vector", vector),
        ):
            assert getattr(ours, name)(query, **options) == getattr(theirs, name)(query, **options)
    assert ours.similarity_search_by_vector(vector, k=7) == theirs.similarity_search_by_vector(vector, k=7)


def test_as_a_retriever_and_from_texts(encoder, tmp_path):
    store = PumaVectorStore.from_texts(
        ["red fox", "blue whale"], PumaEmbeddings(encoder), ids=["a", "b"], index=tmp_path / "made.index"
    )
    assert store.embeddings.encoder is encoder
    for kind in ("similarity", "mmr"):
        found = store.as_retriever(search_type=kind, search_kwargs={"k": 1}).invoke("red")
        assert [document.id for document in found] == ["a"]
    assert len(Index(tmp_path / "made.index", create=False)) == 2


def test_what_cannot_be(encoder, store, tmp_path):
    with pytest.raises(InputError, match="'text'"):
        store.add_texts(["red"], [{"text": "other"}])
    with pytest.raises(InputError, match="JSON"):
        store.add_texts(["red"], [{"when": object()}])
    with pytest.raises(InputError, match="as many as the documents: 1, got 2"):
        store.add_documents([Document("red")], ids=["a", "b"])
    with pytest.raises(InputError, match="needs text"):
        store.add_texts(["red", " "])
    with pytest.raises(InputError, match="needs ids"):
        store.delete()
    assert len(store.index) == 0
    with pytest.raises(InputError, match="PumaEmbeddings"):
        PumaVectorStore(tmp_path / "other.index")
    with pytest.raises(InputError, match="index="):
        PumaVectorStore.from_texts(["red"], PumaEmbeddings(encoder))
    store.add_texts(["red"])
    with pytest.raises(IndexMismatchError, match="toy-2"):
        PumaVectorStore(store.index, PumaEmbeddings(ToyEncoder(fingerprint="toy-2")))


@pytest.mark.slow
def test_langchains_standard_tests(tmp_path):
    """In a process of its own: their plugins (asyncio, sockets, cassettes, benchmarks) stay out of this suite."""
    pytest.importorskip("langchain_tests")
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:doctest", "--noconftest"]
    command += ["-c", str(settings), "--rootdir", str(tmp_path), str(HERE / "standard_langchain.py")]
    paths = [str(HERE.parent), *filter(None, sys.path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"\d\d passed in .*", done.stdout.splitlines()[-1]), done.stdout  # none skipped, none excused
