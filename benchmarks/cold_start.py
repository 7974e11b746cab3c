"""Seconds from typing ``puma serve`` to the first answered search, and where they go.

    python benchmarks/cold_start.py                       puma-mini and an index of 2,000 captions, made if missing
    python benchmarks/cold_start.py --index my.index      another index of the same model

A process is started, asked for a search every 20 ms until one is answered, and ended; several times. The first run may
read from the disk what the others find in memory. The parts are measured in processes of their own, also several times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _machine import described
from _service import Served, captions, model_folder, search_body
from puma.cli.commands._shared import quiet_libraries
from puma.mini.openpics import build
from puma.retriever.model import Retriever
from puma.search import Searcher
from puma.storage.folders import write_json

PARTS = """
import json, sys, time
marks = [("interpreter", time.perf_counter())]
def mark(name): marks.append((name, time.perf_counter()))
from puma.cli.commands._shared import quiet_libraries
quiet_libraries()
import torch; mark("import torch")
from transformers import AutoModel, AutoProcessor; mark("import transformers")
import lancedb; mark("import lancedb")
import fastapi, uvicorn; mark("import fastapi and uvicorn")
import puma.retriever.model, puma.search, puma.serve; mark("import puma")
retriever = puma.retriever.model.Retriever.from_pretrained(sys.argv[1]); mark("load the model")
retriever.encode([puma.Item(text="warm")]); mark("first text")
searcher = puma.search.Searcher(retriever, sys.argv[2]); mark("open the index")
searcher.search("a red fox"); mark("first search")
searcher.search("a blue boat"); mark("second search")
print(json.dumps({name: marks[i + 1][1] - marks[i][1] for i, (name, _) in enumerate(marks[1:])}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: PUMA_MODEL or puma-mini")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--rows", type=int, default=2000, help="of the index that is made if none is given")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/cold-start"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cold_start.json")
    options = parser.parse_args()
    quiet_libraries()
    model = model_folder(options.model)
    index = options.index or made_index(model, options.work, options.rows)
    firsts, ready = [], []
    for _ in range(options.runs):
        with Served([index], model) as served:
            ready.append(served.wait())
            firsts.append(served.wait("/search", search_body("a red fox in snow")))
    result = {
        "format": 1,
        "index_rows": Searcher(Retriever.from_pretrained(model), index).index.count(),
        "runs": options.runs,
        "first_answer_s": summary(firsts),
        "healthy_s": summary(ready),
        "parts_s": parts(model, index, options.runs),
        **described(),
    }
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


def made_index(model: Path, work: Path, rows: int) -> Path:
    path = work / f"captions-{rows}.index"
    retriever = Retriever.from_pretrained(model)
    searcher = Searcher(retriever, path)
    if searcher.index.count() < rows:
        texts = captions(build(), "train")[:rows]
        if len(texts) < rows:
            raise SystemExit(f"--rows {rows}: the benchmark has {len(texts)} texts")
        searcher.add([{"text": text} for text in texts], progress=True)
    return path


def parts(model: Path, index: Path, runs: int) -> dict[str, float]:
    """Medians over processes; each import counts what the ones before did not load."""
    found: list[dict[str, float]] = []
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-c", PARTS, str(model), str(index)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: round(statistics.median(run[name] for run in found), 3) for name in found[0]}


def summary(values: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 2), "all": [round(value, 2) for value in values]}


if __name__ == "__main__":
    main()
