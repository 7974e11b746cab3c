"""Fifty clients at once for two minutes: what the service gives, beside what its encoder alone could.

    python benchmarks/load.py                     120 s of each kind of request; some twelve minutes
    python benchmarks/load.py --seconds 10 --clients 8 --kinds texts --out /tmp/trial.json

Kinds of request, one item each: ``texts`` to /v1/embeddings, of the lengths people send; ``images``, as data URIs;
``mixed``, four texts to an image; ``searches`` by text in an index of --rows captions. The clients are in a process of
their own and wait for an answer before they ask again. The bound is the encoder alone in a process of its own, on the
same items in batches of the service's size, before the service starts and after it ended; the mean of both counts.
Beside it stands the encoder given all items at once, which may sort them by length. The service's memory is read at the
start, through the run and at the end.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from _clients import result_of, start_load
from _machine import described
from _service import Served, captions, model_folder, realistic, search_body
from cold_start import made_index
from puma.cli.commands._shared import quiet_libraries
from puma.items import Item
from puma.mini.openpics import build
from puma.retriever.model import Retriever
from puma.serve import ServeSettings
from puma.storage.folders import write_json

KINDS = ("texts", "pictures", "mixed", "searches")
DISTINCT = 2000
"""Different requests of a kind; images are fewer by ten."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: PUMA_MODEL or puma-mini")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--alone-seconds", type=float, default=20, help="of the encoder alone, before and after")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", type=int, default=2000, help="of the index for the searches")
    parser.add_argument("--work", type=Path, default=Path("runs/load"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "load.json")
    parser.add_argument("--alone", metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_libraries()
    if options.alone:
        print(json.dumps(alone(**json.loads(options.alone))))
        return
    model = model_folder(options.model)
    root = build()
    index = made_index(model, options.work, options.rows)
    batch = ServeSettings().max_batch
    result: dict[str, Any] = {"format": 1, "batch": batch, "clients": options.clients, "kinds": {}}
    for kind in options.kinds:
        asks = requests(kind, root)
        before = measured_alone(kind, model, root, batch, options.alone_seconds)
        found, memory = under_load(index, model, asks, options.clients, options.seconds)
        after = measured_alone(kind, model, root, batch, options.alone_seconds)
        bound, best = ((before[name] + after[name]) / 2 for name in ("items_per_second", "all_at_once_per_second"))
        result["kinds"][kind] = {
            "service": found,
            "encoder_alone": {"before": before, "after": after, "items_per_second": round(bound, 2)},
            "share_of_the_bound": round(found["items_per_second"] / bound, 3),
            "share_of_all_at_once": round(found["items_per_second"] / best, 3),
            "refused_429": found["answers"].get("429", 0),
            "memory_mib": memory,
        }
        print(json.dumps({kind: result["kinds"][kind]}, indent=1), flush=True)
        write_json(options.out, {**result, **described()})


def under_load(
    index: Path, model: Path, asks: list[list[Any]], clients: int, seconds: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    with Served([index], model) as served:
        served.wait("/search", search_body("warm"))
        # Warmed by the same requests: caches and pools have their size before memory is first read.
        result_of(start_load(served.port, clients, min(5.0, seconds), asks, seed=1))
        memory = [served.memory_mib()]
        process = start_load(served.port, clients, seconds, asks)
        while process.poll() is None:
            time.sleep(min(2.0, seconds / 10))
            memory.append(served.memory_mib())
        found = result_of(process)
        time.sleep(1)
        memory.append(served.memory_mib())
        _, metrics = served.ask("/metrics")
    middle = memory[len(memory) // 2]
    found["batches"] = batches(metrics.decode())
    return found, {
        "start": memory[0],
        "middle": middle,
        "end": memory[-1],
        "largest": max(memory),
        "readings": len(memory),
    }


def batches(metrics: str) -> dict[str, float]:
    """Mean items a forward pass, and the seconds the encoder worked, warming up included; of all models together."""
    values: Counter[str] = Counter()
    for line in metrics.splitlines():
        if line and line[0] != "#":
            series, value = line.rsplit(" ", 1)
            values[series.partition("{")[0]] += float(value)
    count = values["puma_batch_items_count"]
    return {
        "forward_passes": count,
        "items_each": round(values["puma_batch_items_sum"] / max(1, count), 2),
        "encoder_seconds": round(values["puma_encoder_seconds_total"], 2),
    }


def requests(kind: str, root: Path) -> list[list[Any]]:
    """``[path, body, items]`` of a kind."""
    if kind == "searches":
        return [["/search", search_body(text), 1] for text in realistic(captions(root), DISTINCT)]
    rows = []
    for item in items_of(kind, root):
        if isinstance(item.image, bytes):
            uri = "data:image/webp;base64," + base64.b64encode(item.image).decode()
            body: dict[str, Any] = {"input": [{"image": uri}], "encoding_format": "base64"}
        else:
            body = {"input": item.text, "encoding_format": "base64"}
        rows.append(["/v1/embeddings", json.dumps(body), 1])
    return rows


def items_of(kind: str, root: Path) -> list[Item]:
    """The items whose requests a kind is made of; of searches, their texts."""
    texts = [Item(text=text) for text in realistic(captions(root), DISTINCT)]
    if kind in ("texts", "searches"):
        return texts
    files = sorted((root / "mbeir_images").rglob("*.webp"))
    chosen = random.Random(0).sample(files, min(len(files), DISTINCT // 10))
    images = [Item(image=path.read_bytes()) for path in chosen]
    return images if kind == "pictures" else images + texts[: 4 * len(images)]


def measured_alone(kind: str, model: Path, root: Path, batch: int, seconds: float) -> dict[str, Any]:
    """:func:`alone` in a process of its own, which gives its memory back."""
    plan = json.dumps({"kind": kind, "model": str(model), "root": str(root), "batch": batch, "seconds": seconds})
    done = subprocess.run([sys.executable, __file__, "--alone", plan], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def alone(kind: str, model: str, root: str, batch: int, seconds: float) -> dict[str, Any]:
    """Items a second of the encoder with nothing around it: in batches as they come, and all at once."""
    retriever = Retriever.from_pretrained(model)
    items = items_of(kind, Path(root))
    random.Random(1).shuffle(items)
    parts = [items[start : start + batch] for start in range(0, len(items), batch)]
    retriever.encode(parts[0])
    done, rates, began = 0, [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        part = parts[done % len(parts)]
        start = time.perf_counter()
        retriever.encode(part)
        rates.append((len(part), time.perf_counter() - start))
        done += 1
    some = items[: batch * 8]
    start = time.perf_counter()
    retriever.encode(some)
    at_once = len(some) / (time.perf_counter() - start)
    counts, times = np.array(rates).T
    return {
        "items_per_second": round(float(counts.sum() / times.sum()), 2),
        "all_at_once_per_second": round(at_once, 2),
        "batches": done,
    }


if __name__ == "__main__":
    main()
