"""LlamaIndex's embedding interface over an encoder: texts, queries and images.

Importing this module needs ``llama-index-core`` (``pip install 'puma-retrieval[llama-index]'``).

Usage::

    from llama_index.core import VectorStoreIndex
    from puma.search.integrations.llama_index import PumaEmbedding
    index = VectorStoreIndex.from_documents(documents, embed_model=PumaEmbedding(encoder))
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from puma.items.encoder import Encoder
from puma.items.item import TEXT, Item
from puma.search.integrations import not_installed
from puma.search.queries import INSTRUCTIONS

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.embeddings import MultiModalEmbedding
except ImportError as error:
    raise not_installed("llama-index-core", "llama-index", error) from error


class PumaEmbedding(MultiModalEmbedding):
    """An encoder as LlamaIndex's embeddings, of texts and of images in one space.

    Args:
        encoder: a Retriever, or anything with its ``encode`` and ``fingerprint``.
        instruction: goes before every query, an empty string for none; the encoder's own for text that looks for text
            if None. Texts and images that are stored get none.
        embed_batch_size: items handed to the encoder at once, 1 to 2,048.
        options: further fields of LlamaIndex's ``BaseEmbedding``. ``model_name`` is the encoder's fingerprint, so that
            a cache never gives out another model's vectors.
    """

    _encoder: Any = PrivateAttr()
    _instruction: str | None = PrivateAttr()

    def __init__(
        self, encoder: Encoder, *, instruction: str | None = None, embed_batch_size: int = 64, **options: Any
    ) -> None:
        options.setdefault("model_name", encoder.fingerprint)
        super().__init__(embed_batch_size=embed_batch_size, **options)
        if instruction is None:
            instruction = {**INSTRUCTIONS, **getattr(encoder, "instructions", {})}[TEXT, TEXT]
        self._encoder, self._instruction = encoder, instruction or None

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "PumaEmbedding"

    def _encoded(self, items: Sequence[Item], instruction: str | None = None) -> list[list[float]]:
        rows: list[list[float]] = self._encoder.encode(items, instruction=instruction).tolist()
        return rows

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoded([Item(text=query)], self._instruction)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._encoded([Item(text=text)])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoded([Item(text=text) for text in texts])

    def _get_image_embedding(self, img_file_path: str | BytesIO) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[str | BytesIO]) -> list[list[float]]:
        return self._encoded(
            [Item(image=Path(source) if isinstance(source, str) else source.getvalue()) for source in img_file_paths]
        )

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: str | BytesIO) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[str | BytesIO]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)
