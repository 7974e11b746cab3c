"""Exact search at scale: time and memory against the number of candidates, beside FAISS flat on the same cores.

    pip install faiss-cpu                                    needed by this benchmark alone
    python benchmarks/exact_scale.py                         1 M x 576; some ten minutes of one core
    python benchmarks/exact_scale.py --whole 5600000         the global pool's size as well, measured (6.5 GB of disk)
    python benchmarks/exact_scale.py --quick --out F.json    seconds; says nothing about speed
    python benchmarks/exact_scale.py --report                the table and the plot of docs/scale.md from the results

Candidates are seeded random unit rows in a float16 file; FAISS holds them as float32 in memory, which is all it can do.
Both engines take turns in one process, after a warm-up each, on the same threads; medians. FAISS answers up to some 220
queries of this length without its matrix library, which is slow here: it is timed as it comes and with the library
forced, and compared at its best. Peak memory and the growth law come from one process a point, started afresh.
The last part kills a search with SIGKILL and starts it again, and compares results bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from _exact_scale_report import RESULTS, write_report
from puma.index.exact.streamed import top_k
from puma.storage.folders import write_json

SHAPES = ((1000, 1000), (1000, 10), (100, 1000), (100, 10))
"""Queries and k that are timed side by side."""
GROWTH = (1000, 1000)
"""Queries and k of the growth law."""
CHUNK = 50_000


def main() -> None:
    args = arguments()
    if args.report:
        write_report()
    elif args.point:
        print(json.dumps(point(json.loads(args.point))))
    else:
        measure(args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", default="4GB", help="the budget of ours, in the growth law")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", type=int, default=0, help="one more point of the growth law, ours alone")
    parser.add_argument("--folder", help="where the pool is written; the system's temporary folder if not given")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> None:
    if args.quick:
        args.rows, args.rounds = min(args.rows, 20_000), 1
    result: dict[str, Any] = {
        "machine": described(args.threads),
        "versions": {name: version(name) for name in ("numpy", "faiss-cpu", "threadpoolctl")},
        "command": command(args),
        "seed": args.seed,
        "rows": args.rows,
        "dim": args.dim,
        "rounds": args.rounds,
        "memory": args.memory,
    }
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        pool = folder / "pool.npy"
        write_pool(pool, args.rows, args.dim, args.seed)
        np.save(folder / "queries.npy", units(np.random.default_rng([args.seed, 1]), 1000, args.dim))
        result["side_by_side"] = side_by_side(folder, args)
        write_json(args.out, result)
        result["growth"] = growth(folder, args)
        write_json(args.out, result)
        result["kill"] = killed(folder, args)
        write_json(args.out, result)
        if args.whole:
            write_pool(pool, args.whole, args.dim, args.seed)
            result["growth"].append(started(folder, args, "puma", args.whole))
            write_json(args.out, result)


def command(args: argparse.Namespace) -> str:
    """As it can be repeated elsewhere: without this machine's places."""
    words = ["python benchmarks/exact_scale.py", f"--rows {args.rows}", f"--rounds {args.rounds}"]
    words += [f"--threads {args.threads}", f"--memory {args.memory}", f"--seed {args.seed}"]
    return " ".join(words + ([f"--whole {args.whole}"] if args.whole else []))


def described(threads: int) -> str:
    """The processor, the cores used and the memory; no name of the machine."""
    model = platform.machine()
    with open("/proc/cpuinfo") as stream:
        model += next((f", {line.split(':')[1].strip()}" for line in stream if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {threads} of {os.cpu_count()} cores, {memory:.0f} GB"


def units(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = random.standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_pool(path: Path, rows: int, dim: int, seed: int) -> None:
    """float16 [rows, dim]; a smaller pool is the beginning of a larger one."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)})
        for number, start in enumerate(range(0, rows, CHUNK)):
            part = units(np.random.default_rng([seed, 0, number]), CHUNK, dim)[: rows - start]
            stream.write(part.astype(np.float16).tobytes())


def load_faiss(path: Path, rows: int, threads: int) -> Any:
    """FAISS's flat index over the first rows, filled in parts so that no second copy is held."""
    import faiss

    faiss.omp_set_num_threads(threads)
    with open(path, "rb") as stream:
        np.lib.format.read_magic(stream)
        dim = np.lib.format.read_array_header_1_0(stream)[0][1]
        index = faiss.IndexFlatIP(dim)
        for start in range(0, rows, CHUNK):
            part = np.fromfile(stream, np.float16, min(CHUNK, rows - start) * dim)
            index.add(part.astype(np.float32).reshape(-1, dim))
    return index


def ask_faiss(index: Any, queries: np.ndarray, k: int, threads: int, forced: bool) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    usual = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1 if forced else usual
    try:
        with threadpool_limits(threads):
            scores, ids = index.search(queries, k)
    finally:
        faiss.cvar.distance_compute_blas_threshold = usual
    return ids, scores


def side_by_side(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of both engines in turns, and how their results differ."""
    index = load_faiss(folder / "pool.npy", args.rows, args.threads)
    everything = np.load(folder / "queries.npy")
    entries = []
    top_k(everything[:10], folder / "pool.npy", 10, memory="64GB", threads=args.threads)
    ask_faiss(index, everything[:10], 10, args.threads, True)
    for count, k in SHAPES:
        queries = everything[:count]
        calls = {
            "puma": lambda queries=queries, k=k: top_k(
                queries, folder / "pool.npy", k, memory="64GB", threads=args.threads
            ),
            "faiss": lambda queries=queries, k=k: ask_faiss(index, queries, k, args.threads, False),
            "faiss, library forced": lambda queries=queries, k=k: ask_faiss(index, queries, k, args.threads, True),
        }
        if count * args.dim >= 128_000:  # FAISS's own threshold: it is forced as it comes
            del calls["faiss, library forced"]
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for number in range(args.rounds):
            for name in list(calls) if number % 2 == 0 else list(calls)[::-1]:
                seconds[name].append(timed(calls[name], found, name))
        ours, theirs = found["puma"], found["faiss"]
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        best = min(value for name, value in medians.items() if name != "puma")
        entries.append(
            {
                "queries": count,
                "k": k,
                "seconds": seconds,
                "ratio_to_best_faiss": medians["puma"] / best,
                "same_ids": float(np.mean([len(set(a) & set(b)) / k for a, b in zip(ours[0], theirs[0], strict=True)])),
                "largest_score_difference": float(np.abs(ours[1] - theirs[1]).max()),
            }
        )
        print(json.dumps(entries[-1]), flush=True)
    return entries


def timed(call: Any, found: dict[str, Any], name: str) -> float:
    began = time.perf_counter()
    found[name] = call()
    return time.perf_counter() - began


def growth(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds and peak memory against candidates, a fresh process a point."""
    entries = []
    for part in (16, 8, 4, 2, 1):
        for engine in ("puma", "faiss"):
            entries.append(started(folder, args, engine, args.rows // part))
    return entries


def started(folder: Path, args: argparse.Namespace, engine: str, rows: int) -> dict[str, Any]:
    task = {"engine": engine, "rows": rows, "folder": str(folder), "threads": args.threads, "memory": args.memory}
    done = subprocess.run([sys.executable, __file__, "--point", json.dumps(task)], stdout=subprocess.PIPE, check=True)
    entry = {"engine": engine, "rows": rows} | json.loads(done.stdout)
    print(json.dumps(entry), flush=True)
    return entry


def point(task: dict[str, Any]) -> dict[str, Any]:
    """One search in this process: seconds (not counting FAISS's loading), processor seconds, peak memory in bytes.

    Of FAISS, what is held after the search: its peak is while it is filled, in an order of ours.
    """
    folder, rows, threads = Path(task["folder"]), task["rows"], task["threads"]
    queries, k = np.load(folder / "queries.npy")[: GROWTH[0]], min(GROWTH[1], rows)
    if task["engine"] == "faiss":
        index = load_faiss(folder / "pool.npy", rows, threads)
        call: Any = lambda: ask_faiss(index, queries, k, threads, True)  # noqa: E731
    else:
        pool = np.load(folder / "pool.npy", mmap_mode="r")
        first = np.memmap(pool.filename, np.float16, "r", pool.offset, (rows, pool.shape[1]))
        call = lambda: top_k(  # noqa: E731
            queries, first, k, memory=task["memory"], threads=threads, work=task.get("work")
        )
    began, spent = time.perf_counter(), time.process_time()
    found = call()
    entry = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - spent}
    if "save" in task:
        np.savez(task["save"], ids=found[0], scores=found[1])
    with open("/proc/self/status") as stream:
        kind = "VmRSS" if task["engine"] == "faiss" else "VmHWM"
        held = next(line for line in stream if line.startswith(kind))
    return entry | {"peak_bytes": int(held.split()[1]) * 1024}


def killed(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL at some 60 % of a search, then the same call again: its seconds, and whether the results are equal."""
    task = {"engine": "puma", "rows": args.rows, "folder": str(folder), "threads": args.threads, "memory": args.memory}
    command = [sys.executable, __file__, "--point"]
    plain = json.dumps(task | {"save": str(folder / "plain.npz")})
    whole = json.loads(subprocess.run([*command, plain], stdout=subprocess.PIPE, check=True).stdout)["seconds"]
    resumed = task | {"save": str(folder / "resumed.npz"), "work": str(folder / "work")}
    environment = os.environ | {"PUMA_BENCHMARK_CHECKPOINT_SECONDS": str(whole / 20)}
    with subprocess.Popen([*command, json.dumps(resumed)], env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not list((folder / "work").glob("*.lock")):
            time.sleep(0.01)
        time.sleep(0.6 * whole)
        process.kill()
    again = json.loads(subprocess.run([*command, json.dumps(resumed)], stdout=subprocess.PIPE, check=True).stdout)
    with np.load(folder / "plain.npz") as a, np.load(folder / "resumed.npz") as b:
        equal = all(a[name].tobytes() == b[name].tobytes() for name in ("ids", "scores"))
    entry = {
        "was_killed": process.returncode == -9,
        "seconds_uninterrupted": whole,
        "seconds_after_the_kill": again["seconds"],
        "equal": equal,
    }
    print(json.dumps(entry), flush=True)
    return entry


if __name__ == "__main__":
    if seconds_between := os.environ.get("PUMA_BENCHMARK_CHECKPOINT_SECONDS"):
        from puma.index.exact import resume as checkpoints

        checkpoints.SECONDS = float(seconds_between)
    main()
