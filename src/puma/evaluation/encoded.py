"""Vectors that an encoder makes, as a source for :func:`puma.evaluation.counting.count`: in memory, or kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.mbeir import TaskName
from puma.errors import InputError
from puma.evaluation.judged import Judged
from puma.evaluation.matrices import matrix, release
from puma.evaluation.stored.resumable import Resumable, Wanted, safe_name
from puma.items.encoder import Encoder, embed_readable
from puma.items.item import MODALITIES

By = tuple[np.ndarray, np.ndarray, dict[str, str]]
"""Vectors, which are there, and why the others are not, by id."""


def candidate_list(data: Judged) -> Wanted:
    """All candidates, as they are embedded."""
    root = data.benchmark.root
    return Wanted(
        "candidates",
        lambda: [candidate.item(root) for candidate in data.candidates],
        len(data.candidates),
        label="candidates",
    )


def query_lists(data: Judged, task: TaskName, instruction: str) -> list[Wanted]:
    """A task's queries, once for each instruction: ``first``, ``none`` or ``all``."""
    prompts: Sequence[str | None] = [None]
    if instruction != "none":
        every = data.benchmark.instructions(task)
        prompts = every if instruction == "all" else every[:1]
    queries, root, found = data.queries[task], data.benchmark.root, []
    for number, prompt in enumerate(prompts):
        more = f", instruction {number + 1}" if number else ""
        found.append(
            Wanted(
                safe_name(f"queries-{data.benchmark.label(task)}-{number}"),
                lambda: [query.item(root) for query in queries],
                len(queries),
                prompt,
                f"queries, task {task}{more}",
            )
        )
    return found


@dataclass(frozen=True)
class InMemory:
    """Vectors made when they are asked for; candidates lie in a temporary file where memory is limited."""

    encoder: Encoder
    batch_size: int
    progress: bool
    instruction: str
    memory: int | None
    scratch: Path | None

    def candidates(self, data: Judged) -> By:
        size = len(data.candidates)
        vectors, rows = matrix(size, self.encoder.dim, self.memory, self.scratch)
        readable = np.ones(size, dtype=bool)
        faulty: dict[str, str] = {}
        # Whole batches, so that the vectors are the same to the last bit whatever the memory.
        rows = size if rows >= size else max(self.batch_size, rows - rows % self.batch_size)
        for start in range(0, size, rows):
            part = data.candidates[start : start + rows]
            name = "candidates" if rows >= size else f"candidates from {start:,} of {size:,}"
            own, readable[start : start + rows], faults = embed_readable(
                self.encoder,
                [candidate.item(data.benchmark.root) for candidate in part],
                batch_size=self.batch_size,
                progress=name if self.progress else None,
            )
            vectors[start : start + rows] = own
            release(vectors)
            faulty |= {part[place].did: reason for place, reason in faults}
        return vectors, readable, faulty

    def queries(self, data: Judged, task: TaskName) -> list[By]:
        found = []
        for wanted in query_lists(data, task, self.instruction):
            vectors, query_ok, faults = embed_readable(
                self.encoder,
                wanted.items(),
                instruction=wanted.instruction,
                batch_size=self.batch_size,
                progress=wanted.label if self.progress else None,
            )
            found.append((vectors, query_ok, {data.queries[task][place].qid: reason for place, reason in faults}))
        return found


@dataclass(frozen=True)
class Kept:
    """Vectors in a store, where an interrupted run goes on and several processes put theirs together."""

    embedding: Resumable
    instruction: str

    def share(self, data: Judged) -> None:
        """Embed this process's share of everything; every process calls this."""
        queries = [wanted for task in data.tasks for wanted in query_lists(data, task, self.instruction)]
        self.embedding.share([candidate_list(data), *queries])

    def candidates(self, data: Judged) -> By:
        vectors, readable, faults = self.embedding.embedded(candidate_list(data))
        return vectors, readable, {data.candidates[place].did: reason for place, reason in faults}

    def queries(self, data: Judged, task: TaskName) -> list[By]:
        found = []
        for wanted in query_lists(data, task, self.instruction):
            vectors, query_ok, faults = self.embedding.embedded(wanted)
            found.append((vectors, query_ok, {data.queries[task][place].qid: reason for place, reason in faults}))
        return found


def check_modalities(encoder: Any, data: Judged, pools: Sequence[str]) -> None:
    """Refuse a benchmark with items that the encoder cannot embed, by its ``modalities``, before anything is embedded.

    Raises:
        InputError: names the first such task and modality, and the tasks and pools that could be scored.
    """
    able = getattr(encoder, "modalities", None)
    if able is None:
        return
    lacking = {task: _lacking(data, task, able) for task in data.tasks}
    fine = [str(task) for task in data.tasks if not lacking[task]]
    remedy = f"give --tasks {','.join(fine)}" if fine else "it can be scored on none of these tasks"
    for task, kinds in lacking.items():
        if kinds:
            what = " and ".join(kinds)
            raise InputError(
                f"task {task} ({data.benchmark.label(task)}) needs {what}, and this model embeds only "
                f"{', '.join(kind for kind in MODALITIES if kind in able)}: {remedy}"
            )
    if "global" in pools:
        places = data.pools["global", None]
        others = sorted({data.candidates[place].modality for place in places.tolist()} - set(able))
        if others:
            raise InputError(
                f"the global pool holds candidates of {' and '.join(others)}, and this model embeds only "
                f"{', '.join(kind for kind in MODALITIES if kind in able)}: give --pools local"
            )


def _lacking(data: Judged, task: TaskName, able: Sequence[str]) -> list[str]:
    present = {query.item(data.benchmark.root).modality for query in data.queries[task]}
    kinds = [f"queries of {kind}" for kind in MODALITIES if kind in present and kind not in able]
    own = data.pools.get(("local", task))
    if own is not None:
        found = {data.candidates[place].modality for place in own.tolist()}
    else:
        found = {data.benchmark.modalities(task)[1]}
    return kinds + [f"candidates of {kind}" for kind in MODALITIES if kind in found and kind not in able]
