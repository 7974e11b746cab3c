"""LangChain's own standard tests on our adapters. Run by test_langchain.py in a process of its own."""

import pytest
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, VectorStoreIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from puma.search.integrations.langchain import PumaEmbeddings, PumaVectorStore
from support.encoders import ToyEncoder


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return PumaEmbeddings

    @property
    def embedding_model_params(self) -> dict:
        return {"encoder": ToyEncoder()}


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return PumaEmbeddings

    @property
    def embedding_model_params(self) -> dict:
        return {"encoder": ToyEncoder()}


class TestStoreOfAnyEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        return PumaVectorStore(tmp_path / "index", self.get_embeddings())


class TestStoreOfAnEncoder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        return PumaVectorStore(tmp_path / "index", PumaEmbeddings(ToyEncoder()))
