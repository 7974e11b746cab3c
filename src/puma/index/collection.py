"""``puma.Index``: the index as people use it, over whichever engine its address names.

Here: opening, creating, comparing with the model, and checking every argument. Not here: storing and searching
(:mod:`puma.index.lance`). Nothing in this module loads torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import IndexMismatchError, InputError
from puma.index import lance
from puma.index.interface import (
    Engine,
    Hit,
    Row,
    checked_ids,
    checked_k,
    checked_modality,
    checked_vectors,
    encoded_payload,
)
from puma.items import MODALITIES


class Index:
    """Unit vectors with ids, modalities and payloads, in a folder. Rows that :meth:`add` has returned for survive a
    kill; several processes may read and write at once.

    Args:
        path: the index's folder. It is made on the first :meth:`add` (at once if ``dim`` is given).
        dim: length of the vectors; taken from the first ones if None.
        fingerprint: of the model that makes the vectors (``encoder.fingerprint``); stored when the index is made and
            compared whenever both are known.
        create: False if the index must exist already.

    Raises:
        InputError: the path is no index and cannot become one, or ``create`` is False and there is none.
        IndexMismatchError: the index holds vectors of another length or another model.

    Examples:
        >>> import tempfile, numpy as np
        >>> index = Index(tempfile.mkdtemp(), dim=2)
        >>> index.add(["east", "north"], np.eye(2), ["text", "text"])
        >>> [hit.id for hit in index.search(np.array([0.6, 0.8]), k=2)[0]]
        ['north', 'east']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dim: int | None = None,
        fingerprint: str | None = None,
        create: bool = True,
    ) -> None:
        if "://" in os.fspath(path):
            raise InputError(f"index address {os.fspath(path)!r}: only folders can be opened in this version")
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1):
            raise InputError(f"dim must be a positive integer or None, got {dim!r}")
        self.path = Path(path)
        self._dim = None if dim is None else int(dim)
        self._fingerprint = fingerprint
        self._engine: Engine | None = self._opened()
        if self._engine is None:
            if not create:
                raise InputError(f"{self.path}: no index there; make one with 'puma index add {self.path} FOLDER'")
            if self._dim is not None:
                self._engine = self._made(self._dim)

    @property
    def dim(self) -> int | None:
        """Length of the vectors; None while an index without rows does not know it."""
        return self._dim if self._engine is None else self._engine.dim

    @property
    def fingerprint(self) -> str | None:
        """Of the model whose vectors these are; None if it was never told."""
        return self._fingerprint if self._engine is None else self._engine.fingerprint

    def add(
        self,
        ids: Sequence[str],
        vectors: Any,
        modalities: Sequence[str],
        payloads: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        contents: Sequence[str] | None = None,
    ) -> None:
        """Insert rows, or replace those whose ids exist. When this returns, the rows are on the disk; when it raises,
        none of them is.

        Args:
            ids: n distinct strings.
            vectors: [n, dim], finite, rows of unit length.
            modalities: n of ``text``, ``image``, ``image,text``.
            payloads: n dicts that JSON can hold (None for an empty one), returned with every hit.
            contents: n digests of what was embedded (the ids if None); see :meth:`get`.

        Raises:
            InputError: an argument is not as described, or their lengths differ.
            StorageError: the disk is full or cannot be written.
        """
        names = checked_ids(ids)
        array = checked_vectors(vectors, self.dim)
        payloads = [None] * len(names) if payloads is None else list(payloads)
        contents = names if contents is None else list(contents)
        lengths = {"ids": len(names), "vectors": len(array), "modalities": len(modalities)}
        lengths |= {"payloads": len(payloads), "contents": len(contents)}
        if isinstance(modalities, str) or len(set(lengths.values())) != 1:
            raise InputError(f"the arguments of add must be equally long sequences, got {lengths}")
        for modality in modalities:
            if modality not in MODALITIES:
                raise InputError(f"modalities must be of {', '.join(map(repr, MODALITIES))}, got {modality!r}")
        for name, payload in zip(names, payloads, strict=True):
            encoded_payload(payload, name)
        if not names:
            return
        rows = [
            Row(name, vector, modality, dict(payload or {}), content)
            for name, vector, modality, payload, content in zip(
                names, array, modalities, payloads, contents, strict=True
            )
        ]
        if self._engine is None:
            self._engine = self._opened() or self._made(array.shape[1])
            checked_vectors(array, self._engine.dim)  # another process may just have made it
        self._engine.put(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows; ids that do not exist are no error. Returns how many were removed."""
        names = checked_ids(ids, unique=False)
        engine = self._current()
        return 0 if engine is None else engine.delete(names)

    def get(self, ids: Sequence[str]) -> dict[str, Row]:
        """The stored rows of these ids, without those that do not exist."""
        names = checked_ids(ids, unique=False)
        engine = self._current()
        return {} if engine is None else engine.get(names)

    def first(self, limit: int, modality: str | None = None) -> list[Row]:
        """The first rows by id (of one modality)."""
        limit = checked_k(limit)
        checked_modality(modality)
        engine = self._current()
        return [] if engine is None else engine.first(limit, modality)

    def search(self, vectors: Any, k: int, modality: str | None = None, *, exact: bool = False) -> list[list[Hit]]:
        """The k nearest rows of each vector by cosine similarity.

        Args:
            vectors: [n, dim] or [dim], rows of unit length.
            k: at least 1; if there are fewer rows, all come back.
            modality: only rows of this modality; filtered before ranking, so k of them come back if there are k.
            exact: search without the approximate index. Up to 10,000 rows every search is exact.

        Returns:
            n lists of hits, scores descending, equal scores by id.

        Raises:
            InputError: an argument is not as described.
        """
        k = checked_k(k)
        checked_modality(modality)
        engine = self._current()
        array = checked_vectors(vectors, self.dim, "query vectors")
        if engine is None or not len(array):
            return [[] for _ in array]
        return engine.search(array, k, modality, exact)

    def optimize(self) -> None:
        """Make search fast after many additions: fold new rows into the approximate index, drop old versions."""
        engine = self._current()
        if engine is not None:
            engine.optimize()

    def stats(self) -> dict[str, Any]:
        """Rows, rows by modality, dim, fingerprint, engine, kind of search, bytes on disk."""
        engine = self._current()
        counts = {name: 0 if engine is None else engine.count(name) for name in MODALITIES}
        described = {"rows": len(self), "modalities": counts, "dim": self.dim, "fingerprint": self.fingerprint}
        return described | (engine.stats() if engine is not None else {})

    def __len__(self) -> int:
        engine = self._current()
        return 0 if engine is None else engine.count()

    def __repr__(self) -> str:
        return f"Index({os.fspath(self.path)!r}, rows={len(self)}, dim={self.dim}, fingerprint={self.fingerprint!r})"

    def _current(self) -> Engine | None:
        """The engine; if there was none when this object was made, another process may have made it since."""
        if self._engine is None:
            self._engine = self._opened()
        return self._engine

    def _opened(self) -> Engine | None:
        engine = lance.open_table(self.path)
        if engine is not None:
            self._compare(engine)
        return engine

    def _made(self, dim: int) -> Engine:
        engine = lance.create_table(self.path, dim, self._fingerprint)
        self._compare(engine)
        return engine

    def _compare(self, engine: Engine) -> None:
        remedy = f"Use that model, or make a new index in another folder (or delete {self.path} and add again)."
        if self._dim is not None and engine.dim != self._dim:
            raise IndexMismatchError(
                f"{self.path} holds vectors of length {engine.dim}, the model makes {self._dim}. {remedy}"
            )
        if self._fingerprint and engine.fingerprint and engine.fingerprint != self._fingerprint:
            raise IndexMismatchError(
                f"{self.path} was made with model {engine.fingerprint}, this one is {self._fingerprint}. {remedy}"
            )
