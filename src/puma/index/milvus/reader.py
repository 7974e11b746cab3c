"""Finding rows on Milvus: by id, by page, all of them, and the nearest ones. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from puma.index.exact.small import exact_search, hits_of, rounded
from puma.index.filters import Filter
from puma.index.interface import Hit, Row
from puma.index.milvus.collections import CELLS, ROW_FIELDS, row_of
from puma.index.milvus.companions import Places
from puma.index.milvus.connection import AT_ONCE, Server
from puma.index.milvus.expressions import expression, hexed, one_of, unhexed
from puma.index.milvus.sampling import Sampler
from puma.index.places import shown_hits, with_other_payloads
from puma.index.reads import Read, one_read
from puma.index.tables import parts_of

FLAT_ROWS = 10_000
"""Up to here every search visits all cells, which makes it exact."""
PROBES = 64
"""Cells of a segment's 512 that a search over more rows visits."""
FILTERED_ROWS = 1_000_000
"""Up to here a filtered search visits all cells: rows that do not fit cost little, and those that fit may be far."""
MOST = 16_384
"""Results a query, of a server; beyond, rows are read and ranked here."""
MORE_CANDIDATES = 16


class MilvusReader:
    """The reading half of :class:`puma.index.milvus.engine.MilvusEngine`. Any number of threads may read at once.

    Args:
        server: the server with the index.
        dim: length of the vectors.
    """

    def __init__(self, server: Server, dim: int) -> None:
        self.server, self.name, self.dim = server, server.address.name, dim
        self._places, self._sampler = Places(server), Sampler(server)

    @one_read()
    def get(self, ids: Sequence[str], vectors: bool = True) -> dict[str, Row]:
        rows: list[Row] = []
        for part in parts_of(sorted(set(map(hexed, ids))), AT_ONCE):
            rows += map(row_of, self.server.query(self.name, one_of("key", part), self._fields(vectors), len(part)))
        return {row.id: row for row in with_other_payloads(rows, self._places)}

    @one_read()
    def page(
        self,
        limit: int,
        after: str | None,
        modalities: Sequence[str] | None,
        where: Filter | None,
        vectors: bool = True,
    ) -> list[Row]:
        condition = self._condition(modalities, where)
        if after is not None:
            condition = f'key > "{hexed(after)}"' + (f" and ({condition})" if condition else "")
        pages = self.server.rows(self.name, condition, self._fields(vectors), limit)
        return with_other_payloads([row_of(entity) for page in pages for entity in page], self._places)

    def scan(self, batch: int, vectors: bool) -> Iterator[list[Row]]:
        """In the order of ids. Rows that are written meanwhile may be among them."""
        read, pages = Read(), self.server.rows(self.name, "", self._fields(vectors))
        while True:
            with read.going_on():
                page: list[Any] = next(pages, [])
                parts = [list(map(row_of, part)) for part in parts_of(page, batch)]
                found = [with_other_payloads(part, self._places) for part in parts]
            if not page:
                return
            yield from found

    def count(self, modalities: Sequence[str] | None = None, where: Filter | None = None) -> int:
        return self.server.count(self.name, self._condition(modalities, where))

    def sample(self) -> dict[str, np.ndarray]:
        return self._sampler.sample()

    @one_read()
    def search(
        self, vectors: np.ndarray, k: int, modalities: Sequence[str] | None, where: Filter | None, exact: bool
    ) -> list[list[Hit]]:
        condition = self._condition(modalities, where)
        rows = self._rows_about()
        if k + MORE_CANDIDATES > MOST:
            k = min(k, max(1, self.count()))
        if k + MORE_CANDIDATES > MOST:
            found = self._streamed(vectors, k, condition)
        else:
            every = exact or rows <= FLAT_ROWS or (bool(condition) and rows <= FILTERED_ROWS)
            probes = CELLS if every else min(CELLS, PROBES * (4 if condition else 1))
            found = self._nearest(vectors, k, condition, probes)
        return shown_hits(found, self._places, where)

    def _nearest(self, vectors: np.ndarray, k: int, condition: str, probes: int) -> list[list[Hit]]:
        """The server's candidates, scored again in double precision, with all that tie with the k-th."""
        results: list[list[Hit] | None] = [None] * len(vectors)
        limit = k + MORE_CANDIDATES
        while left := [place for place, hits in enumerate(results) if hits is None]:
            for part in parts_of(left, 64):
                given = vectors[part]
                for place, query, entities in zip(
                    part, given, self._candidates(given, limit, condition, probes), strict=True
                ):
                    hits = _ranked(query, entities)
                    tied = len(hits) >= limit and hits[-1].score == hits[k - 1].score
                    if not tied or limit == MOST:
                        results[place] = hits[:k]
            limit = min(2 * limit, MOST)
        return [hits or [] for hits in results]

    def _candidates(self, vectors: np.ndarray, limit: int, condition: str, probes: int) -> list[Any]:
        # The server reads the vectors of what it has found with a request of its own, which would wait as long again.
        seen = self.server.consistency(several=True)
        return list(
            self.server.call(
                lambda: self.server.client.search(
                    self.name,
                    data=vectors.tolist(),
                    filter=condition,
                    limit=limit,
                    output_fields=["key", "vector", "modality", "payload", "thumbnail"],
                    search_params={"metric_type": "IP", "params": {"nprobe": probes}},
                    timeout=self.server.seconds,
                    **seen,
                )
            )
        )

    def _streamed(self, vectors: np.ndarray, k: int, condition: str) -> list[list[Hit]]:
        def blocks() -> Iterator[tuple[list[str], np.ndarray]]:
            for page in self.server.rows(self.name, condition, ["vector"]):
                matrix = np.asarray([entity["vector"] for entity in page], dtype=np.float32)
                yield [unhexed(entity["key"]) for entity in page], matrix

        found = exact_search(vectors, blocks(), k)
        stored = self.get(sorted({name for row in found for name, _ in row}), vectors=False)
        return hits_of(found, stored)

    def _condition(self, modalities: Sequence[str] | None, where: Filter | None) -> str:
        elsewhere = [] if where is None else self._places.ids_that_fit(where)
        if not elsewhere:
            return expression(where, modalities)
        # Any place of an item may fit: that of its row, or one that is listed.
        either = f"({expression(where)}) or {one_of('key', map(hexed, elsewhere))}"
        kinds = expression(None, modalities)
        return f"{kinds} and ({either})" if kinds else either

    def _fields(self, vectors: bool) -> list[str]:
        return [*ROW_FIELDS, *(["vector"] if vectors else [])]

    def _rows_about(self) -> int:
        """Rows in finished segments, deleted ones counted: known at once, and enough to choose how to search."""
        found = self.server.call(
            lambda: self.server.client.get_collection_stats(self.name, timeout=self.server.seconds)
        )
        return int(found.get("row_count", 0))


def _ranked(query: np.ndarray, entities: Sequence[Any]) -> list[Hit]:
    found = [entity["entity"] for entity in entities]
    if not found:
        return []
    matrix = np.asarray([entity["vector"] for entity in found], dtype=np.float32).astype(np.float64)
    scores = rounded(matrix @ query.astype(np.float64))
    rows = [row_of({**entity, "content": ""}) for entity in found]
    hits = [
        Hit(row.id, float(score), row.modality, row.payload, row.thumbnail)
        for row, score in zip(rows, scores, strict=True)
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
