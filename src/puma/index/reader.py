"""Finding rows in LanceDB: by id, by page, all of them, and the nearest ones. Loads no torch.

Up to :data:`FLAT_ROWS` rows, and whenever an exact search is requested, search is our own exact one; above, LanceDB's
IVF_RQ index with settings that were measured to find what exact search finds.

Traps this file avoids: LanceDB's default search parameters lose a third of the results; a batch search over rows not
yet indexed copies them per query; a handle does not see others' writes unless it is set to look for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.index import maintenance
from puma.index.companions import one_of
from puma.index.exact.small import Block, exact_search, hits_of, rounded
from puma.index.filters import Filter, as_sql, quoted
from puma.index.interface import Hit, Row
from puma.index.places import Places, shown_hits, with_other_payloads
from puma.index.sampling import Sampler
from puma.index.snapshot import Snapshot
from puma.index.tables import ITEMS, Folder, connect, matrix, parts_of, reading

FLAT_ROWS = 10_000
"""Up to here search is exact and no vector index is built."""
PROBES = 160
"""Partitions visited; one holds about 4,096 rows. All of 200,000 rows' cost half a millisecond more than 40 of them."""
CANDIDATES = 200
"""Re-scored at least. Of 200,000 clustered rows 100, 160 and 200 find 0.931, 0.990 and 1.000 of the exact ten, within
half a millisecond of one another."""
FILTERED_CANDIDATES = 1000
"""Where only some rows fit, more candidates are re-scored, up to so many: the best can be far away, where the index
sees little difference (2% of 200,000 rows fit, hit@10: 0.64 with 100 candidates, 0.91 with 400, 0.99 with 1,000)."""
SHARES_KEPT = 1000
SEARCH_BATCH = 32
CACHE_FLOATS = 2**27
"""Vectors are kept in memory between exact searches up to this many floats (512 MiB); beyond, they are streamed."""


class Reader:
    """The reading half of :class:`puma.index.lance.LanceEngine`. Any number of threads and processes may read at once.

    Args:
        folder: the index's.
        table: its open items.
        dim: length of the vectors.
    """

    def __init__(self, folder: Folder, table: Any, dim: int) -> None:
        self.folder = folder
        self.dim = dim
        self._table = table
        self._known: tuple[int, dict[str, Any]] | None = None
        self._shares: tuple[int, dict[str, float]] = -1, {}
        self._cached: tuple[int, Snapshot] | None = None
        self._places = Places(folder)
        self._sampler = Sampler(dim)

    def get(self, ids: Sequence[str], vectors: bool = True) -> dict[str, Row]:
        rows: list[Row] = []
        for part in parts_of(ids, 500):
            rows += self._found(one_of("id", part), len(part), vectors)
        return {row.id: row for row in with_other_payloads(rows, self._places)}

    def page(
        self,
        limit: int,
        after: str | None,
        modalities: Sequence[str] | None,
        where: Filter | None,
        vectors: bool = True,
    ) -> list[Row]:
        from lancedb.query import ColumnOrdering

        condition = self._condition(modalities, where)
        if after is not None:
            condition = f"id > {quoted(after)}" + (f" AND ({condition})" if condition else "")

        def work() -> list[str]:
            query = self._table.search().select(["id"]).order_by([ColumnOrdering(column_name="id")]).limit(limit)
            found: list[str] = (query if condition is None else query.where(condition)).to_arrow()["id"].to_pylist()
            return found

        ids = reading(self.folder, work)
        rows = self.get(ids, vectors)
        return [rows[name] for name in ids if name in rows]

    def scan(self, batch: int, vectors: bool) -> Iterator[list[Row]]:
        def opened() -> Any:
            table = connect(self.folder).open_table(ITEMS)
            table.checkout(table.version)  # what is written from here on is not seen
            return table.search().select(_columns(table, vectors)).to_batches(batch)

        batches = iter(reading(self.folder, opened))
        while (found := reading(self.folder, lambda: next(batches, None), attempts=1)) is not None:
            yield with_other_payloads(self._rows(found, vectors), self._places)

    def count(self, modalities: Sequence[str] | None = None, where: Filter | None = None) -> int:
        condition = self._condition(modalities, where)
        return reading(self.folder, lambda: int(self._table.count_rows(condition)))

    def search(
        self, vectors: np.ndarray, k: int, modalities: Sequence[str] | None, where: Filter | None, exact: bool
    ) -> list[list[Hit]]:
        found = reading(self.folder, lambda: self._search(vectors, k, self._condition(modalities, where), exact))
        return shown_hits(found, self._places, where)

    def sample(self) -> dict[str, np.ndarray]:
        return reading(self.folder, lambda: self._sampler.sample(self._table))

    def _condition(self, modalities: Sequence[str] | None, where: Filter | None) -> str | None:
        if where is not None and "fields" not in self._table.schema.names:
            raise InputError(
                f"{self.folder}: this index was made before filters; 'puma index compact {self.folder}' adds them"
            )
        condition = as_sql(where, modalities)
        elsewhere = [] if where is None else self._places.ids_that_fit(where)
        if not elsewhere:
            return condition
        # Any place of an item may fit: that of its row, or one that is listed.
        either = f"({as_sql(where)}) OR {one_of('id', elsewhere)}"
        kinds = as_sql(None, modalities)
        return either if kinds is None else f"{kinds} AND ({either})"

    def _state(self) -> dict[str, Any]:
        """What is known of the newest version, looked up once a version: rows, indexed rows, whether search is fast."""
        version = int(self._table.version)
        if self._known is None or self._known[0] != version:
            state = maintenance.state_of(self._table)
            # Over many rows outside the index LanceDB would scan anyway.
            outside = state["rows"] - state["indexed"]
            fast = state["rows"] > FLAT_ROWS and outside <= max(FLAT_ROWS, state["indexed"]) and state["indexed"]
            self._known = version, state | {"fast": bool(fast)}
        return self._known[1]

    def _share(self, condition: str) -> float:
        """The share of rows that fit, above 0; counted once a version."""
        version, rows = int(self._table.version), self._state()["rows"]
        if self._shares[0] != version or len(self._shares[1]) >= SHARES_KEPT:
            self._shares = version, {}
        known = self._shares[1]
        if condition not in known:
            known[condition] = max(int(self._table.count_rows(condition)), 1) / max(rows, 1)
        return known[condition]

    def _found(self, condition: str, limit: int, vectors: bool) -> list[Row]:
        def work() -> Any:
            query = self._table.search().where(condition).select(_columns(self._table, vectors))
            return query.limit(limit).to_arrow()

        return self._rows(reading(self.folder, work), vectors)

    def _rows(self, found: Any, vectors: bool) -> list[Row]:
        names = ["id", "modality", "payload", "content"]
        lists = [found[name].to_pylist() for name in names]
        with_image = found["thumbnail"].to_pylist() if "thumbnail" in found.schema.names else [False] * len(lists[0])
        rows = matrix(found["vector"], self.dim) if vectors else np.zeros((len(with_image), 0), dtype=np.float32)
        return [
            Row(name, vector, modality, json.loads(payload), content, thumbnail)
            for name, modality, payload, content, vector, thumbnail in zip(*lists, rows, with_image, strict=True)
        ]

    def _search(self, vectors: np.ndarray, k: int, condition: str | None, exact: bool) -> list[list[Hit]]:
        state = self._state()
        if not state["rows"]:
            return [[] for _ in vectors]
        k = min(k, state["rows"])
        if exact or not state["fast"]:
            return self._exact(vectors, k, condition, state["rows"])
        results: list[list[Hit]] = []
        for part in parts_of(vectors, SEARCH_BATCH):
            results += self._approximate(part, k, condition)
        if any(len(hits) < k for hits in results):
            # Few rows fit, and some can lie in partitions that were not visited.
            k = min(k, int(self._table.count_rows(condition)))
            short = [place for place, hits in enumerate(results) if len(hits) < k]
            full = self._streamed(vectors[short], k, condition) if short else []
            for place, hits in zip(short, full, strict=True):
                results[place] = hits
        return results

    def _approximate(self, vectors: np.ndarray, k: int, condition: str | None) -> list[list[Hit]]:
        query = self._table.search(vectors, vector_column_name="vector").distance_type("cosine")
        candidates = CANDIDATES + 6 * k
        if condition is not None:
            candidates = max(candidates, min(int(candidates / self._share(condition)), FILTERED_CANDIDATES))
        query = query.nprobes(PROBES).refine_factor(-(-candidates // k)).limit(k)
        if condition is not None:
            query = query.where(condition, prefilter=True)
        names = _hit_columns(self._table)
        table = query.select([*names, "_distance"]).to_arrow()
        scores = rounded(1.0 - table["_distance"].to_numpy())
        places = table["query_index"].to_pylist() if "query_index" in table.schema.names else [0] * len(table)
        hits: list[list[Hit]] = [[] for _ in vectors]
        columns = zip(*(table[name].to_pylist() for name in names), strict=True)
        for place, score, (name, kind, payload, *rest) in zip(places, scores, columns, strict=True):
            hits[place].append(Hit(name, float(score), kind, json.loads(payload), *rest))
        for row in hits:
            row.sort(key=lambda hit: (-hit.score, hit.id))
        return hits

    def _exact(self, vectors: np.ndarray, k: int, condition: str | None, rows: int) -> list[list[Hit]]:
        if rows * self.dim <= CACHE_FLOATS:
            snapshot = self._snapshot()
            block = snapshot.block(condition)
            if block is None:
                block = snapshot.keep(str(condition), self._ids(condition))
            found = exact_search(vectors, [block], k)
            return [[snapshot.hit(name, score) for name, score in row] for row in found]
        return self._streamed(vectors, k, condition)

    def _streamed(self, vectors: np.ndarray, k: int, condition: str | None) -> list[list[Hit]]:
        """Exact search past the memory: only rows that fit are read."""
        found = exact_search(vectors, self._blocks(condition), k)
        stored = self.get(sorted({name for row in found for name, _ in row}), vectors=False)
        return hits_of(found, stored)

    def _ids(self, condition: str | None) -> list[str]:
        found: list[str] = self._table.search().where(condition).select(["id"]).to_arrow()["id"].to_pylist()
        return found

    def _blocks(self, condition: str | None) -> Iterator[Block]:
        query = self._table.search().select(["id", "vector"])
        if condition is not None:
            query = query.where(condition)
        for batch in query.to_batches(8192):
            yield batch["id"].to_pylist(), matrix(batch["vector"], self.dim)

    def _snapshot(self) -> Snapshot:
        version = int(self._table.version)
        if self._cached is None or self._cached[0] != version:
            columns = [*_hit_columns(self._table), "vector"]
            self._cached = version, Snapshot(self._table.search().select(columns).to_arrow(), self.dim)
        return self._cached[1]


def _columns(table: Any, vectors: bool) -> list[str]:
    return [*_hit_columns(table), "content"] + ["vector"] * vectors


def _hit_columns(table: Any) -> list[str]:
    """In the order of :class:`Hit`, without the score; format 1 has no thumbnails."""
    return ["id", "modality", "payload"] + ["thumbnail"] * ("thumbnail" in table.schema.names)
