"""The kit's measurements: the command of each, its part of the time, and its figures read back. Loads no torch."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """One measurement.

    Args:
        name: of its file of results.
        share: of the time, in proportion to the steps still to come.
        command: of the run, the file to write its figures to and the seconds it may take.
        read: its figures out of that file, whole or as far as they got.
        needs_parts: whether it can do nothing without the mini base and OpenPics.
    """

    name: str
    share: float
    command: Callable[[Run, Path, float], list[str]]
    read: Callable[[Path], Any] = lambda path: json.loads(path.read_text(encoding="utf-8"))
    needs_parts: bool = False


@dataclass
class Run:
    """This call: where things are and what is left of the time."""

    options: argparse.Namespace
    out: Path
    work: Path
    until: float
    environment: dict[str, str]

    @property
    def small(self) -> bool:
        """Whether this is a rehearsal."""
        return bool(self.options.cpu_small)

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


def lines_of(path: Path) -> list[Any]:
    """JSON lines, without a last one that was cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _tests(run: Run, out: Path, seconds: float) -> list[str]:
    run.environment["PUMA_GPU_RESULTS"] = str(out)
    # an older image's libraries warn of other things than the pinned ones
    quiet = ["-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    return ["-m", "pytest", "-q", "-m", "gpu", *quiet, "--rootdir", str(ROOT), str(ROOT / "tests" / "gpu")]


def _shape(run: Run, out: Path, seconds: float) -> list[str]:
    small = ["--quick"] if run.small else []
    return [str(ROOT / "benchmarks" / "shape.py"), "--out", str(out), "--seconds", str(round(seconds - 15)), *small]


def _encode(run: Run, out: Path, seconds: float) -> list[str]:
    small = ["--quick"] if run.small else []
    script = ROOT / "benchmarks" / "gpu" / "encode.py"
    return [str(script), "--out", str(out), "--seconds", str(round(seconds - 25)), *small]


def _train(layers: int, small_layers: int) -> Callable[[Run, Path, float], list[str]]:
    def command(run: Run, out: Path, seconds: float) -> list[str]:
        k, script = small_layers if run.small else layers, ROOT / "benchmarks" / "quickstart_recipe.py"
        # the vision features, the teacher's states and the evaluation take their part of the time, too
        train = min(120.0, seconds * 0.4) if not run.small else 2.0
        more = ["--set", "learning_rate=3e-4"] if k == layers == 30 else []
        if run.small:
            more = ["--set", "batch_size=8", "--distil-set", "batch_size=8", "--distil-set", "steps=3"]
        name = ["--name", f"{'rehearsal' if run.small else 'gpu'} k={k}", "--layers", str(k)]
        return [str(script), *name, "--seconds", f"{train:.0f}", "--out", str(out), *more]

    return command


def _feeding(run: Run, out: Path, seconds: float) -> list[str]:
    script = ROOT / "benchmarks" / "feeding.py"
    if not script.is_file():
        raise FileNotFoundError("benchmarks/feeding.py is not there")
    workers = sorted({min(count, max(1, (os.cpu_count() or 1) - 2)) for count in (4, 8, 14)})
    scale = ["--batches", "2", "--workers", *map(str, workers)]
    if run.small:
        scale = ["--pairs", "4", "--batches", "1", "--workers", "0", "1", "--step", "0.05"]
    return [str(script), "--out", str(out), *scale]


def _distillation(run: Run, out: Path, seconds: float) -> list[str]:
    """The deep teacher, trained contrastively, then its students of six layers with and without it."""
    script = ROOT / "benchmarks" / "distillation_pays.py"
    variants = ["none", "deep-alone", "deep-cut-before", "deep-rows", "deep-cosine", "deep-relational", "deep-map"]
    scale = ["--steps", "480", "--deep-steps", "480"]
    if run.small:
        variants = ["none", "deep-rows"]
        scale = ["--steps", "2", "--deep-steps", "2", "--layers", "2", "--deep-layers", "8", "--batch-size", "8"]
    more = ["--labels", "0", "--seconds", str(round(seconds * 0.8)), "--work", str(run.work / "distillation")]
    return [str(script), "--out", str(out), "--variants", *variants, *scale, *more]


def _puma_mini(run: Run, out: Path, seconds: float) -> list[str]:
    script = ROOT / "benchmarks" / "gpu" / "puma_mini.py"
    # the base, the images' sizes and the evaluation take their part of the time, too
    train = 3.0 if run.small else max(10.0, seconds * 0.6)
    return [str(script), "--out", str(out), "--seconds", f"{train:.0f}", *(["--quick"] if run.small else [])]


STEPS = (
    Step("tests", 0.22, _tests, lines_of),
    Step("shape", 0.36, _shape),
    Step("encode", 0.12, _encode),
    Step("train-k6", 0.13, _train(6, 2), needs_parts=True),
    Step("train-full", 0.13, _train(30, 8), needs_parts=True),
    Step("distillation", 0.30, _distillation, needs_parts=True),
    Step("puma-mini", 0.30, _puma_mini, needs_parts=True),
    Step("feeding", 0.04, _feeding),
)


def headline(name: str, results: Any) -> str:
    """The figure of a step that one looks at first."""
    if not results:
        return "no figures"
    if name == "tests":
        counts: dict[str, int] = {}
        for row in results:
            counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    if name == "shape":
        rows = [row for kind in results.values() for shape in kind["shapes"].values() for row in shape["training"]]
        return f"{sum('seconds_per_step' in row for row in rows)} of {len(rows)} steps timed"
    if name == "encode":
        rows = results["rates"]
        return "; ".join(
            f"{row['kind']} {row['puma']:.0f} / {row['sentence_transformers']:.0f} a second" for row in rows
        )
    if name.startswith("train"):
        row = results[-1]
        return f"k={row['layers']}, {row['steps']} steps, mean hit@10 on val {100 * row['mean_hit_rate@10']:.1f} %"
    if name == "distillation":
        return "; ".join(f"{row['variant']} {100 * row['mean_hit_rate@10']:.1f} %" for row in results)
    if name == "puma-mini":
        row = results[-1]
        return (
            f"{row['steps']} steps in {row['seconds']:.0f} s, mean hit@10 on val {100 * row['mean_hit_rate@10']:.1f} %"
        )
    return "figures written"
