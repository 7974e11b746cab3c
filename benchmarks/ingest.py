"""How fast a folder of images gets into an index, and what a kill costs.

    python benchmarks/ingest.py --images FOLDER --model MODEL

Three figures from one run on the same images: the encoder alone (images already chosen, vectors thrown away), the
whole ingest (reading, embedding, thumbnails, storing) with its ratio to the encoder, and the same ingest killed with
SIGKILL at random moments: how many images were embedded more than once. --limit takes so many of the images, evenly
spread; --images is OpenPics' by default, built if missing. Without --model it is puma-mini.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import described
from puma.cli.commands._shared import load_retriever
from puma.index import Index
from puma.items.encoder import BATCH, embed_readable
from puma.mini.openpics import build
from puma.search import Searcher
from puma.search.ingest import IMAGES, Record, read_items
from puma.storage.folders import write_json

WARM_UP = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: puma-mini")
    parser.add_argument("--pictures", type=Path, help="a folder; default: OpenPics'")
    parser.add_argument("--limit", type=int, default=0, help="so many of its pictures; 0 for all")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where the indexes are made and deleted; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ingest.json")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "INDEX", "DIARY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        ingest_with_diary(options.model, *map(Path, options.child))
        return
    images = options.images or build() / "mbeir_images"
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        folder = chosen(images, options.limit, Path(work) / "pictures")
        retriever = load_retriever(options.model)
        alone = encoder_alone(retriever, folder)
        whole = whole_ingest(retriever, folder, Path(work) / "index")
        killed = killed_ingest(options, folder, Path(work), whole["seconds"])
    result = {
        "format": 1,
        "model": retriever.fingerprint,
        "pictures": alone["pictures"],
        "batch": BATCH,
        "encoder_alone": alone,
        "ingest": whole,
        "ratio": round(whole["pictures_per_second"] / alone["pictures_per_second"], 4),
        "cpu_ratio": round(whole["pictures_per_cpu_second"] / alone["pictures_per_cpu_second"], 4),
        "killed": killed,
        **described(),
    }
    write_json(options.out, result)
    print(
        f"{whole['pictures_per_second']} pictures/s, the encoder alone {alone['pictures_per_second']} "
        f"(ratio {result['ratio']}, by processor time {result['cpu_ratio']}); "
        f"again, nothing new: {whole['again_seconds']} s; "
        f"embedded again after {killed['kills']} kills: {killed['embedded_again']} (batches of {BATCH})"
    )


def chosen(images: Path, limit: int, folder: Path) -> Path:
    """A folder of links to the images, evenly spread over all of them."""
    every = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGES)
    if not every:
        raise SystemExit(f"{images}: no pictures")
    count = min(limit or len(every), len(every))
    folder.mkdir()
    for number in range(count):
        path = every[number * len(every) // count]
        (folder / f"{number:06}{path.suffix}").symlink_to(path.absolute())
    return folder


def encoder_alone(retriever: Any, folder: Path) -> dict[str, Any]:
    """Images a second through the encoder, in an ingest's batches. What occurs twice counts once, as in an ingest."""
    records = {entry.id: entry for entry in read_items([folder]) if isinstance(entry, Record)}
    items = [record.item for record in records.values()]
    embed_readable(retriever, items[:WARM_UP])
    start, used = time.perf_counter(), time.process_time()
    embed_readable(retriever, items)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return {"pictures": len(items), **speed(len(items), seconds, used)}


def whole_ingest(retriever: Any, folder: Path, index: Path) -> dict[str, Any]:
    """Images a second into a new index, and how long the same takes when there is nothing new."""
    searcher = Searcher(retriever, index)
    start, used = time.perf_counter(), time.process_time()
    added = searcher.add_paths([folder], progress=True)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    start = time.perf_counter()
    again = searcher.add_paths([folder], progress=False, sync=True)
    again_seconds = time.perf_counter() - start
    stats = searcher.index.stats()
    return {
        "embedded": added.embedded,
        "skipped": len(added.skips),
        **speed(added.embedded, seconds, used),
        "thumbnails": stats["thumbnails"],
        "bytes": stats["bytes"],
        "again_embedded": again.embedded,
        "again_seconds": round(again_seconds, 2),
    }


def speed(images: int, seconds: float, used: float) -> dict[str, float]:
    """By the clock, and by the processors' time, which other work on the machine does not change."""
    return {
        "seconds": round(seconds, 2),
        "pictures_per_second": round(images / seconds, 2),
        "cpu_seconds": round(used, 2),
        "pictures_per_cpu_second": round(images / used, 2),
    }


def killed_ingest(options: argparse.Namespace, folder: Path, work: Path, seconds: float) -> dict[str, Any]:
    """The same ingest in programs that are killed, each at a random moment of a fair share of the work, and one that
    is not."""
    chance, diary, index = random.Random(options.seed), work / "diary", work / "killed.index"
    command = [sys.executable, __file__, "--child", folder, index, diary]
    if options.model:
        command += ["--model", options.model]
    kept = []
    for kill in range(options.kills + 1):
        before = diary.read_text().count("started") if diary.exists() else 0
        process = subprocess.Popen(command)
        if kill < options.kills:
            while (not diary.exists() or diary.read_text().count("started") == before) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.2, 1.0) * seconds / (options.kills + 1))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kept.append(len(Index(index)))
        elif process.wait() != 0:
            raise SystemExit("the ingest after the kills failed")
    embedded = sum(int(line.split()[1]) for line in diary.read_text().splitlines() if line.startswith("embedded"))
    rows = len(Index(index))
    faults = Index(index).verify()
    shutil.rmtree(index)
    return {
        "kills": options.kills,
        "stored_at_each": kept,
        "rows": rows,
        "embedded": embedded,
        "embedded_again": embedded - rows,
        "batches_again_per_kill": round((embedded - rows) / BATCH / max(1, options.kills), 3),
        "faults": faults,
    }


def ingest_with_diary(model: Path | None, folder: Path, index: Path, diary: Path) -> None:
    """What is killed: a line for every batch before it is embedded, so that a batch cut short counts in full."""
    retriever = load_retriever(model)
    plain = retriever.encode
    with open(diary, "a", buffering=1) as stream:

        def encode(items: Any, **given: Any) -> Any:
            stream.write(f"embedded {len(items)}\n")
            return plain(items, **given)

        retriever.encode = encode
        searcher = Searcher(retriever, index)
        stream.write("started\n")
        searcher.add_paths([folder], progress=False)


if __name__ == "__main__":
    main()
