"""Latency of a text search over 200,000 rows, end to end over HTTP through ``puma serve``, and of its parts.

    python benchmarks/search_latency.py                       about ten minutes the first time, two after
    python benchmarks/search_latency.py --rows 5000 --queries 50 --out /tmp/trial.json

The rows are unit vectors around the model's own embeddings of captions, with payloads as an ingest writes them; the
index carries the model's fingerprint, so that the service takes it for one of its own. The questions are captions of
another split: real texts, embedded for real. One client asks one question after another on a kept connection, every
text once. The parts are the same calls in this process, without HTTP, on the same texts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from _clients import Connection, latencies
from _machine import described
from _service import Served, captions, model_folder, search_body
from puma.cli.commands._shared import quiet_libraries
from puma.index import Index
from puma.items import Item
from puma.mini.openpics import build
from puma.retriever.model import Retriever
from puma.search import Searcher
from puma.storage.folders import write_json

CENTRES = 2000
NOISE = 0.6
"""Length of what is added to a unit centre, at random."""
BLOCK = 10_000
KINDS: dict[str, dict[str, Any]] = {
    "any": {},
    "pictures only": {"modality": "image"},
    "with a filter": {"where": {"type": "eq", "key": "brand", "value": "b3"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: PUMA_MODEL or puma-mini")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1000, help="of each kind")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("runs/search-latency"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search_latency.json")
    options = parser.parse_args()
    quiet_libraries()
    model = model_folder(options.model)
    retriever = Retriever.from_pretrained(model)
    root = build()
    path, seconds = made_index(retriever, root, options.work, options.rows)
    questions = captions(root)[: options.queries]
    found: dict[str, Any] = {}
    with Served([path], model) as served:
        served.wait("/search", search_body("warm", options.k))
        for name, more in KINDS.items():
            found[name] = asyncio.run(asked(served.port, [search_body(text, options.k, **more) for text in questions]))
    result = {
        "format": 1,
        "rows": options.rows,
        "dim": retriever.dim,
        "k": options.k,
        "queries": len(questions),
        "index": seconds,
        "end_to_end": found,
        "parts": parts(Searcher(retriever, path), questions, options.k),
        **described(),
    }
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


async def asked(port: int, bodies: list[str]) -> dict[str, Any]:
    """Latencies of the client, and of the service's own clock (``took_ms``)."""
    connection = Connection(port)
    for body in bodies[:20]:
        await connection.ask("/search", body)
    times, own, hits = [], [], 0
    for body in bodies:
        start = time.perf_counter()
        status, answer = await connection.ask("/search", body)
        times.append(time.perf_counter() - start)
        if status != 200:
            raise SystemExit(f"a search was answered with {status}: {answer[:300]!r}")
        said = json.loads(answer)
        own.append(said["took_ms"] / 1e3)
        hits += len(said["hits"])
    connection.close()
    return {**latencies(times), "inside_the_service": latencies(own), "hits_per_answer": round(hits / len(bodies), 2)}


def parts(searcher: Searcher, texts: list[str], k: int) -> dict[str, Any]:
    items = [Item(text=text) for text in texts]
    instruction = searcher.instruction_for("text", None)
    vectors = searcher.encoder.encode(items, instruction=instruction)
    found: dict[str, Any] = {
        "encoding one text": timed(
            lambda place: searcher.encoder.encode([items[place]], instruction=instruction), len(items)
        )
    }
    for name, more in KINDS.items():

        def search(place: int, more: dict[str, Any] = more) -> object:
            return searcher.index.search(vectors[place : place + 1], k, **more)

        found[f"index, {name}"] = timed(search, len(items))
    return found


def timed(call: Callable[[int], object], count: int) -> dict[str, Any]:
    for place in range(min(10, count)):
        call(place)
    times = []
    for place in range(count):
        start = time.perf_counter()
        call(place)
        times.append(time.perf_counter() - start)
    return latencies(times)


def made_index(retriever: Retriever, root: Path, work: Path, rows: int) -> tuple[Path, dict[str, Any]]:
    path = work / f"{retriever.fingerprint[:12]}-{rows}.index"
    index = Index(path, dim=retriever.dim, fingerprint=retriever.fingerprint)
    seconds: dict[str, Any] = {"was_there": index.count() >= rows}
    if index.count() < rows:
        centres = retriever.encode([Item(text=text) for text in captions(root, "train")[:CENTRES]])
        start = time.perf_counter()
        for ids, vectors, modalities, payloads in blocks(centres, rows):
            index.add(ids, vectors, modalities, payloads)
        seconds["add_s"] = round(time.perf_counter() - start, 1)
        start = time.perf_counter()
        index.optimize()
        seconds["optimize_s"] = round(time.perf_counter() - start, 1)
    seconds["stats"] = {name: value for name, value in index.stats().items() if isinstance(value, (int, float, str))}
    seconds["stats"].pop("path", None)
    return path, seconds


def blocks(centres: np.ndarray, rows: int) -> Iterator[tuple[list[str], np.ndarray, list[str], list[dict[str, Any]]]]:
    chance = np.random.default_rng(0)
    dim = centres.shape[1]
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        vectors = centres[chance.integers(0, len(centres), count)]
        vectors = vectors + chance.standard_normal((count, dim)).astype(np.float32) * (NOISE / dim**0.5)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        numbers = range(start, start + count)
        # Two thirds images with captions or without, as in a collection of images.
        kinds = [("image", "image,text", "text")[number % 3] for number in numbers]
        payloads = [
            {
                "text": f"caption number {number}",
                "brand": f"b{number % 10}",
                "price": number % 500 / 10,
                "new": number % 7 == 0,
            }
            for number in numbers
        ]
        yield [f"row-{number:07d}" for number in numbers], vectors.astype(np.float32), kinds, payloads


if __name__ == "__main__":
    main()
