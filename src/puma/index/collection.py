"""``puma.Index``: the public class, which checks every argument and hands the work to an engine. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from puma.index.additions import checked_addition, checked_pairs, checked_places, checked_source, checked_under
from puma.index.filters import checked_filter
from puma.index.interface import (
    Hit,
    PayloadJson,
    Row,
    checked_ids,
    checked_k,
    checked_modality,
    checked_vectors,
)
from puma.index.opened import OpenedIndex
from puma.index.provenance import Place, Stamp
from puma.index.reads import one_read
from puma.items.item import MODALITIES


class Index(OpenedIndex):
    """Unit vectors with ids, modalities and payloads, in a folder or on a server. Rows that :meth:`add` has returned
    for survive a kill; several processes may read and write at once.

    Args:
        path: the index's folder, or an address (:mod:`puma.index.addresses`). The index is made on the first
            :meth:`add` (at once if ``dim`` is given).
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

    def add(
        self,
        ids: Sequence[str],
        vectors: Any,
        modalities: Sequence[str],
        payloads: Sequence[Mapping[str, Any] | PayloadJson | None] | None = None,
        *,
        contents: Sequence[str] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
        sources: Sequence[str | None] | None = None,
    ) -> None:
        """Insert rows, or replace those whose ids exist (with all their places, see :meth:`add_places`). When this
        returns, the rows are on the disk; when it raises, none of them is.

        Args:
            ids: n distinct strings.
            vectors: [n, dim], finite, rows of unit length.
            modalities: n of ``text``, ``image``, ``image,text``.
            payloads: n dicts that JSON can hold (None for an empty one), returned with every hit.
            contents: n digests of what was embedded (the ids if None); see :meth:`get`.
            thumbnails: n small images as bytes, kept by content; None where there is none or it is stored already.
            sources: n paths (or other names) that the items came from; see :meth:`forget_sources`.

        Raises:
            InputError: an argument is not as described, or their lengths differ.
            StorageError: the disk is full or cannot be written.
        """
        addition = checked_addition(self.dim, ids, vectors, modalities, payloads, contents, thumbnails, sources)
        if not addition.rows:
            return
        engine = self._engine
        if engine is None:
            engine = self._engine = self._open() or self._create(len(addition.rows[0].vector))
            checked_vectors(vectors, engine.dim)  # another process may just have made it
        engine.put(addition.rows, addition.thumbnails, addition.sources)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows; ids that do not exist are no error. Returns how many were removed."""
        names = checked_ids(ids, unique=False)
        engine = self._current()
        return 0 if engine is None else engine.delete(names)

    def get(self, ids: Sequence[str], *, vectors: bool = True) -> dict[str, Row]:
        """The stored rows of these ids, without those that do not exist; faster without their vectors."""
        names = checked_ids(ids, unique=False)
        engine = self._current()
        return {} if engine is None else engine.get(names, vectors)

    def page(
        self,
        limit: int,
        after: str | None = None,
        modality: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        *,
        vectors: bool = True,
    ) -> list[Row]:
        """Rows in the order of their ids.

        Args:
            limit: at most so many, at least 1.
            after: only ids that come after this one: the last id of the page before.
            modality: only rows of this modality, or of one of several.
            where: only rows that fit this filter, see :mod:`puma.index.filters`.
            vectors: False leaves the rows' vectors empty, which is faster.

        Raises:
            InputError: an argument is not as described.
        """
        limit = checked_k(limit, "limit")
        if after is not None:
            checked_ids([after])
        kinds, fits = checked_modality(modality), checked_filter(where)
        engine = self._current()
        return [] if engine is None else engine.page(limit, after, kinds, fits, vectors)

    def scan(self, batch: int = 1024, vectors: bool = True) -> Iterator[list[Row]]:
        """All rows, ``batch`` at a time, as they were when the first batch was requested. An index that is compacted
        while it is read may raise StorageError; scan again then."""
        batch = checked_k(batch, "batch")
        engine = self._current()
        return iter(()) if engine is None else engine.scan(batch, vectors)

    def search(
        self,
        vectors: Any,
        k: int,
        modality: str | Sequence[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The k nearest rows of each vector by cosine similarity.

        Args:
            vectors: [n, dim] or [dim], rows of unit length.
            k: at least 1; if there are fewer rows, all come back.
            modality: only rows of this modality, or of one of several; filtered before ranking, so k of them come back
                if there are k.
            where: only rows that fit this filter, before ranking too; see :mod:`puma.index.filters`.
            exact: search without the approximate index. Up to 10,000 rows every search is exact.

        Returns:
            n lists of hits, scores descending, equal scores by id.

        Raises:
            InputError: an argument is not as described.

        Examples:
            >>> import tempfile, numpy as np
            >>> index = Index(tempfile.mkdtemp(), dim=2)
            >>> index.add(["cup", "jug"], np.eye(2), ["image", "image"], [{"price": 4}, {"price": 19}])
            >>> cheap = {"type": "lt", "key": "price", "value": 10}
            >>> [hit.id for hit in index.search(np.array([0.6, 0.8]), k=2, where=cheap)[0]]
            ['cup']
        """
        k = checked_k(k)
        kinds, fits = checked_modality(modality), checked_filter(where)
        engine = self._current()
        array = checked_vectors(vectors, self.dim, "query vectors")
        if engine is None or not len(array):
            return [[] for _ in array]
        return engine.search(array, k, kinds, fits, exact)

    def count(self, modality: str | Sequence[str] | None = None, where: Mapping[str, Any] | None = None) -> int:
        """How many rows are of this modality (or of these) and fit this filter."""
        kinds, fits = checked_modality(modality), checked_filter(where)
        engine = self._current()
        return 0 if engine is None else engine.count(kinds, fits)

    def sample(self) -> dict[str, np.ndarray]:
        """Random rows of each modality that there are rows of, as vectors: float32 [at most 1,000, dim]. The same rows
        each time, as long as the index does not change; while an index of more than 100,000 rows changes by less than
        a fiftieth, those drawn before."""
        engine = self._current()
        return {} if engine is None else engine.sample()

    def thumbnail(self, name: str) -> bytes | None:
        """The small image that was stored for an id; None if there is none."""
        checked_ids([name])
        engine = self._current()
        return None if engine is None else engine.thumbnail(name)

    def note_sources(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Remember ``(source, id)`` pairs: the source (a path) gave the item. One id may have several sources."""
        known = checked_pairs(pairs)
        engine = self._current()
        if engine is not None:
            engine.note_sources(known)

    def sources(self, under: Sequence[str]) -> set[tuple[str, str]]:
        """The ``(source, id)`` pairs whose source is one of these paths or lies below one."""
        paths = checked_under(under)
        engine = self._current()
        return set() if engine is None else engine.sources(paths)

    def sources_of(self, ids: Sequence[str]) -> set[tuple[str, str]]:
        """The ``(source, id)`` pairs of these ids."""
        names = checked_ids(ids, unique=False)
        engine = self._current()
        return set() if engine is None else engine.sources_of(names)

    def forget_sources(self, pairs: Iterable[tuple[str, str]]) -> int:
        """Drop ``(source, id)`` pairs, and the rows that no source holds any more. Returns how many rows went."""
        known = checked_pairs(pairs)
        engine = self._current()
        return 0 if engine is None else engine.forget_sources(known)

    def add_places(self, places: Iterable[Place]) -> list[Place]:
        """Keep further places of stored items: the same content from another source, or with other fields. Each keeps
        its own payload; filters match an item if any of its payloads fits, and hits name the others.

        Args:
            places: what is known of ids that are stored; others are passed over.

        Returns:
            Those that were new, the source alone not counted.
        """
        known = checked_places(places)
        engine = self._current()
        return [] if engine is None else engine.add_places(known)

    def places(self, under: Sequence[str]) -> list[Place]:
        """Of the items that have several payloads, the places whose source is one of these paths or lies below one."""
        paths = checked_under(under)
        engine = self._current()
        return [] if engine is None else engine.places(paths)

    def forget_places(self, places: Iterable[Place]) -> None:
        """Drop single places of items that have several payloads. An item is never left without one."""
        known = checked_places(places)
        engine = self._current()
        if engine is not None:
            engine.forget_places(known)

    def put_stamps(self, stamps: Iterable[Stamp]) -> None:
        """Remember of sources that were read to their end what their files were like, so that they need not be read
        again as long as they are (:mod:`puma.search.ingest.unchanged`)."""
        known = list(stamps)
        for stamp in known:
            checked_source(stamp.source)
        engine = self._current()
        if engine is not None:
            engine.put_stamps(known)

    def stamps(self, under: Sequence[str]) -> dict[str, Stamp]:
        """What is remembered of sources that are one of these paths or lie below one, by source."""
        paths = checked_under(under)
        engine = self._current()
        return {} if engine is None else engine.stamps(paths)

    def verify(self) -> list[str]:
        """Read everything and say in plain words what is wrong with it; an empty list for a sound index."""
        engine = self._current()
        return [] if engine is None else engine.verify()

    def compact(self) -> dict[str, int]:
        """Make the index as small and fast as it gets, at once: joins files, builds the search index, drops old
        versions and what belongs to no row.

        Returns:
            ``thumbnails_dropped``, ``sources_dropped`` and, where the engine knows its size, ``bytes_before`` and
            ``bytes_after``.
        """
        engine = self._current()
        nothing = {"bytes_before": 0, "bytes_after": 0, "thumbnails_dropped": 0, "sources_dropped": 0}
        return nothing if engine is None else engine.compact()

    def optimize(self) -> None:
        """Make search fast after many additions: fold new rows into the approximate index, drop versions older than ten
        minutes. Additions do it by themselves now and then; this does it now."""
        engine = self._current()
        if engine is not None:
            engine.optimize()

    @one_read()
    def stats(self) -> dict[str, Any]:
        """Rows, rows by modality, dim, fingerprint, engine, kind of search, bytes on disk, rows in the search index,
        files that the rows lie in, thumbnails, sources."""
        engine = self._current()
        counts = {name: 0 if engine is None else engine.count([name]) for name in MODALITIES}
        described = {"rows": len(self), "modalities": counts, "dim": self.dim, "fingerprint": self.fingerprint}
        return described | (engine.stats() if engine is not None else {})

    def __len__(self) -> int:
        engine = self._current()
        return 0 if engine is None else engine.count()

    def __repr__(self) -> str:
        return f"Index({self.address!r}, rows={len(self)}, dim={self.dim}, fingerprint={self.fingerprint!r})"
