"""The light run-time beside torch: whole commands, time to the service's first answer, and items a second.

    OMP_NUM_THREADS=1 python benchmarks/light.py             puma-mini; about ten minutes
    OMP_NUM_THREADS=1 python benchmarks/light.py --part encode

The model is exported in fp32 and in int8, if that was not done before, and an index of 2,000 captions is filled by
each (fp32 shares torch's). All three take turns in one run, and figures are medians. ``search`` is the whole of ``puma
search INDEX "a red fox"``, ``serve`` the time from starting ``puma serve`` to its first answered search, ``encode``
items a second of 256 short texts, 64 with an instruction of 48 words, 64 long texts, and 128 images of 320 x 240.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from _machine import described
from _service import Served, captions, model_folder, search_body
from puma.cli.commands._shared import quiet_libraries
from puma.mini.openpics import build
from puma.retriever.model import Retriever
from puma.retriever.onnx.exporting import export_onnx
from puma.retriever.onnx.layout import is_exported
from puma.search import Searcher
from puma.storage.folders import write_json

PARTS = ("search", "serve", "encode")
INSTRUCTION = " ".join(["Find", "a", "picture", "that", "shows", "this", "thing,"] * 7)[:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: PUMA_MODEL or puma-mini")
    parser.add_argument("--part", choices=PARTS, help="default: all of them")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000, help="of the indexes")
    parser.add_argument("--work", type=Path, default=Path("runs/light"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "light.json")
    options = parser.parse_args()
    quiet_libraries()
    folders = made_folders(model_folder(options.model), options.work)
    texts = captions(build(), "train")[: options.rows]
    wanted = [options.part] if options.part else PARTS
    indexes = {}
    if wanted != ["encode"]:
        indexes = {name: made_index(folder, options.work, name, texts) for name, folder in folders.items()}
    measures = {
        "search": lambda: search_times(folders, indexes, options.runs),
        "serve": lambda: serve_times(folders, indexes, options.runs),
        "encode": lambda: encode_rates(folders, texts, options.runs),
    }
    result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    result |= {"format": 1, "index_rows": len(texts), **described()}
    counts = result.setdefault("runs", {})
    for part in wanted:
        result[part], counts[part] = measures[part](), options.runs
        write_json(options.out, result)
    print(json.dumps(result, indent=1))


def made_folders(model: Path, work: Path) -> dict[str, Path]:
    """The model's folder and those of its exports."""
    folders = {"torch": model, "fp32": work / f"{model.name}-fp32", "int8": work / f"{model.name}-int8"}
    for name in ("fp32", "int8"):
        if not is_exported(folders[name]):
            retriever = Retriever.from_pretrained(model, dtype="fp32", device="cpu")
            export_onnx(retriever, folders[name], source=model.name, int8=name == "int8")
    return folders


def made_index(folder: Path, work: Path, name: str, texts: list[str]) -> Path:
    path = work / f"{folder.name}-{len(texts)}.index"
    searcher = Searcher(Retriever.from_pretrained(folder), path)
    if searcher.index.count() < len(texts):
        searcher.add([{"text": text} for text in texts])
    return path


def search_times(folders: dict[str, Path], indexes: dict[str, Path], runs: int) -> dict[str, Any]:
    """Seconds of whole commands."""

    def once(name: str) -> float:
        command = [sys.executable, "-m", "puma.cli", "search", str(indexes[name]), "a red fox in the snow"]
        start = time.perf_counter()
        subprocess.run([*command, "--model", str(folders[name])], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    return taking_turns({name: lambda name=name: once(name) for name in folders}, runs)


def serve_times(folders: dict[str, Path], indexes: dict[str, Path], runs: int) -> dict[str, Any]:
    """Seconds from the start of the process to the first answered search."""

    def once(name: str) -> float:
        with Served([indexes[name]], folders[name]) as served:
            return served.wait("/search", search_body("a red fox in snow"))

    return taking_turns({name: lambda name=name: once(name) for name in folders}, runs)


def encode_rates(folders: dict[str, Path], texts: list[str], runs: int) -> dict[str, Any]:
    """Items a second, by kind of item."""
    drawn = np.random.default_rng(0)
    images = [Image.fromarray(drawn.integers(0, 256, (240, 320, 3), dtype=np.uint8)) for _ in range(128)]
    short = [" ".join(text.split()[:6]) for text in texts[:256]]
    kinds: dict[str, tuple[list[Any], str | None]] = {
        "short texts": (short, None),
        "short texts, instruction of 48 words": (short[:64], INSTRUCTION),
        "long texts": ([" ".join(texts[place : place + 20]) for place in range(64)], None),
        "images": (images, None),
        "image + text": ([{"text": t, "image": i} for t, i in zip(short, images, strict=False)], None),
    }
    encoders = {name: Retriever.from_pretrained(folder) for name, folder in folders.items()}
    rates: dict[str, Any] = {}
    for kind, (items, instruction) in kinds.items():

        def once(name: str, items: list[Any] = items, instruction: str | None = instruction) -> float:
            start = time.perf_counter()
            encoders[name].encode(items, instruction)
            return len(items) / (time.perf_counter() - start)

        rates[kind] = taking_turns({name: lambda name=name: once(name) for name in encoders}, runs)
    return rates


def taking_turns(measures: dict[str, Callable[[], float]], runs: int) -> dict[str, Any]:
    """The median of each over ``runs``, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for run in range(runs + 1):
        for name, measure in measures.items():
            value = measure()
            if run:
                found[name].append(value)
    return {
        name: {"median": round(statistics.median(values), 3), "all": [round(value, 3) for value in values]}
        for name, values in found.items()
    }


if __name__ == "__main__":
    main()
