"""A benchmark in M-BEIR's layout (OpenPics first of all) as mteb Any2Any retrieval tasks.

mteb is the optional extra ``mteb``. The data come from the folder; nothing is fetched.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any

from puma.data.mbeir import TASK_MODALITIES, Benchmark, Candidate, Query, TaskName
from puma.errors import DataError, ImageError, InputError
from puma.evaluation.metrics import check_k
from puma.evaluation.mteb.encoder import require_mteb
from puma.items.item import IMAGE, IMAGE_TEXT, MODALITIES, TEXT

LETTERS = {TEXT: "t", IMAGE: "i", IMAGE_TEXT: "it"}
"""mteb's letters for our modalities."""
POOLS = ("local", "global")
KS = (1, 5, 10)
OWN_NAMES = {"openpics": "OpenPics"}
"""How a data set is written in the names of its tasks, if not as in its files."""


def task_name(dataset: str, task: int, pool: str = "local") -> str:
    """The mteb name of one task.

    Examples:
        >>> task_name("openpics", 7)
        'OpenPicsIT2IRetrieval'
        >>> task_name("openpics", 0, "global")
        'OpenPicsT2IGlobalRetrieval'
    """
    query_kind, found = (LETTERS[modality].upper() for modality in TASK_MODALITIES[task])
    return f"{OWN_NAMES.get(dataset, dataset)}{query_kind}2{found}{'Global' if pool == 'global' else ''}Retrieval"


def tasks(
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    chosen: Iterable[TaskName] | None = None,
    pools: Sequence[str] = ("local",),
    ks: Sequence[int] = KS,
) -> list[Any]:
    """The tasks of a folder as ``mteb`` tasks (``AbsTaskRetrieval``), for ``mteb_tasks.run`` or
    ``mteb.evaluate``.

    Each carries ``puma_task``, ``puma_pool`` and, once loaded, ``puma_size`` (candidates), ``puma_qids`` (queries that
    can be read), ``puma_skipped`` ({id: reason}) and ``puma_unreadable`` (how many of those are queries). Pools and
    queries are read when mteb loads the data.

    Args:
        root, dataset, split: which benchmark.
        chosen: task ids, labels or data sets, as :meth:`Benchmark.choose` takes them; all the split has if None.
        pools: local, global or both, a task for each. In a global pool a candidate without a text has an empty one and
            a candidate without an image None: our encoder takes that, most of mteb's models do not.
        ks: depths of the metrics; 1 is always among them.

    Raises:
        InputError, DataError, DependencyError.
    """
    for k in ks:
        check_k(k)
    if isinstance(pools, str) or not pools or set(pools) - set(POOLS):
        raise InputError(f"pools must be some of {POOLS}, got {pools!r}")
    kind = _task_class()
    benchmark = Benchmark(root, dataset)
    made = []
    for task in benchmark.choose(split, chosen):
        for pool in pools:
            own = {"metadata": _metadata(benchmark, task, split, pool), "k_values": tuple(sorted({1, *ks}))}
            made.append(type(own["metadata"].name, (kind,), own)(benchmark, task, split, pool))
    return made


@functools.cache
def _task_class() -> Any:
    """What our tasks have in common; made on first use, since mteb may be missing. Each has a class of its own below
    it, for mteb keeps the metadata in the class: unloading drops those of the instance."""
    require_mteb()
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    class LayoutRetrieval(AbsTaskRetrieval):
        """One task of a benchmark in M-BEIR's layout, over one pool."""

        data_loaded: bool = False

        def __init__(self, benchmark: Benchmark, task: TaskName, split: str, pool: str) -> None:
            self.puma_benchmark, self.puma_task, self.puma_split, self.puma_pool = benchmark, task, split, pool
            self.puma_skipped: dict[str, str] = {}
            self.puma_qids: list[str] = []
            self.puma_unreadable = self.puma_size = 0
            super().__init__()

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            if self.data_loaded:
                return
            self.dataset = {"default": {self.puma_split: self._split()}}
            self.data_loaded = True

        def _split(self) -> Any:
            benchmark, split = self.puma_benchmark, self.puma_split
            whole = self.puma_pool == "global"
            pool = benchmark.global_pool(split) if whole else benchmark.pool(self.puma_task, split)
            judged = {
                qid: row
                for qid, row in benchmark.qrels(self.puma_task, split).items()
                if max(row.values(), default=0) > 0
            }
            queries = [query for query in benchmark.queries(self.puma_task, split) if query.qid in judged]
            if not queries:
                raise DataError(f"{benchmark.root}: no query of task {self.puma_task}, split {split}, has a positive")
            faults: dict[str, str | None] = {}
            readable = [
                query for query in queries if not _fault(query, query.qid, benchmark, faults, self.puma_skipped)
            ]
            found = [one for one in pool if not _fault(one, one.did, benchmark, faults, self.puma_skipped)]
            self.puma_size, self.puma_unreadable = len(pool), len(queries) - len(readable)
            self.puma_qids = [query.qid for query in readable]
            if not readable or not found:
                lacking = "candidates" if readable else "queries"
                raise DataError(
                    f"{benchmark.root}: no readable {lacking} in task {self.puma_task}: "
                    f"{next(iter(self.puma_skipped.values()), 'the pool is empty')}"
                )
            wanted = MODALITIES if whole else (self.puma_benchmark.modalities(self.puma_task)[1],)
            odd = next((one for one in found if one.modality not in wanted), None)
            if odd is not None:
                raise DataError(
                    f"{benchmark.root}: candidate {odd.did} of task {self.puma_task}'s pool is {odd.modality}, "
                    f"expected {wanted[0]}"
                )
            return {
                "corpus": _rows([(one.did, one) for one in found], wanted, benchmark),
                "queries": _rows(
                    [(query.qid, query) for query in readable],
                    (self.puma_benchmark.modalities(self.puma_task)[0],),
                    benchmark,
                ),
                "relevant_docs": {
                    query.qid: {did: max(g, 0) for did, g in judged[query.qid].items()} for query in readable
                },
                "top_ranked": None,
            }

    return LayoutRetrieval


def _metadata(benchmark: Benchmark, task: TaskName, split: str, pool: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    query_kind, found = benchmark.modalities(task)
    dataset, number = benchmark.split_name(task)
    category = f"{LETTERS[query_kind]}2{'it' if pool == 'global' else LETTERS[found]}"
    return TaskMetadata(
        name=task_name(dataset, number, pool),
        description=f"Task {number} of {dataset} in M-BEIR's layout, {query_kind} to {found}, {pool} pool.",
        dataset={"path": dataset, "revision": "local"},
        type="Any2AnyRetrieval",
        category=category,
        modalities=sorted({"text" if letter == "t" else "image" for letter in category if letter != "2"}),
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score="hit_rate_at_1",
        prompt={"query": benchmark.instruction(task)},
    )


def _fault(
    record: Query | Candidate, name: str, benchmark: Benchmark, faults: dict[str, str | None], skipped: dict[str, str]
) -> bool:
    """Whether a record's image cannot be read; each image is tried once."""
    path = record.image_path
    if path is None:
        return False
    if path not in faults:
        try:
            record.item(benchmark.root).open_image()
            faults[path] = None
        except ImageError as error:
            faults[path] = str(error)
    reason = faults[path]
    if reason is not None:
        skipped[name] = reason
    return reason is not None


def _rows(records: Sequence[tuple[str, Query | Candidate]], modalities: Sequence[str], benchmark: Benchmark) -> Any:
    """A table with the columns its modalities need: mteb's loader stops at a text that is None."""
    from datasets import Dataset, Features, Image, Value

    columns: dict[str, list[Any]] = {"id": [name for name, _ in records]}
    features: dict[str, Any] = {"id": Value("string")}
    if set(modalities) & {TEXT, IMAGE_TEXT}:
        columns["text"] = [record.text or "" for _, record in records]
        features["text"] = Value("string")
    if set(modalities) & {IMAGE, IMAGE_TEXT}:
        columns["image"] = [
            None if record.image_path is None else str(benchmark.root / record.image_path) for _, record in records
        ]
        features["image"] = Image()
    return Dataset.from_dict(columns, features=Features(features))
