"""M-BEIR's names: its ten data sets, its sixteen tasks in the paper's order, and the path of every file.

Loads no torch.

The names are those of the published folder (the data set TIGER-Lab/M-BEIR on the Hugging Face hub; the same in UniIR's
configurations). Three things do not follow from one rule: the train files hold a whole data set and name no task; local
pools are shared by val and test and name no split, but for MSCOCO's, which has one for each; train has no local pools,
its candidates are in the union's pool.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val", "test")
UNION_TRAIN = "query/union_train/mbeir_union_up_train.jsonl"
"""The train queries of all data sets, small ones upsampled: queries occur several times."""
UNION_VAL = "query/union_val/mbeir_union_val.jsonl"
INSTRUCTIONS = "instructions/query_instructions.tsv"
IMAGES = "mbeir_images"

DATASETS: dict[str, tuple[int, str]] = {
    "visualnews": (0, "VisualNews"),
    "fashion200k": (1, "Fashion200K"),
    "webqa": (2, "WebQA"),
    "edis": (3, "EDIS"),
    "nights": (4, "NIGHTS"),
    "oven": (5, "OVEN"),
    "infoseek": (6, "InfoSeek"),
    "fashioniq": (7, "FashionIQ"),
    "cirr": (8, "CIRR"),
    "mscoco": (9, "MSCOCO"),
}
"""M-BEIR's data sets by their name in file names: (number before the colon of their ids, name in the paper)."""
AT_TEN = ("fashion200k", "fashioniq")
"""The data sets whose figure is taken at 10; all others' at 5 (UniIR, arXiv 2311.17136, table 2)."""
SPLIT_POOLS = ("mscoco",)
"""The data sets whose local pools differ by split."""


def label_of(dataset: str, task: int) -> str:
    """A task's name as in the file names: "visualnews_task0"."""
    return f"{dataset}_task{task}"


@dataclass(frozen=True)
class PublishedTask:
    """One of M-BEIR's sixteen tasks.

    Args:
        dataset: as in the file names.
        task: the task id, 0 to 8.
        queries, pool: thousands of test queries and of candidates in the local pool, rounded (UniIR, table 1).
    """

    dataset: str
    task: int
    queries: float
    pool: float

    @property
    def label(self) -> str:
        """As in the file names: "visualnews_task0"."""
        return label_of(self.dataset, self.task)

    @property
    def k(self) -> int:
        """The depth at which the paper reports this task."""
        return 10 if self.dataset in AT_TEN else 5

    @property
    def title(self) -> str:
        """The data set's name in the paper."""
        return DATASETS[self.dataset][1]


TASKS_IN_ORDER = (
    PublishedTask("visualnews", 0, 20, 542),
    PublishedTask("mscoco", 0, 24.8, 5),
    PublishedTask("fashion200k", 0, 1.7, 201),
    PublishedTask("webqa", 1, 2.4, 544),
    PublishedTask("edis", 2, 3.2, 1000),
    PublishedTask("webqa", 2, 2.5, 403),
    PublishedTask("visualnews", 3, 20, 537),
    PublishedTask("mscoco", 3, 5, 25),
    PublishedTask("fashion200k", 3, 4.8, 61),
    PublishedTask("nights", 4, 2, 40),
    PublishedTask("oven", 6, 50, 676),
    PublishedTask("infoseek", 6, 11, 611),
    PublishedTask("fashioniq", 7, 6, 74),
    PublishedTask("cirr", 7, 4, 21),
    PublishedTask("oven", 8, 14.7, 335),
    PublishedTask("infoseek", 8, 17.6, 481),
)
"""The sixteen tasks in the order of the columns of every published table."""
ORDER = {task.label: place for place, task in enumerate(TASKS_IN_ORDER)}


def folder_fault(path: str | os.PathLike[str]) -> str | None:
    """Why a path cannot be a folder in this layout, with the remedy; None where it is a folder."""
    name = os.fspath(path)
    if os.path.isdir(name):
        return None
    if os.path.isfile(name):
        convert = f"puma convert {name} DIR writes a table of pairs as one"
        return f"{name}: is a file; give a folder in M-BEIR's layout. {convert}"
    return f"{name}: no such folder; expected a benchmark in M-BEIR's layout"


def query_path(root: str | os.PathLike[str], dataset: str, task: int, split: str) -> Path:
    """Where the queries of one task are."""
    return Path(root) / "query" / split / f"mbeir_{dataset}_task{task}_{split}.jsonl"


def mixed_query_path(root: str | os.PathLike[str], dataset: str, split: str) -> Path:
    """Where the queries of all tasks of a data set are, as in M-BEIR's train split."""
    return Path(root) / "query" / split / f"mbeir_{dataset}_{split}.jsonl"


def pool_path(root: str | os.PathLike[str], dataset: str, task: int, split: str) -> Path:
    """Where the local candidate pool of one task is written, and where M-BEIR has MSCOCO's."""
    return Path(root) / "cand_pool" / "local" / f"mbeir_{dataset}_task{task}_{split}_cand_pool.jsonl"


def shared_pool_path(root: str | os.PathLike[str], dataset: str, task: int) -> Path:
    """Where the local candidate pool of one task is that serves several splits, as most of M-BEIR's."""
    return Path(root) / "cand_pool" / "local" / f"mbeir_{dataset}_task{task}_cand_pool.jsonl"


def global_pool_path(root: str | os.PathLike[str], split: str) -> Path:
    """Where the union of all candidates of a split is."""
    return Path(root) / "cand_pool" / "global" / f"mbeir_union_{split}_cand_pool.jsonl"


def qrels_path(root: str | os.PathLike[str], dataset: str, task: int, split: str) -> Path:
    """Where the relevance judgements of one task are."""
    return Path(root) / "qrels" / split / f"mbeir_{dataset}_task{task}_{split}_qrels.txt"


def mixed_qrels_path(root: str | os.PathLike[str], dataset: str, split: str) -> Path:
    """Where the relevance judgements of all tasks of a data set are, as in M-BEIR's train split."""
    return Path(root) / "qrels" / split / f"mbeir_{dataset}_{split}_qrels.txt"


def instructions_path(root: str | os.PathLike[str]) -> Path:
    """Where the query instructions of all tasks are."""
    return Path(root) / INSTRUCTIONS


def published_pool_path(root: str | os.PathLike[str], task: PublishedTask, split: str) -> Path:
    """Where the published folder has a task's local pool of val or test."""
    if task.dataset in SPLIT_POOLS:
        return pool_path(root, task.dataset, task.task, split)
    return shared_pool_path(root, task.dataset, task.task)
