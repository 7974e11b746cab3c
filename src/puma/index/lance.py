"""The embedded engine: one LanceDB table in a folder, safe against kills and shared by several processes.

Here: storing, finding and indexing rows with LanceDB. Below :data:`FLAT_ROWS` rows, and whenever exactness is asked
for, search is our own exact one; above, LanceDB's IVF_RQ index with settings that were measured to find what exact
search finds. Not here: checks of arguments (:mod:`puma.index.interface`). Nothing in this module loads torch.

Traps this file steps around: LanceDB's default search parameters lose a third of the results; a batch search over rows
not yet indexed copies them per query; a handle does not see others' writes unless told to; versions pile up; IVF_RQ
wants dimensions divisible by eight.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from puma.errors import DependencyError, IndexMismatchError, InputError, StorageError
from puma.index.exact import Block, exact_search, rounded
from puma.index.interface import Hit, Row, encoded_payload

FLAT_ROWS = 10_000
"""Up to here search is exact and no vector index is built."""
PROBES, REFINE = 40, 10
"""Partitions visited, and how many times k candidates are re-scored exactly (hit@10 against exact search: 1.000)."""
SEARCH_BATCH = 32
CACHE_FLOATS = 2**27
"""Vectors are kept in memory between exact searches up to this many floats (512 MiB); beyond, they are streamed."""
WIDE_FLOATS = 2**25
"""Up to this many they are kept in double precision, ready for exact search (256 MiB)."""
KEEP_VERSIONS = timedelta(minutes=10)
FORMAT = 1
TABLE = "items"
METADATA_KEY = b"puma"

T = TypeVar("T")


class LanceEngine:
    """See :class:`puma.index.interface.Engine`. Opened by :func:`open_table` or made by :func:`create_table`."""

    def __init__(self, folder: Path, table: Any) -> None:
        self.folder = folder
        self._table = table
        described = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
        if described.get("format") != FORMAT:
            raise IndexMismatchError(
                f"{folder}: an index of format {described.get('format')!r}; this PUMA reads format {FORMAT}. "
                "Make the index anew in another folder."
            )
        self.dim: int = int(described["dim"])
        self.fingerprint: str | None = described["fingerprint"]
        self._cached: tuple[int, _Snapshot] | None = None

    def put(self, rows: Sequence[Row]) -> None:
        import pyarrow as pa

        if not rows:
            return
        flat = pa.array(np.concatenate([row.vector for row in rows]).astype(np.float32, copy=False))
        batch = pa.table(
            {
                "id": [row.id for row in rows],
                "modality": [row.modality for row in rows],
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dim),
                "payload": [encoded_payload(row.payload, row.id) for row in rows],
                "content": [row.content for row in rows],
            },
            schema=self._table.schema,
        )
        # Insert-or-replace by id: a retry after a kill must not leave a row twice.
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        _written(self.folder, lambda: merge.execute(batch))

    def delete(self, ids: Sequence[str]) -> int:
        before = self.count()
        for part in _parts(ids, 500):
            _written(self.folder, partial(self._table.delete, _one_of(part)))
        return before - self.count()

    def get(self, ids: Sequence[str]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for part in _parts(ids, 500):
            rows |= self._rows(self._table.search().where(_one_of(part)).limit(len(part)))
        return rows

    def first(self, limit: int, modality: str | None) -> list[Row]:
        query = self._table.search().select(["id"])
        if modality is not None:
            query = query.where(_modality_is(modality))
        ids = sorted(query.to_arrow()["id"].to_pylist())[:limit]
        rows = self.get(ids)
        return [rows[name] for name in ids if name in rows]

    def _rows(self, query: Any) -> dict[str, Row]:
        found = query.to_arrow()
        vectors = _matrix(found["vector"], self.dim)
        columns = zip(*(found[name].to_pylist() for name in ("id", "modality", "payload", "content")), strict=True)
        return {
            name: Row(name, vector, modality, json.loads(payload), content)
            for vector, (name, modality, payload, content) in zip(vectors, columns, strict=True)
        }

    def count(self, modality: str | None = None) -> int:
        return int(self._table.count_rows(_modality_is(modality)))

    def search(self, vectors: np.ndarray, k: int, modality: str | None, exact: bool) -> list[list[Hit]]:
        available = self.count(modality)
        if not available:
            return [[] for _ in vectors]
        k = min(k, available)
        if exact or available <= FLAT_ROWS or not self._indexed():
            return self._exact(vectors, k, modality)
        results: list[list[Hit]] = []
        for part in _parts(vectors, SEARCH_BATCH):
            results += self._approximate(part, k, modality)
        for place, hits in enumerate(results):
            if len(hits) < k:  # a rare modality can be spread over partitions that were not visited
                results[place] = self._exact(vectors[place : place + 1], k, modality)[0]
        return results

    def optimize(self) -> None:
        from lancedb.index import BTree, IvfRq

        def work() -> None:
            present = {index.index_type for index in self._table.list_indices()}
            if self.count() > FLAT_ROWS:
                if "BTree" not in present:
                    self._table.create_index("id", config=BTree())
                if "IvfRq" not in present and self.dim % 8 == 0:
                    self._table.create_index("vector", config=IvfRq(distance_type="cosine"))
            self._table.optimize(cleanup_older_than=KEEP_VERSIONS)

        _written(self.folder, work)

    def stats(self) -> dict[str, Any]:
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        search = "ivf_rq" if self._indexed() and self.count() > FLAT_ROWS else "exact"
        return {"engine": "lancedb", "search": search, "bytes": size, "version": int(self._table.version)}

    def _indexed(self) -> bool:
        """Whether the vector index exists and covers most rows: over many others LanceDB would scan anyway."""
        for index in self._table.list_indices():
            if index.index_type == "IvfRq":
                stats = self._table.index_stats(index.name)
                return stats is not None and stats.num_unindexed_rows <= max(FLAT_ROWS, stats.num_indexed_rows)
        return False

    def _approximate(self, vectors: np.ndarray, k: int, modality: str | None) -> list[list[Hit]]:
        query = self._table.search(vectors, vector_column_name="vector").distance_type("cosine")
        query = query.nprobes(PROBES).refine_factor(REFINE).limit(k)
        if modality is not None:
            query = query.where(_modality_is(modality), prefilter=True)
        table = query.select(["id", "modality", "payload", "_distance"]).to_arrow()
        scores = rounded(1.0 - table["_distance"].to_numpy())
        places = table["query_index"].to_pylist() if "query_index" in table.schema.names else [0] * len(table)
        hits: list[list[Hit]] = [[] for _ in vectors]
        columns = zip(*(table[name].to_pylist() for name in ("id", "modality", "payload")), strict=True)
        for place, score, (name, kind, payload) in zip(places, scores, columns, strict=True):
            hits[place].append(Hit(name, float(score), kind, json.loads(payload)))
        for row in hits:
            row.sort(key=lambda hit: (-hit.score, hit.id))
        return hits

    def _exact(self, vectors: np.ndarray, k: int, modality: str | None) -> list[list[Hit]]:
        if self.count() * self.dim <= CACHE_FLOATS:
            snapshot = self._snapshot()
            found = exact_search(vectors, [snapshot.block(modality)], k)
            return [[snapshot.hit(name, score) for name, score in row] for row in found]
        found = exact_search(vectors, self._blocks(modality), k)
        rows = self.get(sorted({name for row in found for name, _ in row}))
        return [
            [Hit(name, score, rows[name].modality, rows[name].payload) for name, score in row if name in rows]
            for row in found
        ]

    def _blocks(self, modality: str | None) -> Iterator[Block]:
        query = self._table.search().select(["id", "vector"])
        if modality is not None:
            query = query.where(_modality_is(modality))
        for batch in query.to_batches(8192):
            yield batch["id"].to_pylist(), _matrix(batch["vector"], self.dim)

    def _snapshot(self) -> _Snapshot:
        version = int(self._table.version)
        if self._cached is None or self._cached[0] != version:
            columns = ["id", "modality", "vector", "payload"]
            self._cached = version, _Snapshot(self._table.search().select(columns).to_arrow(), self.dim)
        return self._cached[1]


class _Snapshot:
    """All rows of one version, in memory."""

    def __init__(self, table: Any, dim: int) -> None:
        self.ids: list[str] = table["id"].to_pylist()
        self.modalities = np.array(table["modality"].to_pylist(), dtype=object)
        matrix = _matrix(table["vector"], dim)
        self.matrix = matrix.astype(np.float64) if matrix.size <= WIDE_FLOATS else matrix
        self.payloads: list[str] = table["payload"].to_pylist()
        self.place = {name: place for place, name in enumerate(self.ids)}
        self._blocks: dict[str, Block] = {}

    def block(self, modality: str | None) -> Block:
        if modality is None:
            return self.ids, self.matrix
        if modality not in self._blocks:
            keep = np.flatnonzero(self.modalities == modality)
            self._blocks[modality] = [self.ids[place] for place in keep], self.matrix[keep]
        return self._blocks[modality]

    def hit(self, name: str, score: float) -> Hit:
        place = self.place[name]
        return Hit(name, score, self.modalities[place], json.loads(self.payloads[place]))


def open_table(folder: Path) -> LanceEngine | None:
    """The engine on an existing folder; None where no index was ever finished.

    Raises:
        InputError: the folder holds other things than an index.
        StorageError: there is an index, and it cannot be read.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; an index is a folder")
    entries = set(os.listdir(folder))
    versions = folder / f"{TABLE}.lance" / "_versions"
    if not (versions.is_dir() and any(versions.iterdir())):
        if entries - {f"{TABLE}.lance"}:
            raise InputError(f"{folder}: is a folder with other things in it, and no index; choose an empty one")
        return None
    try:
        return LanceEngine(folder, _connect(folder).open_table(TABLE))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, IndexMismatchError):
            raise
        raise StorageError(f"{folder}: the index cannot be opened ({error}); make it anew in another folder") from None


def create_table(folder: Path, dim: int, fingerprint: str | None) -> LanceEngine:
    """Make an empty index; if another process was faster, open what it made."""
    import pyarrow as pa

    described = json.dumps({"format": FORMAT, "dim": dim, "fingerprint": fingerprint}).encode()
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("modality", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("payload", pa.string(), nullable=False),
            pa.field("content", pa.string(), nullable=False),
        ],
        metadata={METADATA_KEY: described},
    )

    def work() -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        return _connect(folder).create_table(TABLE, schema=schema, exist_ok=True)

    return LanceEngine(folder, _written(folder, work))


def _connect(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError:
        raise DependencyError("the embedded index needs LanceDB: pip install lancedb") from None
    # Zero: every read looks for other processes' writes first (0.1 ms). The default never looks.
    return lancedb.connect(folder, read_consistency_interval=timedelta(0))


def _written(folder: Path, work: Callable[[], T], attempts: int = 6) -> T:
    """Run a write; try again when another process wrote at the same moment; say what is wrong with the disk."""
    for attempt in range(attempts):
        try:
            return work()
        except (OSError, RuntimeError) as error:
            text = str(error)
            if "conflict" in text.lower() and attempt + 1 < attempts:
                time.sleep(0.05 * 2**attempt)
                continue
            if "no space left" in text.lower() or "os error 28" in text.lower():
                raise StorageError(
                    f"{folder}: the disk is full; free some space and repeat (what was added before is safe)"
                ) from None
            raise StorageError(f"{folder}: the index cannot be written ({text[:300]})") from None
    raise AssertionError("unreachable")


def _matrix(column: Any, dim: int) -> np.ndarray:
    """A fixed-size-list column as float32 [rows, dim]."""
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.zeros((0, dim), dtype=np.float32)


def _parts(values: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _one_of(ids: Sequence[str]) -> str:
    """An SQL condition; a quote inside an id is doubled, which is all the escaping SQL strings have."""
    return "id IN (" + ", ".join("'" + name.replace("'", "''") + "'" for name in ids) + ")"


def _modality_is(modality: str | None) -> str | None:
    return None if modality is None else f"modality = '{modality}'"
