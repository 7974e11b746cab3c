"""How time grows: of encoding with the number of items, their length and the decoder's depth, of search with the rows.

    OMP_NUM_THREADS=1 python benchmarks/growth.py                      under four minutes
    python benchmarks/growth.py --quick --out growth-quick.json

The model has random weights and is shaped like Qwen2-VL at small width (_qwen_cut.py). Each series is gone through
several times, up and down in turn, so that a slow moment of the machine does not bend it. The exponent is the
least-squares slope of log time over log size, of each time through; given are its median and its range. 1 is linear;
what is constant beside it (the start of a call, the embedding of a query) pulls it below.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from _machine import described
from _qwen_cut import qwen_cut
from puma.cli.commands._shared import quiet_libraries
from puma.index import Index
from puma.index.exact.small import exact_search
from puma.items import Item
from puma.retriever.encoding import ret_states
from puma.retriever.model import Retriever
from puma.storage.folders import write_json

WIDTH, LAYERS, DIM = 128, 4, 128
TOKENS = 32
"""Of a text in the series of numbers of items and of depth."""
SIZES = {
    "items": (64, 128, 256, 512, 1024, 2048),
    "tokens of an item": (16, 32, 64, 128, 256, 512, 1024),
    "decoder layers": (2, 4, 6, 12, 24),
    "rows, exact search in memory": (4096, 16384, 65536, 262144),
    "rows, index on the disk": (1024, 4096, 16384, 65536),
}
QUICK = {
    "items": (32, 64, 128),
    "tokens of an item": (16, 64, 256),
    "decoder layers": (2, 4, 6),
    "rows, exact search in memory": (1024, 4096, 16384),
    "rows, index on the disk": (256, 1024, 2048),
}
Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and small sizes: whether it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "growth.json")
    options = parser.parse_args()
    quiet_libraries()
    sizes = QUICK if options.quick else SIZES
    makers: dict[str, Callable[[int, Path, int], Call]] = {
        "items": lambda size, folder, seed: encoding(folder, size, TOKENS, LAYERS, seed),
        "tokens of an item": lambda size, folder, seed: encoding(folder, 8, size, LAYERS, seed),
        "decoder layers": lambda size, folder, seed: encoding(folder, 64, TOKENS, size, seed),
        "rows, exact search in memory": exact,
        "rows, index on the disk": indexed,
    }
    rows = []
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as folder:
            calls = {size: make(size, Path(folder) / str(size), options.seed) for size in sizes[name]}
            rows.append(series(name, calls, options.rounds))
        print(rows[-1], flush=True)
    result = {"format": 1, "command": "python benchmarks/growth.py", "seed": options.seed, **described(), "rows": rows}
    write_json(options.out, result | {"rounds": options.rounds, "width": WIDTH, "layers": LAYERS})
    print(table(rows))


def series(name: str, calls: dict[int, Call], rounds: int) -> dict[str, Any]:
    """Seconds at each size, and the exponent."""
    seconds: dict[int, list[float]] = {size: [] for size in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for size in list(calls) if turn % 2 == 0 else reversed(calls):
            begun = time.perf_counter()
            calls[size]()
            seconds[size].append(time.perf_counter() - begun)
    logs = np.log(np.array(list(calls), dtype=np.float64))
    slopes = [float(np.polyfit(logs, np.log([seconds[size][n] for size in calls]), 1)[0]) for n in range(rounds)]
    half = max(2, len(calls) // 2)
    upper = [
        float(np.polyfit(logs[-half:], np.log([seconds[size][n] for size in list(calls)[-half:]]), 1)[0])
        for n in range(rounds)
    ]
    return {
        "series": name,
        "seconds": {str(size): round(statistics.median(times), 5) for size, times in seconds.items()},
        "exponent": round(statistics.median(slopes), 3),
        "exponent_range": [round(min(slopes), 3), round(max(slopes), 3)],
        "exponent_of_the_upper_half": round(statistics.median(upper), 3),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| time of | sizes | seconds | exponent (range) | of the upper half |", "|---|---|---|---|---|"]
    for row in rows:
        ends = list(row["seconds"].items())
        (first, begun), (last, ended) = ends[0], ends[-1]
        low, high = row["exponent_range"]
        lines.append(
            f"| {row['series']} | {int(first):,} to {int(last):,} | {begun:.3g} to {ended:.3g} | {row['exponent']:.2f} "
            f"({low:.2f} to {high:.2f}) | {row['exponent_of_the_upper_half']:.2f} |"
        )
    return "\n".join(lines)


def encoding(folder: Path, count: int, tokens: int, layers: int, seed: int) -> Call:
    """Embeds so many texts of so many tokens each (the prompt's not counted), with nothing kept of earlier calls."""
    retriever = Retriever.from_pretrained(qwen_cut(folder, seed, layers, WIDTH), device="cpu")
    retriever = Retriever(retriever.model, retriever.processor, replace(retriever.prompt, max_text_tokens=4096))
    items = texts(retriever, count, tokens, np.random.default_rng(seed))

    def embed() -> None:
        ret_states.MEMORIES.clear()
        retriever.encode(items)

    return embed


def texts(retriever: Retriever, count: int, tokens: int, generator: np.random.Generator) -> list[Item]:
    """Random letters, no two texts alike, each cut behind so many tokens of the model."""
    found = []
    for n in range(count):
        letters = "".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz "), 8 * tokens))
        text = f"{n} {letters}"
        found.append(Item(text=text[: retriever.inputs.offsets(text)[tokens - 1][1]]))
    return found


def _vectors(count: int, generator: np.random.Generator) -> np.ndarray:
    found = generator.normal(size=(count, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def exact(rows: int, folder: Path, seed: int) -> Call:
    """Searches eight queries in a matrix."""
    generator = np.random.default_rng(seed)
    ids, matrix, queries = [f"{n:08}" for n in range(rows)], _vectors(rows, generator), _vectors(8, generator)
    return lambda: exact_search(queries, [(ids, matrix)], 10)


def indexed(rows: int, folder: Path, seed: int) -> Call:
    """Searches eight queries, one a call, in an index as ``puma index add`` leaves it."""
    generator = np.random.default_rng(seed)
    matrix, queries = _vectors(rows, generator), _vectors(8, generator)
    index = Index(folder, dim=DIM, fingerprint="random")
    for start in range(0, rows, 16384):
        part = matrix[start : start + 16384]
        index.add([f"{start + n:08}" for n in range(len(part))], part, ["text"] * len(part))
    index.compact()

    def search() -> None:
        for query in queries:
            index.search(query, 10)

    return search


if __name__ == "__main__":
    main()
