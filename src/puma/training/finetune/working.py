"""What the working folder of a training on a table holds: which data it is of, the rows that were left out, and, where
a base is trained, the table as a benchmark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from puma.data.pair_tables import PairTable
from puma.errors import InputError, PumaError
from puma.items.skips import Skip, summary
from puma.storage.folders import write_json, write_whole, written_folder
from puma.training.distributed import first_does, join, processes
from puma.training.finetune.benchmark import with_a_task, write_benchmark
from puma.training.finetune.examples import read_examples
from puma.training.finetune.split import split_examples

PLAN = "data.json"
LEFT_OUT = "left_out.jsonl"
"""Every row that was left out, with the reason."""


def report_skips(work: Path, skips: Sequence[Skip], say: Callable[[str], None]) -> None:
    """List what was left out, all of it in a file, the first few by ``say``."""
    if not skips:
        return
    if processes()[0] == 0:
        lines = [json.dumps({"where": skip.where, "reason": skip.reason}) + "\n" for skip in skips]
        write_whole(work / LEFT_OUT, "".join(lines).encode())
    say(f"{summary(skips, 'rows')}\n  all of them: {work / LEFT_OUT}")


def check_data(work: Path, plan: Mapping[str, Any]) -> None:
    """Check that the folder's run, if there is one, is of the same data.

    Raises:
        InputError: it is not.
    """
    path = work / PLAN
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in plan if before.get(key) != plan[key])
        if changed:
            raise InputError(
                f"{work}: an unfinished run of other settings is there ({', '.join(changed)} differ); remove that "
                "folder or give another --out"
            )


def same_data(work: Path, plan: Mapping[str, Any]) -> None:
    """Record what a run is of, or check that the folder's run is of the same."""
    check_data(work, plan)
    if processes()[0] == 0 and not (work / PLAN).is_file():
        write_json(work / PLAN, plan)


def benchmark_of_run(
    table: PairTable, work: Path, *, held_out: float, strict: bool = False, say: Callable[[str], None] = print
) -> Path:
    """The benchmark of a training run, in its working folder: written by the first of several processes, and used again
    when an unfinished run goes on.

    Raises:
        InputError: the folder belongs to a run of other data. And as :func:`puma.training.finetune.benchmark.convert`.
            All processes raise what the first one does.
    """
    root = work / "data"
    join()
    first_does(lambda: _write(table, root, work, held_out=held_out, strict=strict, say=say))
    return root


def _write(
    table: PairTable, root: Path, work: Path, *, held_out: float, strict: bool, say: Callable[[str], None]
) -> None:
    new = not work.exists()
    try:
        examples = read_examples(table, work / "images", strict=strict, show_progress=True)
        plan = {"data": examples.fingerprint, "held_out": held_out}
        check_data(work, plan)
        rows, skips = with_a_task(examples, table.path)
        split = split_examples(rows, held_out)
        if not root.is_dir():
            for rest in work.glob(".data.*.part"):  # of a run that was killed while it wrote
                shutil.rmtree(rest, ignore_errors=True)
            with written_folder(root) as part:
                found = write_benchmark(rows, split, part)
                same_data(work, plan)
            report_skips(work, [*examples.skips, *skips, *found.skips], say)
            counts = ", ".join(f"{count:,} {name}" for name, count in found.queries.items())
            say(f"{table.path}: {len(rows):,} different pairs; queries: {counts}; no query is on two sides")
    except PumaError:  # a table that cannot be used leaves nothing that would stop the corrected command
        if new:
            shutil.rmtree(work, ignore_errors=True)
        raise
