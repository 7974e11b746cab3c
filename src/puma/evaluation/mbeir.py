"""Evaluation on a benchmark in M-BEIR's layout: every task, local and global pools, one pass over the candidates.

The rules: a query takes its task's first instruction unless asked otherwise, a candidate none; scores are cosines of
the fp32 vectors in double precision, rounded to six decimals (what differs less is rounding noise), and ties count
against us; a candidate whose image cannot be read is never found but stays in the pool's count; a query whose image
cannot be read is a miss. Where the pool holds the query's own image, as in some published tasks, it stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from puma.data.mbeir import TaskName
from puma.errors import InputError
from puma.evaluation.counting import INSTRUCTIONS, KS, RANKED_K, Tables, check_ks, count, headline, store
from puma.evaluation.encoded import InMemory, Kept, check_modalities
from puma.evaluation.judged import POOLS, Judged
from puma.evaluation.matrices import check_memory, scratch_folder
from puma.evaluation.metrics import chance_hit_rate, chance_mrr, chance_ndcg, chance_recall
from puma.evaluation.processes import is_first
from puma.evaluation.scored_runs import evaluate_runs
from puma.evaluation.stored.reading import evaluate_embeddings
from puma.evaluation.stored.resumable import Resumable, made_with, opened_store
from puma.index.exact.sharded import ShardedSearch
from puma.items.encoder import BATCH, Encoder
from puma.items.item import MODALITIES
from puma.storage.vectors import VectorStore

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
    work: str | os.PathLike[str] | VectorStore | None = None,
    search: ShardedSearch | None = None,
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
            least go to the scores). Vectors that need more than half of it go to a temporary file while the
            evaluation runs, and are scored block by block, with the same figures. None: all vectors in memory.
        work: a folder that keeps the vectors while the evaluation runs, at four bytes a number: after a kill the same
            call goes on from there, losing at most a batch, to the same figures; and the processes of a ``torchrun``
            embed their shares into it. It is removed when all is scored. An open store is used and left as it is. None:
            nothing is kept.
        search: what searches the pools; this process if None. The same figures either way.

    Returns:
        See :data:`puma.evaluation.counting.Tables`; rates in [0, 1], ``wrong_modality@1`` is the share of queries whose
        best candidate is not of the modality asked for. Of several processes the first has the tables, the
        others none.

    Raises:
        InputError: an unknown task, pool or instruction, or a k or memory below 1.
        DataError: the benchmark's files are at fault.
    """
    if instruction not in INSTRUCTIONS:
        raise InputError(f"instruction must be one of {INSTRUCTIONS}, got {instruction!r}")
    check_ks(ks)
    check_memory(memory)
    data = Judged.read(root, dataset, split, tasks, pools)
    check_modalities(encoder, data, pools)
    options: dict[str, Any] = {"run_dir": run_dir, "details": details, "spread": instruction == "all"}
    options |= {"memory": memory, "progress": progress, "search": search}
    if work is None:
        with scratch_folder(memory, None) as scratch:
            source = InMemory(encoder, batch_size, progress, instruction, memory, scratch)
            return count(data, source, pools, ks, scratch=scratch, **options)
    with contextlib.ExitStack() as stack:
        if isinstance(work, VectorStore):
            vectors = work
        else:
            settings = work_settings(encoder, root, dataset, split, data.tasks, pools, instruction, batch_size)
            vectors = stack.enter_context(opened_store(work, "evaluate", settings))
        kept = Kept(Resumable(encoder, vectors, batch_size=batch_size, progress=progress), instruction)
        kept.share(data)
        if not is_first():
            return {}
        with scratch_folder(memory, vectors.folder) as scratch:
            tables = count(data, kept, pools, ks, scratch=scratch, **options)
        if vectors is not work:
            vectors.remove()
    return tables


def work_settings(
    encoder: Encoder,
    root: str | os.PathLike[str],
    dataset: str | None,
    split: str,
    tasks: Sequence[TaskName] | None,
    pools: Sequence[str],
    instruction: str,
    batch_size: int = BATCH,
) -> dict[str, Any]:
    """What an evaluation's kept vectors are made with: two evaluations of equal settings go on with each other's."""
    place = os.path.realpath(root)
    return made_with(
        encoder,
        batch_size,
        root=place,
        dataset=dataset,
        split=split,
        tasks=None if tasks is None else [str(task) for task in tasks],
        pools=list(pools),
        instruction=instruction,
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
