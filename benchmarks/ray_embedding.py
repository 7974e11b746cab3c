"""Embedding by the workers of a Ray cluster beside the in-process loop: items a second, alternating in one run.

Each turn fills an empty index from the same folder. The start and the steady rate are separate figures.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from _machine import described
from puma.cli.commands._engine import load_cut
from puma.items.remote import RayEncoder
from puma.search import Searcher
from puma.storage.folders import write_json


def make_items(folder: Path, images: int, texts: int, seed: int) -> None:
    """Images of noise, 96 pixels a side, and a file of sentences."""
    rng = np.random.default_rng(seed)
    for number in range(images):
        Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    words = [f"word{number}" for number in range(200)]
    lines = [json.dumps({"text": " ".join(rng.choice(words, 8))}) for _ in range(texts)]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")


def filled(encoder: Any, items: Path, batch_size: int) -> float:
    """Items a second of filling an empty index."""
    with tempfile.TemporaryDirectory() as place:
        searcher, begin = Searcher(encoder, Path(place, "index")), time.perf_counter()
        added = searcher.add_paths([items], batch_size=batch_size, progress=False)
        return added.embedded / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--texts", type=int, default=576)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ray_embedding.json")
    args = parser.parse_args()
    load = functools.partial(load_cut, None, None, None, None, None)
    here = load()
    rates: dict[str, list[float]] = {}
    starts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        items = Path(folder)
        make_items(items, args.images, args.texts, args.seed)
        filled(here, items, args.batch_size)
        for _ in range(args.rounds):
            rates.setdefault("in process", []).append(filled(here, items, args.batch_size))
            for workers in args.workers:
                begin = time.perf_counter()
                with RayEncoder(load, address="local", workers=workers) as encoder:
                    starts.setdefault(f"{workers}", []).append(time.perf_counter() - begin)
                    filled(encoder, items, args.batch_size)
                    rates.setdefault(f"{workers}", []).append(filled(encoder, items, args.batch_size))
    cores = len(os.sched_getaffinity(0))
    settings = {name: getattr(args, name) for name in ("images", "texts", "batch_size", "rounds", "seed")}
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: value / median["in process"] for name, value in median.items()}
    result = {"command": "python benchmarks/ray_embedding.py", **described(), **settings}
    result |= {"cores": cores, "items_per_second": rates, "start_seconds": starts}
    result |= {"median_items_per_second": median, "ratio_to_in_process": ratios}
    write_json(args.out, result)
    print(json.dumps({"median": median, "ratios": ratios, "starts": starts}, indent=1))


if __name__ == "__main__":
    main()
