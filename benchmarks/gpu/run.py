"""Everything that only a GPU can show, in one go: most telling first, each result on disk before the next starts.

    python benchmarks/gpu/run.py --minutes 10 --parts parts/     on a machine with a GPU; into benchmarks/results/gpu
    python benchmarks/gpu/run.py --minutes 5 --cpu-small         the same steps at small scale on a CPU: a rehearsal

Needs the repository, torch and its companions, and no installation of PUMA: it is imported from ``src``. Wheels among
the parts are used for what this machine lacks. Every step is a process of its own with a time budget; what one leaves
unused is the next ones'. A step that fails or runs out of time leaves its error and what it had, and the next goes on.
Called again, what is done is left alone: a run that was killed goes on. docs/gpu-kit.md tells more.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from steps import ROOT, STEPS, Run, Step, headline

RESERVE_S = 15.0
"""Kept from the whole for starting and for the summary."""
LEAST_S = 20.0
"""A step with less left than this is not begun."""
TAIL = 4000
"""Characters of a failed step's output that are kept."""


def main() -> int:
    options = arguments()
    run = prepared(options)
    for number, step in enumerate(STEPS):
        if options.only and step.name not in options.only:
            continue
        path = run.out / f"{step.name}.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["status"] == "done":
            print(f"[{step.name}] done before", flush=True)
            continue
        later = sum(other.share for other in STEPS[number:] if not options.only or other.name in options.only)
        take(run, step, path, run.left() * step.share / later)
    return summary(run)


def take(run: Run, step: Step, path: Path, seconds: float) -> None:
    """Run one step and write its result, whatever becomes of it."""
    from puma.storage.folders import write_json

    part = run.work / f"{step.name}.part.json"
    part.unlink(missing_ok=True)
    row: dict[str, Any] = {
        "step": step.name,
        "status": "failed",
        "seed": 0,
        "budget_s": round(seconds),
        **described(run),
    }
    start = time.monotonic()
    try:
        if seconds < LEAST_S:
            raise TimeoutError(f"only {seconds:.0f} s left")
        if step.needs_parts and "PUMA_HOME" not in run.environment:
            raise FileNotFoundError("it needs the mini base and OpenPics: give --parts")
        command = [sys.executable, *step.command(run, part, seconds)]
        row["command"] = " ".join(["python", *(word.replace(f"{ROOT}/", "") for word in command[1:])])
        print(f"[{step.name}] up to {seconds:.0f} s ...", flush=True)
        code, output = executed(command, run.environment, seconds)
        row["status"] = {0: "done", None: "out of time"}.get(code, "failed")
        if code != 0:
            row["error"] = output[-TAIL:]
    except (FileNotFoundError, TimeoutError) as error:
        row["status"] = "out of time" if isinstance(error, TimeoutError) else "left out"
        row["error"] = str(error)
    if part.is_file():
        try:
            row["results"] = step.read(part)
        except ValueError as error:
            row["error"] = f"{row.get('error', '')}\nits figures cannot be read: {error}"
    row["seconds"] = round(time.monotonic() - start, 1)
    write_json(path, row)
    print(f"[{step.name}] {row['status']} after {row['seconds']} s", flush=True)


def executed(command: list[str], environment: dict[str, str], seconds: float) -> tuple[int | None, str]:
    """Run a process and whatever it starts; returns (exit status or None if it was stopped, the end of its output)."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_end_with_the_parent if sys.platform == "linux" else None,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output[-TAIL:]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output[-TAIL:]


def _end_with_the_parent() -> None:
    """Have the kernel end this process when the one that started it dies, by kill -9 too (prctl, PR_SET_PDEATHSIG)."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def prepared(options: argparse.Namespace) -> Run:
    """Unpack the parts, put what is missing within reach, and start the clock."""
    until = time.monotonic() + options.minutes * 60 - RESERVE_S
    work: Path = options.work
    out: Path = options.out or (work / "rehearsal" if options.cpu_small else ROOT / "benchmarks" / "results" / "gpu")
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    roads = [ROOT / "src", ROOT / "benchmarks", ROOT / "benchmarks" / "gpu", ROOT / "tests"]
    sys.path[:0] = map(str, roads)  # the one script that is started without them
    from parts import read_parts

    kit: Path | None = None
    if options.parts is not None:
        kit = read_parts(options.parts, work / "kit")
        roads.append(unzipped(kit / "wheels", work / "site"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roads)), "HF_HUB_OFFLINE": "1"}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if options.cpu_small:
        environment.update(PUMA_GPU_REHEARSAL="1", CUDA_VISIBLE_DEVICES="")
    if kit is not None:
        environment["PUMA_HOME"] = str(kit / "home")
    elif options.cpu_small:
        if not (work / "home").is_dir():
            from small import small_home

            small_home(work / "home.part").rename(work / "home")
        environment["PUMA_HOME"] = str(work / "home")
    return Run(options, out, work, until, environment)


def unzipped(wheels: Path, site: Path) -> Path:
    """Unpack the wheels whose module this Python does not have; returns the folder."""
    import importlib.util

    site.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(wheels.glob("*.whl")) if wheels.is_dir() else []:
        module = wheel.name.split("-")[0].lower()
        if importlib.util.find_spec(module) is None:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
    sys.path.append(str(site))
    return site


def described(run: Run) -> dict[str, Any]:
    """The machine and its versions; no name or path of the machine among them."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {"python": platform.python_version()}
    for name in ("torch", "transformers", "sentence-transformers", "peft", "accelerate", "datasets", "gguf"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    gpu = "none"
    if torch.cuda.is_available() and not run.small:
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    machine = {"platform": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}
    return {"machine": machine, "versions": versions, "rehearsal": run.small}


def summary(run: Run) -> int:
    """Print and write what came of each step; 1 if one failed or ran out of time."""
    from puma.storage.folders import write_json

    rows = {}
    for step in STEPS:
        path = run.out / f"{step.name}.json"
        if path.is_file():
            row = json.loads(path.read_text(encoding="utf-8"))
            said = {"status": row["status"], "seconds": row["seconds"], "said": headline(step.name, row.get("results"))}
            if row["status"] != "done":
                said["error"] = row.get("error", "").strip().splitlines()[-1:]
            rows[step.name] = said
    write_json(run.out / "summary.json", {**described(run), "steps": rows})
    print()
    for name, row in rows.items():
        print(f"{name:11}{row['status']:12}{row['seconds']:7.1f} s  {row['said']}")
        for line in row.get("error", []):
            print(f"{'':11}{line[:150]}")
    return int(any(row["status"] in ("failed", "out of time") for row in rows.values()))


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="for everything together")
    parser.add_argument("--parts", type=Path, help="the folder that pack.py wrote")
    parser.add_argument("--out", type=Path, help="where the results go")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu-kit", help="where the parts are unpacked")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="some of the steps")
    parser.add_argument("--cpu-small", action="store_true", help="a rehearsal on a CPU, in minutes")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
