"""LangChain's ``Embeddings`` and ``VectorStore`` over an encoder and an index.

Importing this module needs ``langchain-core`` (``pip install 'puma-retrieval[langchain]'``).

Usage::

    from puma.search.integrations.langchain import PumaEmbeddings, PumaVectorStore
    store = PumaVectorStore("notes.index", PumaEmbeddings(encoder))
    store.add_texts(["a red fox in snow"], [{"author": "ann"}])
    store.similarity_search("a fox", k=3, filter={"type": "eq", "key": "author", "value": "ann"})
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.index import Hit, Index
from puma.index.addresses import expanded
from puma.index.interface import Row, encoded_payload
from puma.items.digest import content_digest
from puma.items.encoder import BATCH, Encoder
from puma.items.item import TEXT, Item
from puma.search.integrations import not_installed
from puma.search.queries import INSTRUCTIONS
from puma.search.searcher import Searcher

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise not_installed("langchain-core", "langchain", error) from error

Modality = str | Sequence[str] | None


class PumaEmbeddings(Embeddings):
    """An encoder as LangChain's embeddings; documents get no instruction, queries do.

    Args:
        encoder: a Retriever, or anything with its ``encode``.
        instruction: goes before every query, an empty string for none. If None, it is the encoder's own for text that
            looks for text; in a :class:`PumaVectorStore`, for text that looks for what the search asks for.
    """

    def __init__(self, encoder: Encoder, *, instruction: str | None = None) -> None:
        self.encoder, self.instruction = encoder, instruction

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """n texts to n vectors of unit length."""
        rows: list[list[float]] = self.encoder.encode([Item(text=text) for text in texts]).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """One text to one vector of unit length."""
        instruction = self.instruction
        if instruction is None:
            instruction = {**INSTRUCTIONS, **getattr(self.encoder, "instructions", {})}[TEXT, TEXT]
        row: list[float] = self.encoder.encode([Item(text=text)], instruction=instruction or None)[0].tolist()
        return row


class PumaVectorStore(VectorStore):
    """An index as LangChain's vector store. Documents are its texts; images that a Searcher added are found as well
    and come back with their caption or an empty ``page_content``, ``image`` (the path) and ``modality`` as metadata.

    Every search takes ``filter`` (the shape of :mod:`puma.index.filters`, over metadata) and ``modality``; scores are
    cosine similarities, the greater the better.

    Args:
        index: an Index, a folder's path, or a Searcher.
        embedding: any LangChain embeddings; those of a Searcher's encoder if None. With :class:`PumaEmbeddings` the
            index's model is compared with theirs; of others only the length of the vectors is known.
        modality: what is searched for if a search does not say: ``text``, ``image``, ``image,text``; None for all.

    Raises:
        InputError: neither a Searcher nor embeddings were given.
        IndexMismatchError: the index holds vectors of another model.
    """

    def __init__(
        self,
        index: Index | Searcher | str | os.PathLike[str],
        embedding: Embeddings | None = None,
        *,
        modality: str | None = None,
    ) -> None:
        plain = index.index if isinstance(index, Searcher) else index
        if embedding is None:
            if not isinstance(index, Searcher):
                raise InputError("PumaVectorStore needs embedding=PumaEmbeddings(encoder), or a Searcher as its index")
            embedding = PumaEmbeddings(index.encoder)
        self._searcher: Searcher | None = None
        if isinstance(embedding, PumaEmbeddings):
            same = index if isinstance(index, Searcher) and index.encoder is embedding.encoder else None
            self._searcher = same or Searcher(embedding.encoder, plain)
            if self._searcher.encoder is not embedding.encoder:  # the index holds shortened vectors
                embedding = PumaEmbeddings(self._searcher.encoder, instruction=embedding.instruction)
            self.index = self._searcher.index
        else:
            self.index = plain if isinstance(plain, Index) else Index(expanded(plain))
        self._embedding, self.modality = embedding, modality

    @property
    def embeddings(self) -> Embeddings:
        """Those it was made with."""
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        index: Index | Searcher | str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> PumaVectorStore:
        """A store with these texts in it; ``index`` says where."""
        if index is None:
            raise InputError("from_texts needs index=, the folder in which the vectors are to be kept")
        store = cls(index, embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_documents(
        self, documents: list[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Embed and store documents, 256 at a time, each time safe on the disk. Returns an id for each.

        Args:
            documents: their metadata must be what JSON can hold, without a key ``text``.
            ids: one each, or None; then ``Document.id``, else a digest of text and metadata: the same document is
                stored once however often it is added. A row whose id exists is replaced.

        Raises:
            InputError: lengths differ, a text is empty, metadata or an id cannot be stored.
        """
        given = [document.id for document in documents] if ids is None else list(ids)
        if len(given) != len(documents):
            raise InputError(f"ids must be as many as the documents: {len(documents)}, got {len(given)}")
        rows: dict[str, tuple[str, dict[str, Any], str]] = {}
        names = []
        for name, document in zip(given, documents, strict=True):
            text, metadata = document.page_content, document.metadata
            if "text" in metadata:
                raise InputError(
                    f"metadata key 'text' of {text!r:.60}: PUMA keeps the text itself there; rename the key"
                )
            payload = {"text": text, **metadata}
            content = content_digest(Item(text=text))
            text_of_all = encoded_payload(payload, name or repr(text)[:60])
            names.append(name or hashlib.blake2b(text_of_all.encode(), digest_size=16).hexdigest())
            rows[names[-1]] = text, payload, content
        waiting = list(rows.items())
        for start in range(0, len(waiting), BATCH):
            part = waiting[start : start + BATCH]
            vectors = _unit(self._embedding.embed_documents([text for _, (text, _, _) in part]))
            self.index.add(
                [name for name, _ in part],
                vectors,
                [TEXT] * len(part),
                [payload for _, (_, payload, _) in part],
                contents=[content for _, (_, _, content) in part],
            )
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove documents; ids that do not exist are no error. None, which other stores take for all, is refused."""
        if ids is None:
            raise InputError("delete needs ids; to start anew, make a store in another folder")
        self.index.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The stored documents of these ids, in their order, without those that do not exist."""
        rows = self.index.get(list(ids))
        return [_document(rows[name]) for name in dict.fromkeys(ids) if name in rows]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k documents most like the query. ``filter`` and ``modality``: see the class."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """As :meth:`similarity_search`, with cosine similarities."""
        return self._found(self._vector(query, kwargs.get("modality")), k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """As :meth:`similarity_search`, of a vector."""
        return [document for document, _ in self._found(_unit([embedding])[0], k, **kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """k of the ``fetch_k`` best, each as like the query and as unlike those before it as ``lambda_mult`` says
        (1: only like the query, 0: only unlike the others)."""
        return self._diverse(self._vector(query, kwargs.get("modality")), k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """As :meth:`max_marginal_relevance_search`, of a vector."""
        return self._diverse(_unit([embedding])[0], k, fetch_k, lambda_mult, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: min(1.0, max(0.0, score))

    def _vector(self, query: str, modality: Modality) -> np.ndarray:
        embedding = self._embedding
        if self._searcher is not None and isinstance(embedding, PumaEmbeddings) and embedding.instruction is None:
            instruction = self._searcher.instruction_for(TEXT, self.modality if modality is None else modality)
            embedding = PumaEmbeddings(embedding.encoder, instruction=instruction or "")
        return _unit([embedding.embed_query(query)])[0]

    def _hits(self, vector: np.ndarray, k: int, filter: Any = None, modality: Modality = None) -> list[Hit]:  # noqa: A002
        wanted = self.modality if modality is None else modality
        return self.index.search(vector[None], k, wanted, where=filter)[0]

    def _found(self, vector: np.ndarray, k: int, **kwargs: Any) -> list[tuple[Document, float]]:
        return [(_document(hit), hit.score) for hit in self._hits(vector, k, **kwargs)]

    def _diverse(self, vector: np.ndarray, k: int, fetch_k: int, weight: float, **kwargs: Any) -> list[Document]:
        hits = self._hits(vector, max(k, fetch_k), **kwargs)
        rows = self.index.get([hit.id for hit in hits])
        left = [rows[hit.id] for hit in hits if hit.id in rows]
        chosen: list[Row] = []
        while left and len(chosen) < k:
            taken = np.array([row.vector for row in chosen]).reshape(len(chosen), len(vector))
            merits = [
                weight * float(row.vector @ vector) - (1 - weight) * float((taken @ row.vector).max(initial=-1.0))
                for row in left
            ]
            chosen.append(left.pop(int(np.argmax(merits))))
        return [_document(row) for row in chosen]


def _document(row: Row | Hit) -> Document:
    metadata = {key: value for key, value in row.payload.items() if key != "text"}
    if row.modality != TEXT:
        metadata["modality"] = row.modality
    return Document(id=row.id, page_content=row.payload.get("text") or "", metadata=metadata)


def _unit(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """As [n, dim] float32 of unit length; other people's embeddings need not be."""
    array = np.asarray(rows, dtype=np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
