"""What smaller vectors cost and bring: hit@10 on OpenPics against bytes a vector, and the speed of an index of them.

    python benchmarks/vector_sizes.py                             # puma-mini; --model NAME=FOLDER... for others
    python benchmarks/vector_sizes.py --speed                     # the index's part, over 100,000 rows
    python benchmarks/vector_sizes.py --report                    # the tables in docs/results.md

Quality: the first numbers of each vector, of unit length again, and codes of them. ``int8``: each candidate scaled so
that its largest number is 127, and the scale; ``binary``: the signs alone. Queries stay float32. ``rescored``: the
40 best by the codes are put in order by the float32 vectors. Pools are exact: what is measured is the codes alone.

Speed: tables of LanceDB, the index's own engine, with rows around the model's embeddings of the candidates; one query
at a time on one thread, the ways in turn. ``hit@10`` is the share of the exact search's ten that are found.

Results go to ``benchmarks/results/vector_sizes.json``, a row a model and split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from _machine import described
from puma.cli.commands._shared import model_path, quiet_libraries
from puma.evaluation.encoded import InMemory
from puma.evaluation.judged import POOLS, Judged
from puma.items.dimensions import shortened
from puma.mini.openpics import build
from puma.storage.folders import write_json

RESULTS = Path(__file__).parent / "results" / "vector_sizes.json"
WIDTHS = (64, 128, 256)
CODES = ("float32", "float16", "int8", "binary")
K, RESCORED = 10, 40
ROWS, QUERIES, NOISE = 100_000, 200, 0.6
"""``NOISE``: length of what is added at random to a unit vector of a candidate."""
STORED = (("float32", "binary", 100), ("float16", "binary", 100), ("float32", "int8", 40))
"""How vectors are kept, their codes, and how many of the best by the codes are rescored; the first is the index's."""

Vectors = dict[str, np.ndarray]
"""``candidates``, and a task's queries by its name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", metavar="NAME=FOLDER", help="default: puma-mini")
    parser.add_argument("--split", default="val")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--work", type=Path, default=Path("runs/vector-sizes"), help="keeps vectors between runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    stored: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if not options.report:
        quiet_libraries()
        for given in options.model or ["puma-mini="]:
            name, _, folder = given.partition("=")
            data = Judged.read(build(), None, options.split, None, POOLS)
            vectors, trained = embedded(folder or None, data, options.work)
            if options.speed:
                stored.setdefault("speed", {})[name] = speeds(vectors, options.rows) | described()
            else:
                row = {"trained": trained, "quality": quality(vectors, data), **described()}
                stored.setdefault(options.split, {})[name] = row
            write_json(options.out, stored)
    print(report(stored))


def embedded(folder: str | None, data: Judged, work: Path) -> tuple[Vectors, list[int]]:
    """A model's vectors of a split, made once; and the lengths that it was trained for."""
    from puma.retriever.model import Retriever

    retriever = Retriever.from_pretrained(model_path(folder))
    path = work / f"{retriever.fingerprint}-{data.split}.npz"
    if not path.is_file():
        source = InMemory(retriever, 256, True, "first", None, None)
        found = {"candidates": source.candidates(data)[0]}
        found |= {str(task): source.queries(data, task)[0][0] for task in data.tasks}
        work.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}, [*retriever.dimensions, retriever.dim]


def quality(vectors: Vectors, data: Judged) -> list[dict[str, Any]]:
    """hit@10, the mean over the tasks, for every length, code, and with and without rescoring."""
    rows = []
    dim = vectors["candidates"].shape[1]
    for width in (*WIDTHS, dim):
        cut = {name: shortened(rows_of, width) for name, rows_of in vectors.items()}
        for code in CODES:
            seen = cut | {"candidates": decoded(cut["candidates"], code)}
            for rescored in (False, True) if code in ("int8", "binary") else (False,):
                row: dict[str, Any] = {"width": width, "code": code, "rescored": rescored, "bytes": size(width, code)}
                for pool in POOLS:
                    rates = [hit_rate(seen, cut if rescored else None, data, pool, task) for task in data.tasks]
                    row[pool] = round(100 * float(np.mean(rates)), 2)
                rows.append(row)
    return rows


def decoded(vectors: np.ndarray, code: str) -> np.ndarray:
    """What is left of vectors in a code: float32 [n, d]. A row's length does not matter to int8, which keeps it, nor to
    the signs, which all have the same."""
    if code == "float16":
        return vectors.astype(np.float16).astype(np.float32)
    if code == "int8":
        scale = np.abs(vectors).max(axis=1, keepdims=True) / 127
        return np.round(vectors / scale) * scale
    return np.where(vectors > 0, 1.0, -1.0).astype(np.float32) if code == "binary" else vectors


def size(width: int, code: str) -> int:
    """Bytes a vector."""
    return {"float32": 4 * width, "float16": 2 * width, "int8": width + 4, "binary": width // 8}[code]


def hit_rate(seen: Vectors, exact: Vectors | None, data: Judged, pool: str, task: Any) -> float:
    """The share of queries with something right among the first ten; ties count against us.

    Args:
        seen: what the first search looks at.
        exact: what its best are put in order by; None leaves them as they are.
    """
    view = data.view(pool, task)
    scores = seen[str(task)] @ seen["candidates"][view.places].T  # [queries, pool]
    hits = 0
    for query, (row, right) in enumerate(zip(scores, view.positives, strict=True)):
        if exact is not None and len(row) > RESCORED:
            best = np.argpartition(-row, RESCORED)[:RESCORED]
            again = np.full(len(row), -np.inf, dtype=np.float32)
            again[best] = exact["candidates"][view.places[best]] @ exact[str(task)][query]
            row = again
        elif exact is not None:
            row = exact["candidates"][view.places] @ exact[str(task)][query]
        if not len(right) or (top := row[right].max()) == -np.inf:
            continue
        above = np.round(row, 6) >= np.round(top, 6)
        above[right] = False
        hits += int(above.sum()) < K
    return hits / len(view.positives)


def speeds(vectors: Vectors, count: int) -> dict[str, Any]:
    """Milliseconds a query and bytes on disk, of the ways that the engine has."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfRq, IvfSq

    rng = np.random.default_rng(0)
    base = vectors["candidates"]
    queries = np.concatenate([rows for name, rows in vectors.items() if name != "candidates"])
    queries = queries[rng.permutation(len(queries))[:QUERIES]]
    noise = rng.normal(size=(count, base.shape[1])).astype(np.float32)
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    rows = base[rng.integers(len(base), size=count)] + noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        connection = lancedb.connect(folder)
        ways: list[tuple[dict[str, Any], Callable[[int], list[int]], np.ndarray]] = []
        for width in (*WIDTHS, base.shape[1]):
            cut, asked = shortened(rows, width), shortened(queries, width)
            exact = nearest(asked, cut)
            for stored, codes, candidates in STORED:
                name = f"{width}-{stored}-{codes}"
                kind = pa.float16() if stored == "float16" else pa.float32()
                column = pa.FixedSizeListArray.from_arrays(pa.array(cut.reshape(-1)).cast(kind), width)
                table = connection.create_table(name, pa.table({"id": np.arange(count), "vector": column}))
                plain = bytes_of(Path(folder) / f"{name}.lance")
                started = time.perf_counter()
                config = IvfRq if codes == "binary" else IvfSq
                table.create_index("vector", config=config(distance_type="cosine"))
                row = {"width": width, "stored": stored, "codes": codes, "build_s": time.perf_counter() - started}
                row |= {"vector_bytes": plain / count}
                row |= {"code_bytes": bytes_of(Path(folder) / f"{name}.lance") / count - plain / count}
                for rescored in (0, candidates):
                    ways.append((row | {"rescored": rescored}, searching(table, asked, rescored), exact))
        times: list[list[float]] = [[] for _ in ways]
        for query in range(len(queries)):
            for own, (_, search, _) in zip(times, ways, strict=True):
                started = time.perf_counter()
                search(query)
                own.append(1e3 * (time.perf_counter() - started))
        for own, (row, search, exact) in zip(times, ways, strict=True):
            ids = [search(query) for query in range(len(queries))]
            row["ms"] = round(statistics.median(own), 2)
            row["hit@10"] = share(ids, exact)
            found.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    return {"rows": count, "queries": len(queries), "ways": found}


def searching(table: Any, queries: np.ndarray, rescored: int) -> Callable[[int], list[int]]:
    """One query, as the index asks it (:mod:`puma.index.reader`)."""
    from puma.index.reader import PROBES

    def search(query: int) -> list[int]:
        built = table.search(queries[query]).distance_type("cosine").nprobes(PROBES).limit(K)
        if rescored:
            built = built.refine_factor(rescored // K)
        ids: list[int] = built.select(["id"]).to_arrow()["id"].to_pylist()
        return ids

    return search


def nearest(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The ten nearest rows of each query: int [queries, 10]."""
    return np.stack([np.argpartition(-(rows @ query), K)[:K] for query in queries])


def share(found: list[list[int]], exact: np.ndarray) -> float:
    return sum(len(set(ids) & set(row.tolist())) for ids, row in zip(found, exact, strict=True)) / exact.size


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(stored: dict[str, Any]) -> str:
    return "\n".join(line for part in (quality_lines(stored), speed_lines(stored)) for line in part)


def quality_lines(stored: dict[str, Any]) -> Iterator[str]:
    for split, models in stored.items():
        if split == "speed":
            continue
        for name, row in models.items():
            yield f"\n{name}, {split}, trained for {', '.join(map(str, row['trained']))}: hit@10, local / global\n"
            cells = {(own["width"], own["code"], own["rescored"]): own for own in row["quality"]}
            kinds = list(dict.fromkeys(key[1:] for key in cells))
            yield "| numbers | " + " | ".join(code + (", rescored" if again else "") for code, again in kinds) + " |"
            yield "|---" * (1 + len(kinds)) + "|"
            for width in dict.fromkeys(key[0] for key in cells):
                own = [cells[width, *kind] for kind in kinds]
                shown = " | ".join(f"{c['local']:.1f} / {c['global']:.1f} ({c['bytes']:,} B)" for c in own)
                yield f"| {width} | {shown} |"


def speed_lines(stored: dict[str, Any]) -> Iterator[str]:
    for name, speed in stored.get("speed", {}).items():
        yield f"\n{name}, {speed['rows']:,} rows, {speed['queries']} queries, one thread\n"
        yield "| numbers | stored | codes | rescored | bytes, stored + codes | build s | ms a query | hit@10 |"
        yield "|---" * 8 + "|"
        for way in speed["ways"]:
            cells = [way["width"], way["stored"], way["codes"], way["rescored"] or "none"]
            cells += [f"{way['vector_bytes']:,.0f} + {way['code_bytes']:,.0f}", f"{way['build_s']:.1f}", way["ms"]]
            yield "| " + " | ".join(map(str, [*cells, way["hit@10"]])) + " |"


if __name__ == "__main__":
    main()
