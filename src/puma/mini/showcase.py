"""What the quickstart shows: a dozen queries of every kind on the index, and each task's successes and failures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puma.data.mbeir import Benchmark
from puma.evaluation.report.sheets import Asked, Result, Sheet
from puma.evaluation.runs import read_run
from puma.index import Hit
from puma.items.item import IMAGE, TEXT, Item
from puma.search.searcher import Searcher

TASK_NAMES = {
    0: "text to image",
    1: "text to text",
    2: "text to image with text",
    3: "image to text",
    4: "image to image",
    6: "image with text to text",
    7: "image with text to image",
    8: "image with text to image with text",
}
SHOWN = 4
"""Successes and failures shown of a task."""


@dataclass(frozen=True)
class ShowQuery:
    """A query of the show.

    Args:
        text: its words.
        image: words in the name of a test image to ask with, or None.
        wanted: the modality searched for, or None for any.
    """

    text: str | None = None
    image: str | None = None
    wanted: str | None = None

    @property
    def label(self) -> str:
        """The query in a line of text."""
        parts = [f"picture of {self.image}" if self.image else "", f'"{self.text}"' if self.text else ""]
        return " + ".join(part for part in parts if part) + (f"  [{self.wanted}]" if self.wanted else "")


QUERIES = (
    ShowQuery("a red apple", wanted=IMAGE),
    ShowQuery("a cup of hot coffee", wanted=IMAGE),
    ShowQuery("a snowman in winter", wanted=IMAGE),
    ShowQuery("a ship at sea", wanted=IMAGE),
    ShowQuery("birthday cake with candles", wanted=IMAGE),
    ShowQuery("fish", wanted=TEXT),
    ShowQuery("dog"),
    ShowQuery("fire"),
    ShowQuery(image="cherries", wanted=TEXT),
    ShowQuery(image="hourglass", wanted=IMAGE),
    ShowQuery("in Noto style", image="cherries", wanted=IMAGE),
    ShowQuery("which vehicle is this?", image="bus", wanted=TEXT),
)
"""Everyday things that the training pictures show, and test pictures: what a model of this size and training can know.
What it cannot is shown too, task by task (:func:`task_sheets`)."""


def answered_queries(searcher: Searcher, root: Path, k: int = 5) -> list[Asked]:
    """Ask the show's queries; an image is the first of the test pool with the words in its name (the first of all, if
    none has)."""
    benchmark = Benchmark(root)
    captions = _images_by_caption(benchmark)
    shown = []
    for query in QUERIES:
        image = _image(captions, query.image) if query.image else None
        item = Item(text=query.text, image=image)
        hits = [hit for hit in searcher.search(item, k + 1, query.wanted) if hit.payload.get("image") != str(image)]
        shown.append(Asked(query=item, results=[_result(hit) for hit in hits[:k]], judged=False))
    return shown


def answers_sheet(answers: Sequence[Asked]) -> Sheet:
    """The queries and their results as a sheet of the report."""
    return Sheet("On the index of all pictures", list(answers))


def task_sheets(root: str | os.PathLike[str], runs: str | os.PathLike[str], *, split: str = "test") -> list[Sheet]:
    """Per task, queries whose best result is right and queries that found nothing right among the first ten, drawn
    evenly from the run files of an evaluation."""
    benchmark = Benchmark(Path(root))
    sheets = []
    for task in benchmark.tasks(split):
        run = read_run(Path(runs) / f"task{task}_{split}_local.run")
        qrels = benchmark.qrels(task, split)
        queries = {query.qid: query for query in benchmark.queries(task, split)}
        pool = {candidate.did: candidate for candidate in benchmark.pool(task, split)}
        good, bad = [], []
        for qid in queries:
            right = [did in qrels[qid] for did, _ in _best(run.get(qid, {}), 10)]
            if right and right[0]:
                good.append(qid)
            elif not any(right):
                bad.append(qid)
        for kind, qids in (("right at once", good), ("nothing right among ten", bad)):
            rows = []
            for qid in _spread(qids, SHOWN):
                best = _best(run.get(qid, {}), 5)
                results = [Result(pool[did].item(root), score, did in qrels[qid]) for did, score in best]
                rows.append(Asked(queries[qid].item(root), results, benchmark.instruction(task)))
            if rows:
                name = TASK_NAMES.get(benchmark.split_name(task)[1], "")
                sheets.append(Sheet(f"Task {task}, {name}: {kind} ({len(qids)} of {len(queries)})", rows))
    return sheets


def _best(scores: Mapping[str, float], k: int) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda pair: -pair[1])[:k]


def _spread(values: Sequence[str], count: int) -> list[str]:
    if len(values) <= count:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, count).astype(int)]


def _images_by_caption(benchmark: Benchmark) -> list[tuple[str, Path]]:
    """Captions of the test images, from task 3 (image to text): query images and the text that is right."""
    if 3 not in benchmark.tasks("test"):
        return [("", benchmark.root / c.image_path) for c in benchmark.global_pool("test") if c.image_path]
    texts = {candidate.did: candidate.text or "" for candidate in benchmark.pool(3, "test")}
    return [
        (texts[query.positives[0]], Path(benchmark.root) / query.image_path)
        for query in benchmark.queries(3, "test")
        if query.image_path
    ]


def _image(captions: Sequence[tuple[str, Path]], words: str) -> Path:
    wanted = set(words.split())
    return next((path for caption, path in captions if wanted <= set(caption.split())), captions[0][1])


def _result(hit: Hit) -> Result:
    payload = hit.payload if isinstance(hit.payload, dict) else json.loads(hit.payload or "{}")
    item = Item(text=payload.get("text"), image=Path(payload["image"]) if payload.get("image") else None)
    return Result(item, hit.score)
