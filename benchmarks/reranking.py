"""What a second stage brings on OpenPics: late interaction over the retriever's own token states, on the first 50.

    python benchmarks/reranking.py --model runs/quickstart/model --work runs/reranking

Everything is chosen on val: whether the instruction's tokens count, whether the common part of all states (the mean
over val's candidates) is taken away, and the weight between the two stages, by the mean over tasks of hit@1, hit@5 and
hit@10. Test is scored once, with what was chosen. Run files of the first stage, and the second stage's scores of every
query, are kept in --work, so that an interrupted run goes on. --limit takes the first so many queries of a task (a
trial). --runs takes the first stage's run files of a split from another folder, as --runs test=runs/quickstart/runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from _machine import described
from puma.data.mbeir import Benchmark
from puma.evaluation.compare import compare
from puma.evaluation.mbeir import evaluate
from puma.evaluation.metrics import Qrels, Run
from puma.evaluation.runs import read_run
from puma.items import Item
from puma.mini.openpics import build
from puma.retriever.model import Retriever
from puma.search.reranking import DEPTH, LateInteraction, combined, second_stage
from puma.search.reranking.stages import Scores, task_items
from puma.storage.folders import write_json

KS = (1, 5, 10)
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
VARIANTS = {
    "content": (False, False),
    "content, centred": (False, True),
    "instruction too": (True, False),
    "instruction too, centred": (True, True),
}
"""Name: (whether the instruction's tokens count, whether the mean is taken away)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--root", type=Path, help="default: OpenPics, built if missing")
    parser.add_argument("--work", type=Path, default=Path("runs/reranking"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reranking.json")
    parser.add_argument("--runs", action="append", default=[], metavar="SPLIT=DIR")
    parser.add_argument("--limit", type=int, default=0, help="queries of a task; 0 for all")
    parser.add_argument("--depth", type=int, default=DEPTH)
    options = parser.parse_args()
    root = options.root or build()
    retriever = Retriever.from_pretrained(options.model)
    given = dict(pair.split("=", 1) for pair in options.runs)
    bench = Bench(retriever, root, options.work / retriever.fingerprint, options.limit, options.depth, given)
    val = {name: bench.second("val", name) for name in VARIANTS}
    first, qrels = bench.first("val"), bench.qrels("val")
    table = {
        name: {f"{weight:g}": score(qrels, first, second, weight) for weight in WEIGHTS} for name, second in val.items()
    }
    # Of equals the smaller weight: the second stage has to earn its cost.
    chosen, weight = max(
        ((name, weight) for name in VARIANTS for weight in WEIGHTS),
        key=lambda pair: (table[pair[0]][f"{pair[1]:g}"]["chosen by"], -pair[1]),
    )
    second = bench.second("test", chosen)
    result = {
        "format": 1,
        "model": retriever.fingerprint,
        "benchmark": root.name,
        "depth": options.depth,
        "queries_per_task": options.limit or "all",
        "val": table,
        "chosen": {"variant": chosen, "weight": weight},
        "test": test_tables(bench, second, weight),
        "seconds_per_query": bench.seconds,
        **described(),
    }
    write_json(options.out, result)
    tell(result)


class Bench:
    """Runs, second-stage scores and qrels by split; scores are kept in files."""

    def __init__(
        self, retriever: Retriever, root: Path, work: Path, limit: int, depth: int, runs: Mapping[str, str]
    ) -> None:
        self.retriever, self.root, self.work, self.limit, self.depth = retriever, root, work, limit, depth
        self.runs = runs
        self.benchmark = Benchmark(root)
        self.reranker = LateInteraction(retriever)
        self.mean: np.ndarray | None = None
        self.seconds: dict[str, float] = {}
        self._read: dict[str, dict[int, Run]] = {}

    def qrels(self, split: str) -> dict[int, Qrels]:
        first = self.first(split)
        return {
            task: {qid: row for qid, row in self.benchmark.qrels(task, split).items() if qid in first[task]}
            for task in first
        }

    def first(self, split: str) -> dict[int, Run]:
        if split not in self._read:
            folder = Path(self.runs.get(split) or self.work / "runs" / split)
            names = {task: folder / f"task{task}_{split}_local.run" for task in self.benchmark.tasks(split)}
            if not all(path.is_file() for path in names.values()):
                evaluate(self.retriever, self.root, split=split, pools=("local",), run_dir=folder)
            runs = {task: read_run(path) for task, path in names.items()}
            self._read[split] = {task: dict(list(run.items())[: self.limit or None]) for task, run in runs.items()}
        return self._read[split]

    def second(self, split: str, variant: str) -> dict[int, Scores]:
        asked, centred = VARIANTS[variant]
        self.reranker.instruction_tokens = asked
        found: dict[int, Scores] = {}
        for task, run in self.first(split).items():
            name = f"{variant.replace(', ', '-').replace(' ', '-')}-{split}-task{task}-{self.limit}-{self.depth}.json"
            path = self.work / "second" / name
            if not path.is_file():
                self.reranker.mean = self._mean() if centred else None
                queries, candidates, instruction = task_items(self.root, task, split=split)
                start = time.monotonic()
                with tqdm(total=len(run), unit="query", desc=f"{variant}, {split}, task {task}") as bar:
                    scores = second_stage(
                        self.reranker, run, queries, candidates, instruction, depth=self.depth, each=bar.update
                    )
                write_json(path, {"scores": scores, "seconds": time.monotonic() - start})
            kept = json.loads(path.read_text(encoding="utf-8"))
            found[task] = kept["scores"]
            if split == "test":
                self.seconds[str(task)] = round(kept["seconds"] / max(1, len(run)), 4)
        return found

    def _mean(self) -> np.ndarray:
        if self.mean is None:
            pools = [task_items(self.root, task, split="val")[1] for task in self.benchmark.tasks("val")]
            items: dict[str, Item] = {did: item for pool in pools for did, item in pool.items()}
            self.mean = self.reranker.fit_mean([items[did] for did in sorted(items)])
        return self.mean


def best_rank(positives: set[str], scores: Mapping[str, float]) -> int | None:
    """The first positive's rank; ties count against it."""
    own = max((scores[did] for did in positives if did in scores), default=None)
    return None if own is None else 1 + sum(value >= own for did, value in scores.items() if did not in positives)


def ranks(qrels: dict[int, Qrels], runs: Mapping[int, Run]) -> dict[str, dict[str, int | None]]:
    return {
        str(task): {
            qid: best_rank({did for did, grade in row.items() if grade > 0}, runs[task][qid])
            for qid, row in rows.items()
        }
        for task, rows in qrels.items()
    }


def rates(found: Mapping[str, Mapping[str, int | None]]) -> dict[str, float]:
    """Means over tasks."""
    table = {
        f"hit_rate@{k}": float(
            np.mean([np.mean([r is not None and r <= k for r in own.values()]) for own in found.values()])
        )
        for k in KS
    }
    return {**table, "chosen by": float(np.mean(list(table.values())))}


def score(
    qrels: dict[int, Qrels], first: Mapping[int, Run], second: Mapping[int, Scores], weight: float
) -> dict[str, float]:
    return rates(ranks(qrels, {task: combined(first[task], second[task], weight) for task in first}))


def test_tables(bench: Bench, second: Mapping[int, Scores], weight: float) -> dict[str, Any]:
    qrels, first = bench.qrels("test"), bench.first("test")
    named = {"first stage": 0.0, "two stages": weight, "second stage alone": 1.0}
    found = {name: ranks(qrels, {t: combined(first[t], second[t], w) for t in first}) for name, w in named.items()}
    about = {"root": bench.root.name, "dataset": bench.benchmark.dataset, "split": "test", "instruction": "first"}
    documents = {
        name: {"model": name, "benchmark": about, "tables": {}, "per_query": {"local": own}}
        for name, own in found.items()
    }
    return {
        "mean": {name: rates(own) for name, own in found.items()},
        "two stages against the first": {
            f"hit_rate@{k}": compare(documents["first stage"], documents["two stages"], metric=f"hit_rate@{k}")
            for k in KS
        },
    }


def tell(result: Mapping[str, Any]) -> None:
    print(f"chosen on val: {result['chosen']}")
    for name, table in result["test"]["mean"].items():
        print(
            f"{name:>20}: "
            + "  ".join(f"{key} {100 * value:.1f}" for key, value in table.items() if key != "chosen by")
        )
    for key, found in result["test"]["two stages against the first"].items():
        mean = found["mean"]
        print(f"{key}: {100 * mean['difference']:+.1f} [{100 * mean['low']:+.1f}, {100 * mean['high']:+.1f}]")
        for task, row in found["tasks"].items():
            print(f"  task {task}: {100 * row['a']:.1f} to {100 * row['b']:.1f}")


if __name__ == "__main__":
    main()
