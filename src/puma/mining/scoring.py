"""Scores of queries and candidates, and what is known to be right, as mining needs them.

Here: a split's candidates with their contents (:class:`Pools`), vectors made a part at a time (:class:`Parts`), score
rows from an encoder or a run. Not here: what is chosen (:mod:`puma.mining.choosing`) and written
(:mod:`puma.mining.writing`). Nothing in this module loads torch.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from puma.data.mbeir import Benchmark, Candidate, Query, TaskName
from puma.embedding import embed_readable
from puma.errors import DataError, ImageError
from puma.folders import write_whole
from puma.index.exact import rounded
from puma.ingest import content_digest
from puma.items import Encoder, Item
from puma.mining.choosing import UNKNOWN

PART = 2048
"""Vectors embedded before they are kept on disk."""
BLOCK_FLOATS = 2**24


class Pools:
    """The candidates of a split, each once; a task's pool is a list of places among them, its columns."""

    def __init__(self, benchmark: Benchmark, split: str, tasks: Sequence[TaskName], pool: str) -> None:
        self.candidates: list[Candidate] = []
        place: dict[str, int] = {}
        self._columns: dict[TaskName, np.ndarray] = {}
        for task in benchmark.tasks(split) if pool == "global" else tasks:
            columns = []
            for candidate in benchmark.pool(task, split):
                column = place.setdefault(candidate.did, len(self.candidates))
                if column == len(self.candidates):
                    self.candidates.append(candidate)
                columns.append(column)
            self._columns[task] = np.array(columns, dtype=np.int64)
        if pool == "global":
            self._columns = dict.fromkeys(tasks, np.arange(len(self.candidates)))
        self.dids = [candidate.did for candidate in self.candidates]
        self.order = np.empty(len(self.dids), dtype=np.int64)
        self.order[np.array(sorted(range(len(self.dids)), key=self.dids.__getitem__), dtype=np.int64)] = np.arange(
            len(self.dids)
        )
        self.root = benchmark.root
        self._codes: dict[str, int] = {}
        self.contents = np.array([self._code(candidate.item(self.root)) for candidate in self.candidates])

    def columns(self, task: TaskName) -> np.ndarray:
        return self._columns[task]

    def items(self) -> list[Item]:
        return [candidate.item(self.root) for candidate in self.candidates]

    def code_of(self, content: str) -> int:
        return self._codes.get(content, UNKNOWN) if content else UNKNOWN

    def _code(self, item: Item) -> int:
        content = _content(item)
        return self._codes.setdefault(content, len(self._codes)) if content else UNKNOWN


def _content(item: Item) -> str:
    """Equal for equal items: the text, white space aside, and the picture's bytes. Empty if they cannot be read."""
    text = " ".join((item.text or "").split()) or None
    try:
        return content_digest(Item(text=text, image=item.image))
    except ImageError:
        return ""


class Parts:
    """Vectors, embedded a part at a time and kept, so that a killed run loses one part."""

    def __init__(self, folder: Path, encoder: Encoder | None, batch_size: int, progress: bool) -> None:
        self.folder, self.encoder, self.batch_size, self.progress = folder, encoder, batch_size, progress
        self._kept: tuple[np.ndarray, np.ndarray] | None = None

    def candidates(self, pools: Pools) -> tuple[np.ndarray, np.ndarray]:
        if self._kept is None:
            self._kept = self.embedded("candidates", pools.items(), None)
        return self._kept

    def embedded(self, name: str, items: Sequence[Item], instruction: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, dim] and which items could be read [n]."""
        assert self.encoder is not None
        vectors = np.zeros((len(items), self.encoder.dim), dtype=np.float32)
        readable = np.zeros(len(items), dtype=bool)
        for start in range(0, len(items), PART):
            rows = slice(start, min(start + PART, len(items)))
            path = self.folder / f"{name}-{start}.npz"
            if not path.is_file():
                label = f"{name}, {rows.stop:,} of {len(items):,}" if self.progress else None
                made, good, _ = embed_readable(
                    self.encoder, items[rows], instruction=instruction, batch_size=self.batch_size, progress=label
                )
                buffer = io.BytesIO()
                np.savez(buffer, vectors=made, readable=good)
                write_whole(path, buffer.getvalue())
            with np.load(path) as stored:
                vectors[rows], readable[rows] = stored["vectors"], stored["readable"]
        return vectors, readable


def right_answers(
    benchmark: Benchmark, task: TaskName, split: str, queries: Sequence[Query]
) -> tuple[dict[str, set[str]], dict[str, str]]:
    """By query: what is right for it or for another of its content, and its content."""
    qrels = benchmark.qrels(task, split)
    contents = {query.qid: _content(query.item(benchmark.root)) for query in queries}
    shared: dict[str, set[str]] = {}
    for query in queries:
        judged = {did for did, grade in qrels.get(query.qid, {}).items() if grade > 0}
        shared.setdefault(contents[query.qid] or query.qid, set()).update(query.positives, judged)
    return {query.qid: shared[contents[query.qid] or query.qid] for query in queries}, contents


def from_encoder(
    parts: Parts, pools: Pools, columns: np.ndarray, queries: Sequence[Query], benchmark: Benchmark, task: TaskName
) -> Iterator[np.ndarray]:
    vectors, readable = parts.candidates(pools)
    items = [query.item(benchmark.root) for query in queries]
    asked, heard = parts.embedded(f"queries-{benchmark.label(task)}", items, benchmark.instruction(task))
    pool, lost = vectors[columns].astype(np.float64), ~readable[columns]
    step = max(1, BLOCK_FLOATS // max(1, len(columns)))
    for start in range(0, len(queries), step):
        scores = rounded(asked[start : start + step].astype(np.float64) @ pool.T)
        scores[:, lost] = np.nan
        scores[~heard[start : start + step]] = np.nan
        yield from scores


def from_run(
    run: dict[str, dict[str, float]], queries: Sequence[Query], place: dict[str, int], size: int, task: TaskName
) -> Iterator[np.ndarray]:
    met = False
    for query in queries:
        row = np.full(size, np.nan)
        for did, score in run.get(query.qid, {}).items():
            if did in place:
                row[place[did]] = score
                met = True
        yield row
    if not met:
        raise DataError(f"task {task}: no query and candidate of the run file are of this benchmark's split")
