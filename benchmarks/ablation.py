"""The ablation: what each part of the method does on OpenPics with the mini base, at equal steps.

    python benchmarks/ablation.py --plan                       # what would be run, and about how long it takes
    python benchmarks/ablation.py --threads 1 --max-minutes 70 # run; again: go on
    python benchmarks/ablation.py --only mac --seeds 0
    python benchmarks/ablation.py --report                     # docs/results.md and its plots from the results

A queue of cells (variant, learning rate, seed). A cell is trained, tuned on val with the first seed, scored on test
once for each seed at the rate chosen, and written to ``benchmarks/results/ablation.json`` before the next one starts:
after a kill the same command goes on with the cell that was lost. Here: the queue. What is compared:
_ablation_variants; a cell: _ablation_cells; the tables: _ablation_report. Runs on CPU or GPU.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _ablation_variants import VARIANTS, Job, Row, Variant, estimate, next_job
from _rows import add_row, read_rows
from puma.cli.commands._shared import quiet_libraries

RESULTS = Path(__file__).parent / "results" / "ablation.json"
STEPS = 24
SEEDS = (0, 1, 2)


def main() -> None:
    options = arguments()
    quiet_libraries()
    if options.report:
        from _ablation_report import write_results

        write_results(rows_of(options.results, options.steps), options.steps, options.docs)
        return
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    if options.plan:
        show_plan(options)
        return
    run(options)


def run(options: argparse.Namespace) -> None:
    """Cells, one after the other, until none is left or the time would not suffice."""
    from _ablation_cells import World

    start, world = time.monotonic(), None
    failed: set[tuple[str, int, float]] = set()
    while True:
        rows = rows_of(options.results, options.steps)
        job = next_job(rows, options.variants, options.seeds, options.rates, lambda job: key(job) in failed)
        if job is None:
            say(f"nothing left to run; {len(failed)} failed" if failed else "nothing left to run")
            return
        expected = estimate(job, options.steps, rows, threads())
        spent = time.monotonic() - start
        if options.max_minutes and spent + expected > 60 * options.max_minutes:
            say(f"stopping: {describe(job)} would take about {expected:.0f} s, {spent / 60:.0f} min are spent")
            return
        world = world or World.open()
        say(f"{spent / 60:5.1f} min  {describe(job)}, about {expected:.0f} s ...")
        try:
            row = run_cell(world, job, options.steps, rows, options.tasks)
            add_row(options.results, row, ("variant", "rate", "seed", "steps"))
        except Exception as error:  # one variant that cannot run must not cost the others theirs
            failed.add(key(job))
            say(f"FAILED {describe(job)}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def run_cell(world: Any, job: Job, steps: int, rows: Sequence[Row], tasks: Sequence[int] = ()) -> dict[str, Any]:
    """Train and score one cell."""
    from _ablation_cells import scores, trained

    encoder, seconds, log = trained(world, job.variant, job.rate, job.seed, steps)
    val: Any = None
    test: Any = None
    if job.tuning:
        val, seconds["val"] = timed(lambda: scores(encoder, world.root, "val", tasks))
    tried = [r["val"]["mean"] for r in rows if (r["variant"], r["seed"]) == key(job)[:2] and r["val"]]
    if not job.tuning or val["mean"] >= max(tried, default=0.0):
        test, seconds["test"] = timed(lambda: scores(encoder, world.root, "test", tasks))
    shown = " ".join(f"{name} {100 * table['mean']:.1f}" for name, table in (("val", val), ("test", test)) if table)
    say(f"           {shown}  ({sum(seconds.values()):.0f} s)")
    losses = [entry["loss"] for entry in log]
    return {
        "variant": job.variant.name,
        "layers": job.variant.layers,
        "rate": job.rate,
        "seed": job.seed,
        "steps": steps,
        "batch_size": world.plan.retrieve.batch_size,
        "val": val,
        "test": test,
        "loss": [round(losses[0], 3), round(losses[-1], 3)] if losses else [],
        "seconds": seconds,
        "machine": machine(),
    }


def timed(work: Any) -> tuple[Any, float]:
    start = time.monotonic()
    return work(), round(time.monotonic() - start, 1)


def rows_of(path: Path, steps: int) -> list[dict[str, Any]]:
    """The finished cells of these steps."""
    return [row for row in read_rows(path) if row["steps"] == steps]


def show_plan(options: argparse.Namespace) -> None:
    """What is left, in order, with estimates; the rate of later seeds is not known yet where it says so."""
    rows: list[Any] = list(rows_of(options.results, options.steps))
    total, number, already = 0.0, 0, list(rows)
    while (job := next_job(rows, options.variants, options.seeds, options.rates)) is not None:
        expected = estimate(job, options.steps, already, threads())
        total, number = total + expected, number + 1
        print(f"{number:4d} {total / 60:7.1f} min  {describe(job)}")
        mean = 1.0 if job.rate == job.variant.rates[0] else 0.0
        rows.append(
            {
                "variant": job.variant.name,
                "rate": job.rate,
                "seed": job.seed,
                "steps": options.steps,
                "val": {"mean": mean} if job.tuning else None,
                "test": {},
                "seconds": {"guess": expected},
            }
        )
    print(f"{number} cells, about {total / 60:.0f} min on {threads()} threads; {len(already)} are finished")


def key(job: Job) -> tuple[str, int, float]:
    return job.variant.name, job.seed, job.rate


def describe(job: Job) -> str:
    rate = f" rate {job.rate:g}" if job.variant.trained else ""
    return f"{job.variant.name}{rate} seed {job.seed}{' (tuning)' if job.tuning and job.variant.trained else ''}"


def threads() -> int:
    import torch

    return torch.get_num_threads()


def machine() -> str:
    import torch

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "sentence-transformers"))
    return f"{platform.machine()}, {threads()} threads, cuda {torch.cuda.is_available()}, {packages}"


def say(line: str) -> None:
    print(line, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--groups", nargs="+", help="only variants of these groups")
    parser.add_argument("--steps", type=int, default=STEPS, help="of 64 pairs, the same for all variants")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="the first one tunes the rate")
    parser.add_argument("--rates", type=float, nargs="+", default=[], help="instead of each variant's own grid")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--max-minutes", type=float, default=0.0, help="start no cell that would not fit")
    parser.add_argument("--tasks", type=int, nargs="+", default=[], help="score only these, to try the script out")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plan", action="store_true", help="only tell what would be run")
    parser.add_argument("--report", action="store_true", help="only write docs/results.md and its plots")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    options = parser.parse_args()
    if options.steps < 1 or not options.seeds:
        parser.error("--steps must be at least 1, --seeds name at least one")
    unknown = sorted(set(options.only or ()) - set(VARIANTS))
    if unknown:
        parser.error(f"no such variant: {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    chosen = [VARIANTS[name] for name in options.only or VARIANTS]
    chosen = [one for one in chosen if not options.groups or one.group in options.groups]
    options.variants = [one for one in chosen if runnable(one)]
    return options


def runnable(variant: Variant) -> bool:
    missing = variant.missing_settings
    if missing:
        print(f"{variant.name}: left out, this version has no setting {', '.join(missing)}", file=sys.stderr)
    return not missing


if __name__ == "__main__":
    main()
