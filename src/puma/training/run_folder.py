"""A training's working folder: the configuration it belongs to, its whole checkpoints, its log, its best weights.

``config.json`` the settings; ``log.jsonl`` a line for each entry of the log while it runs, ``log.json`` the whole at
the end; ``best-<step>`` the weights of the best evaluation so far. Everything is whole or not counted after a kill.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puma.errors import InputError
from puma.storage.folders import storage_errors, write_json, write_whole, written_folder
from puma.training.config import FREE, TrainConfig
from puma.training.distributed import processes
from puma.training.validation import best_of, stalled

CONFIGURATION = "config.json"
LOG = "log.jsonl"
STATE = "trainer_state.json"
PARTS = "processes.json"
"""The file of a checkpoint that lists ``[processes, batches]`` of each part of the run."""
WEIGHTS = "trainable.safetensors"
MARK = "complete"
"""The file of a checkpoint that is written last: a folder without it is not counted."""
HARMLESS = ("save_steps", "workers", "report_to", "max_unreadable")
"""Settings that change nothing of a stage's result."""
BEFORE = {"loss": "mac"}
"""What a run had that names no such setting, where it is not today's default."""
Entry = Mapping[str, Any]


def same_configuration(
    folder: Path, config: TrainConfig, rows: int, *, fixed: bool = False, movable: bool = False
) -> None:
    """Record a run's settings, or check that they are those of the run that is in the folder.

    Args:
        rows: pairs of the data.
        fixed: whether only settings may differ that change nothing of the result; else all of
            :data:`puma.training.config.FREE`.
        movable: whether the number of processes may differ, too.

    Raises:
        InputError: names the settings that differ and must not.
    """
    rank, ranks = processes()
    described = json.loads(json.dumps({**asdict(config), "rows": rows, "processes": ranks}))  # as a file tells it
    path = folder / CONFIGURATION
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before is not None:
        free = (*(HARMLESS if fixed else FREE), *(("processes",) if movable else ()))
        changed = sorted(k for k in described if before.get(k, _default(k)) != described[k] and k not in free)
        if changed:
            raise InputError(
                f"{folder}: holds a run with other settings ({', '.join(changed)}); give another folder or remove it"
            )
    if rank == 0 and before != described:
        write_json(path, described)


def _default(name: str) -> Any:
    """What a run had that was begun before there was such a setting."""
    default = BEFORE.get(name, getattr(TrainConfig, name, None))
    return list(default) if isinstance(default, tuple) else default


def latest_checkpoint(folder: str | os.PathLike[str], *, clean: bool = True) -> str | None:
    """The newest whole checkpoint of a run, or None; unfinished ones are removed, unless ``clean`` is false."""
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        if (path / MARK).is_file():
            found.append((int(path.name.rsplit("-", 1)[1]), path))
        elif clean:
            shutil.rmtree(path, ignore_errors=True)
    return str(max(found)[1]) if found else None


@dataclass(frozen=True)
class Resume:
    """Where a run goes on.

    Args:
        checkpoint: the folder that it goes on from; None for a new run.
        done: steps done before.
        best: the step of the best evaluation so far, if any.
        steps: to be done in all.
    """

    checkpoint: str | None
    done: int
    best: int | None
    steps: int


def resume(folder: Path, config: TrainConfig, steps: int) -> Resume:
    """Find where a run goes on that is to have so many steps, or fewer where it was stopped early.

    Raises:
        InputError: more steps were done already.
    """
    checkpoint = latest_checkpoint(folder, clean=processes()[0] == 0)
    done, history = step_of(checkpoint), history_of(checkpoint)
    if config.eval_every and config.patience and stalled(history) >= config.patience:
        steps = done  # it was stopped early, and killed before its end was written
    if steps < done:
        raise InputError(f"steps={steps}: {folder} has trained {done} already; give at least that many")
    best = best_of(history)
    return Resume(checkpoint, done, best[0] if best else None, steps)


def step_of(checkpoint: str | None) -> int:
    """The step of a checkpoint's folder; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.rsplit("-", 1)[1])


def parts_of(checkpoint: str | None, accumulate: int) -> list[tuple[int, int]]:
    """``(processes, batches)`` of each part of the run up to a checkpoint; one of an earlier version, without that
    list, was reached by as many processes as today. Empty for none.

    Args:
        accumulate: batches a step.
    """
    if checkpoint is None:
        return []
    path = Path(checkpoint) / PARTS
    if not path.is_file():
        return [(processes()[1], step_of(checkpoint) * accumulate)]
    return [(ranks, batches) for ranks, batches in json.loads(path.read_text(encoding="utf-8"))]


def history_of(checkpoint: str | None) -> list[dict[str, Any]]:
    """The log that a checkpoint carries; empty for none."""
    if checkpoint is None:
        return []
    return json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))["log_history"]


def entries(history: Sequence[Entry]) -> list[dict[str, float]]:
    """What a log shows of the trainer's: losses and evaluations, as plain numbers."""
    shown = [entry for entry in history if "loss" in entry or any(key.startswith("eval_") for key in entry)]
    return [{key: float(value) for key, value in entry.items()} for entry in shown]


class Journal:
    """``log.jsonl`` of a run, written by the first process as the run goes on.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def begin(self, history: Sequence[Entry]) -> None:
        """Leave the lines of this history, the checkpoint's: what was logged after it will be logged again."""
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in entries(history)).encode())

    def add(self, entry: Entry) -> None:
        """Append an entry; it is in the system's hands, not the process's, when this returns."""
        for row in entries([entry]):
            with storage_errors(self.path), open(self.path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")


def save_best(folder: Path, step: int, weights: Mapping[str, Any]) -> None:
    """Keep the weights of an evaluation that is the best so far, beside those of earlier ones."""
    from safetensors.torch import save_file

    with written_folder(folder / f"best-{step}", replace=True) as work:
        save_file(dict(weights), work / WEIGHTS)


def drop_bests(folder: Path, keep: int | None) -> None:
    """Remove the best weights of all steps but one: once a checkpoint is whole, no restart asks for the others."""
    for path in folder.glob("best-*"):
        if path.name != f"best-{keep}":
            shutil.rmtree(path, ignore_errors=True)


def best_weights(folder: Path, step: int) -> dict[str, Any]:
    """The weights that :func:`save_best` kept."""
    from safetensors.torch import load_file

    return load_file(folder / f"best-{step}" / WEIGHTS)
