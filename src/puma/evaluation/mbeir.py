"""Evaluation on a benchmark in M-BEIR's layout: every task, local and global pools, one pass over the candidates.

Here: :func:`evaluate` for an encoder, :func:`chance` for a random ranking, in one shape of table
(:data:`puma.evaluation.counting.Tables`); by name also :func:`evaluate_embeddings` and :func:`evaluate_runs` for what
others have made. Not here: the metrics (:mod:`puma.evaluation.metrics`), the files' format
(:mod:`puma.data.mbeir`), showing results (:mod:`puma.evaluation.report`).

The rules: a query takes its task's first instruction unless asked otherwise, a candidate none; scores are cosines of
the fp32 vectors in double precision, rounded to six decimals (what differs less is rounding noise), and ties count
against us; a candidate whose picture cannot be read is never found but stays in the pool's count; a query whose picture
cannot be read is a miss. Where the pool holds the query's own picture, as in some published tasks, it stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.mbeir import TaskName
from puma.embedding import BATCH, embed_readable
from puma.errors import InputError
from puma.evaluation.counting import INSTRUCTIONS, KS, RANKED_K, Tables, check_ks, count, headline, store
from puma.evaluation.embeddings import evaluate_embeddings
from puma.evaluation.judged import POOLS, Judged
from puma.evaluation.matrices import check_memory, matrix, release, scratch_folder
from puma.evaluation.metrics import chance_hit_rate, chance_mrr, chance_ndcg, chance_recall
from puma.evaluation.scored_runs import evaluate_runs
from puma.items import MODALITIES, Encoder

__all__ = ["KS", "POOLS", "Tables", "chance", "evaluate", "evaluate_embeddings", "evaluate_runs"]


def evaluate(
    encoder: Encoder,
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    tasks: Iterable[TaskName] | None = None,
    pools: Sequence[str] = POOLS,
    ks: Sequence[int] = KS,
    run_dir: str | os.PathLike[str] | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
    instruction: str = "first",
    details: bool = False,
    memory: int | None = None,
    work: str | os.PathLike[str] | None = None,
) -> Tables:
    """Embed the queries and candidates of a benchmark and score them.

    Args:
        encoder: embeds both sides. Each candidate is embedded once, for all tasks and pools.
        root: the benchmark's folder.
        dataset: which data set of the folder; None for the only one, or for all where it holds several, whose tasks
            then go by their labels ("visualnews_task0").
        tasks: task ids, labels or data sets; all the split has if None.
        pools: ``local``, ``global`` or both.
        ks: depths of hit rate and recall.
        run_dir: where a TREC run file per task and pool is written, if given.
        batch_size: items handed to the encoder at once.
        progress: whether bars with rate and time left go to stderr.
        instruction: ``first``, the task's first one, as published figures are made; ``none``; or ``all``: the first
            one's figures, and how they spread over all of the task's instructions.
        details: whether every query's best rank is kept, under ``per_query``.
        memory: bytes for the candidates' vectors and the scores, beside what the process holds already (256 MiB at
            least go to the scores). Vectors that need more than half of it go to a file under ``work`` while the
            evaluation runs, and are scored block by block, with the same figures. None: all vectors in memory.
        work: a folder with room for that file; the system's temporary folder if None.

    Returns:
        See :data:`puma.evaluation.counting.Tables`; rates in [0, 1], ``wrong_modality@1`` is the share of queries whose
        best candidate is not of the modality asked for.

    Raises:
        InputError: an unknown task, pool or instruction, or a k or memory below 1.
        DataError: the benchmark's files are at fault.
    """
    if instruction not in INSTRUCTIONS:
        raise InputError(f"instruction must be one of {INSTRUCTIONS}, got {instruction!r}")
    check_ks(ks)
    check_memory(memory)
    data = Judged.read(root, dataset, split, tasks, pools)
    with scratch_folder(memory, work) as scratch:
        source = _Encoded(encoder, batch_size, progress, instruction, memory, scratch)
        return count(
            data,
            source,
            pools,
            ks,
            run_dir=run_dir,
            details=details,
            spread=instruction == "all",
            memory=memory,
            scratch=scratch,
            progress=progress,
        )


def chance(
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    tasks: Iterable[TaskName] | None = None,
    pools: Sequence[str] = POOLS,
    ks: Sequence[int] = KS,
) -> Tables:
    """What a random ranking would reach in expectation, in :func:`evaluate`'s shape and with its errors."""
    check_ks(ks)
    data = Judged.read(root, dataset, split, tasks, pools)
    tables: Tables = {}
    for task in data.tasks:
        for pool in pools:
            view = data.view(pool, task)
            size = len(view.dids)
            found = [len(columns) for columns in view.positives]
            table: dict[str, Any] = {"pool": size, "queries": len(found)}
            for k in ks:
                table[f"hit_rate@{k}"] = float(np.mean([chance_hit_rate(size, number, k) for number in found]))
            for k in ks:
                rates = [number / len(ideal) for number, ideal in zip(found, view.ideals, strict=True)]
                table[f"recall@{k}"] = chance_recall(size, k) * float(np.mean(rates))
            pairs = zip(view.grades, view.ideals, strict=True)
            table[f"ndcg@{RANKED_K}"] = float(np.mean([chance_ndcg(size, own, top, RANKED_K) for own, top in pairs]))
            table[f"mrr@{RANKED_K}"] = float(np.mean([chance_mrr(size, number, RANKED_K) for number in found]))
            table["confusion"] = {name: float((view.codes == code).mean()) for code, name in enumerate(MODALITIES)}
            table |= {"skipped": 0, "skipped_items": []}
            if pool == "global":
                table["wrong_modality@1"] = float((view.codes != view.wanted).mean())
            store(tables, task, pool, table | headline(data.benchmark.split_name(task)[0], ks))
    return tables


@dataclass(frozen=True)
class _Encoded:
    """Vectors that an encoder makes: a :class:`puma.evaluation.counting.Source`."""

    encoder: Encoder
    batch_size: int
    progress: bool
    instruction: str
    memory: int | None
    scratch: Path | None

    def candidates(self, data: Judged) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        size = len(data.candidates)
        vectors, rows = matrix(size, self.encoder.dim, self.memory, self.scratch)
        readable = np.ones(size, dtype=bool)
        faulty: dict[str, str] = {}
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

    def queries(self, data: Judged, task: TaskName) -> list[tuple[np.ndarray, np.ndarray, dict[str, str]]]:
        queries = data.queries[task]
        items = [query.item(data.benchmark.root) for query in queries]
        prompts: dict[str, Sequence[str | None]] = {"none": [None]}
        if self.instruction != "none":
            all_prompts = data.benchmark.instructions(task)
            prompts = {"first": all_prompts[:1], "all": all_prompts}
        found = []
        for number, prompt in enumerate(prompts[self.instruction]):
            name = f"queries, task {task}" + (f", instruction {number + 1}" if number else "")
            vectors, heard, faults = embed_readable(
                self.encoder,
                items,
                instruction=prompt,
                batch_size=self.batch_size,
                progress=name if self.progress else None,
            )
            found.append((vectors, heard, {queries[place].qid: reason for place, reason in faults}))
        return found
