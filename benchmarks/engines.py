"""Engines of an index beside one another: filling, search and filtered search over the same vectors, in one run.

    python benchmarks/engines.py                        200,000 x 576, a folder and a Milvus server of the wheel
    python benchmarks/engines.py --rows 20000 --engines lancedb

The vectors are clustered (1,000 centres), as embeddings are. One row in fifty has ``rare`` true, one in two ``half``.
Truth is exact search in memory. The server is started on the loopback interface and stopped at the end. Queries are one
a call, as a service sends them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from _machine import described
from _milvus_server import MilvusServer
from puma.index import Index
from puma.index.exact.small import exact_search
from puma.storage.folders import write_json

BATCH = 1000
FILTERS: dict[str, Any] = {
    "none": None,
    "half the rows": {"type": "eq", "key": "half", "value": True},
    "2 % of the rows": {"type": "eq", "key": "rare", "value": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--engines", nargs="+", choices=("lancedb", "milvus"), default=["lancedb", "milvus"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engines.json")
    options = parser.parse_args()
    vectors, queries = clustered(options.rows, options.queries, options.dim, options.seed)
    truth = {name: true_ids(vectors, queries, name) for name in FILTERS}
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in options.engines:
            if engine == "lancedb":
                result[engine] = measured(str(Path(folder) / "i"), vectors, queries, truth)
                continue
            server = MilvusServer(Path(folder) / "server")
            begun = time.perf_counter()
            server.start()
            started = time.perf_counter() - begun
            try:
                result[engine] = measured(f"milvus://127.0.0.1:{server.port}/bench", vectors, queries, truth)
            finally:
                server.kill()
            result[engine]["server_start_s"] = round(started, 1)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    write_json(options.out, {"engines": result, "settings": settings, **described()})


def clustered(rows: int, queries: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around common centres."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(1000, dim))
    made = centres[random.integers(1000, size=rows + queries)] + 0.7 * random.normal(size=(rows + queries, dim))
    made = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return made[:rows], made[rows:]


def payload_of(row: int) -> dict[str, Any]:
    return {"n": row, "half": row % 2 == 0, "rare": row % 50 == 0}


def name_of(row: int) -> str:
    return f"{row:08d}"


def true_ids(vectors: np.ndarray, queries: np.ndarray, which: str) -> list[set[str]]:
    step = {"none": 1, "half the rows": 2, "2 % of the rows": 50}[which]
    chosen = range(0, len(vectors), step)
    found = exact_search(queries, [([name_of(row) for row in chosen], vectors[::step])], 10)
    return [{name for name, _ in row} for row in found]


def measured(
    address: str, vectors: np.ndarray, queries: np.ndarray, truth: dict[str, list[set[str]]]
) -> dict[str, Any]:
    """Fill an index and search it."""
    index = Index(address, dim=vectors.shape[1])
    begun = time.perf_counter()
    for start in range(0, len(vectors), BATCH):
        rows = range(start, min(start + BATCH, len(vectors)))
        names = [name_of(row) for row in rows]
        index.add(names, vectors[start : start + BATCH], ["image"] * len(names), [payload_of(row) for row in rows])
    added = time.perf_counter() - begun
    index.optimize()
    ready = time.perf_counter() - begun
    result: dict[str, Any] = {
        "rows_a_second": round(len(vectors) / added, 1),
        "optimize_s": round(ready - added, 1),
        "search": index.stats()["search"],
        "queries": {},
    }
    if "milvus" in address:
        result["settled_s"] = settled(index)
    for name, where in FILTERS.items():
        index.search(queries[:2], 10, where=where)
        times, hits = [], []
        for query, right in zip(queries, truth[name], strict=True):
            begun = time.perf_counter()
            found = index.search(query, 10, where=where)[0]
            times.append(1000 * (time.perf_counter() - begun))
            hits.append(len({hit.id for hit in found} & right) / 10)
        result["queries"][name] = {
            "p50_ms": round(statistics.median(times), 1),
            "p99_ms": round(float(np.percentile(times, 99)), 1),
            "hit@10": round(statistics.fmean(hits), 4),
        }
        print(address, name, result["queries"][name], flush=True)
    return result


def settled(index: Index) -> float:
    """Wait until the server has indexed all finished segments; the seconds that took."""
    begun = time.perf_counter()
    engine: Any = index._engine
    client, name = engine.server.client, engine.name
    while time.perf_counter() - begun < 600:
        about = client.describe_index(name, client.list_indexes(name)[0])
        if int(about.get("pending_index_rows", 0)) == 0:
            break
        time.sleep(1)
    return round(time.perf_counter() - begun, 1)


if __name__ == "__main__":
    main()
