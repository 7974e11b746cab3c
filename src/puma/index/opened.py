"""What every ``puma.Index`` does before rows are in question: find the engine of its address, compare models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from puma.errors import IndexMismatchError, InputError
from puma.index.addresses import engine_of, scheme_of
from puma.index.interface import Engine


class OpenedIndex:
    """The part of :class:`puma.index.Index` that opens and makes it; its arguments are described there."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dim: int | None = None,
        fingerprint: str | None = None,
        create: bool = True,
    ) -> None:
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1):
            raise InputError(f"dim must be a positive integer or None, got {dim!r}")
        self.address = os.fspath(path)
        self._module, self._where = engine_of(path)
        self._dim = None if dim is None else int(dim)
        self._fingerprint = fingerprint
        self._engine: Engine | None = self._open()
        if self._engine is None:
            if not create:
                raise InputError(
                    f"{self.address}: no index there; make one with 'puma index add {self.address} FOLDER'"
                )
            if self._dim is not None:
                self._engine = self._create(self._dim)

    def bind(self, dim: int, fingerprint: str) -> None:
        """Say which model's vectors these are, without opening the index again. Where there is none yet, the first
        addition makes it for this model.

        Args:
            dim: length of the model's vectors.
            fingerprint: the model's.

        Raises:
            IndexMismatchError: the index holds, or was opened for, vectors of another length or another model.
        """
        engine = self._current()
        if engine is None:
            self._compare(dim, fingerprint, self._dim, self._fingerprint)
            self._dim, self._fingerprint = dim, fingerprint
            return
        self._compare(dim, fingerprint, engine.dim, engine.fingerprint)

    @property
    def path(self) -> Path | None:
        """The index's folder; None for an index on a server or in an object store."""
        return None if scheme_of(self.address) else Path(self.address)

    @property
    def dim(self) -> int | None:
        """Length of the vectors; None while an index without rows does not know it."""
        return self._dim if self._engine is None else self._engine.dim

    @property
    def fingerprint(self) -> str | None:
        """Of the model whose vectors these are; None if it is not known."""
        return self._fingerprint if self._engine is None else self._engine.fingerprint

    def _current(self) -> Engine | None:
        """The engine; if there was none when this object was made, another process may have made it since."""
        if self._engine is None:
            found = self._open()
            if found is not None:  # another thread may have made it after this one looked: never back to None
                self._engine = found
        return self._engine

    def _open(self) -> Engine | None:
        engine = self._module.open_table(self._where)
        if engine is not None:
            self._compare(self._dim, self._fingerprint, engine.dim, engine.fingerprint)
        return engine

    def _create(self, dim: int) -> Engine:
        engine = self._module.create_table(self._where, dim, self._fingerprint)
        self._compare(self._dim, self._fingerprint, engine.dim, engine.fingerprint)
        return engine

    def _compare(
        self, dim: int | None, fingerprint: str | None, held_dim: int | None, held_fingerprint: str | None
    ) -> None:
        """Raise IndexMismatchError unless a model fits what the index holds; None is not known and fits."""
        remedy = f"Use that model, or make a new index under another name (or delete {self.address} and add again)."
        if dim is not None and held_dim is not None and held_dim != dim:
            raise IndexMismatchError(
                f"{self.address} holds vectors of length {held_dim}, the model makes {dim}. {remedy}"
            )
        if fingerprint and held_fingerprint and held_fingerprint != fingerprint:
            raise IndexMismatchError(
                f"{self.address} was made with model {held_fingerprint}, this one is {fingerprint}. {remedy}"
            )
