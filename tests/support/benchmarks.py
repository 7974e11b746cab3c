"""Benchmark folders in M-BEIR's layout for tests: the published file set, and small ones of random or ordered content.

:func:`published` writes every line by itself, so that it does not depend on PUMA's own writers; the others use them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from puma.data.mbeir import (
    TASK_MODALITIES,
    Candidate,
    Query,
    global_pool_path,
    instructions_path,
    pool_path,
    qrels_path,
    query_path,
    read_instructions,
    read_pool,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)

COLOURS = ("red", "green", "blue")
RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NUMBERS = {
    "visualnews": 0, "fashion200k": 1, "webqa": 2, "edis": 3, "nights": 4,
    "oven": 5, "infoseek": 6, "fashioniq": 7, "cirr": 8, "mscoco": 9,
}  # fmt: skip
TITLES = {
    "visualnews": "VisualNews", "fashion200k": "Fashion200K", "webqa": "WebQA", "edis": "EDIS", "nights": "NIGHTS",
    "oven": "OVEN", "infoseek": "INFOSEEK", "fashioniq": "FashionIQ", "cirr": "CIRR", "mscoco": "MSCOCO",
}  # fmt: skip
KINDS = {
    0: ("text", "image"), 1: ("text", "text"), 2: ("text", "image,text"), 3: ("image", "text"), 4: ("image", "image"),
    6: ("image,text", "text"), 7: ("image,text", "image"), 8: ("image,text", "image,text"),
}  # fmt: skip
TASKS = (
    ("visualnews", 0), ("mscoco", 0), ("fashion200k", 0), ("webqa", 1), ("edis", 2), ("webqa", 2), ("visualnews", 3),
    ("mscoco", 3), ("fashion200k", 3), ("nights", 4), ("oven", 6), ("infoseek", 6), ("fashioniq", 7), ("cirr", 7),
    ("oven", 8), ("infoseek", 8),
)  # fmt: skip
SPLITS = ("train", "val", "test")


def jsonl(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def candidate(dataset: str, task: int, split: str, colour: int) -> dict:
    """One candidate; val and test share theirs, but for MSCOCO's."""
    shared = {"train": 0, "val": 1, "test": 1}[split] + (split == "test" and dataset == "mscoco")
    kind = KINDS[task][1]
    name = COLOURS[colour]
    return {
        "txt": f"{name} {dataset}" if "text" in kind else None,
        "img_path": f"mbeir_images/{dataset}_images/{name}.jpg" if "image" in kind else None,
        "modality": kind,
        "did": f"{NUMBERS[dataset]}:{task * 1000 + shared * 100 + colour + 1}",
        "src_content": None,
    }


def query(dataset: str, task: int, split: str, colour: int) -> dict:
    kind = KINDS[task][0]
    name = COLOURS[colour]
    positives = [candidate(dataset, task, split, colour)["did"]]
    other = {"oven": "infoseek", "infoseek": "oven"}.get(dataset)
    if other and split == "test":  # as published: right, too, but in the union only
        positives.append(candidate(other, task, split, colour)["did"])
    return {
        "qid": f"{NUMBERS[dataset]}:{task * 1000 + SPLITS.index(split) * 100 + colour + 1}",
        "query_txt": f"{name} thing" if "text" in kind else None,
        "query_img_path": f"mbeir_images/{dataset}_images/{name}.jpg" if "image" in kind else None,
        "query_modality": kind,
        "query_src_content": json.dumps({"id": colour}),
        "pos_cand_list": positives,
        "neg_cand_list": [candidate(dataset, task, split, (colour + 1) % 3)["did"]] * 2,  # repeats do occur
        "task_id": task,
    }


def qrels(path: Path, queries: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{q['qid']} 0 {did} 1 {q['task_id']}\n" for q in queries for did in q["pos_cand_list"])
    path.write_text("".join(lines), encoding="utf-8")


def published(root: Path) -> Path:
    """A tiny file set in the exact published format: ten data sets, sixteen tasks, all splits; three queries and three
    candidates a task and split."""
    for dataset in NUMBERS:
        folder = root / "mbeir_images" / f"{dataset}_images"
        folder.mkdir(parents=True)
        for colour in COLOURS:
            Image.new("RGB", (8, 8), RGB[colour]).save(folder / f"{colour}.jpg", quality=95)
    for split in ("val", "test"):
        for dataset, task in TASKS:
            asked = [query(dataset, task, split, colour) for colour in range(3)]
            jsonl(root / f"query/{split}/mbeir_{dataset}_task{task}_{split}.jsonl", asked)
            qrels(root / f"qrels/{split}/mbeir_{dataset}_task{task}_{split}_qrels.txt", asked)
            middle = f"{dataset}_task{task}" + (f"_{split}" if dataset == "mscoco" else "")
            pool = [candidate(dataset, task, split, colour) for colour in range(3)]
            jsonl(root / f"cand_pool/local/mbeir_{middle}_cand_pool.jsonl", pool)
    trained: list[dict] = []
    for dataset in NUMBERS:
        asked = [query(dataset, task, "train", c) for name, task in TASKS if name == dataset for c in range(3)]
        jsonl(root / f"query/train/mbeir_{dataset}_train.jsonl", asked)
        qrels(root / f"qrels/train/mbeir_{dataset}_train_qrels.txt", asked)
        trained += asked
    jsonl(root / "query/union_train/mbeir_union_up_train.jsonl", trained + trained[::2])
    valid = [query(dataset, task, "val", colour) for dataset, task in TASKS for colour in range(3)]
    jsonl(root / "query/union_val/mbeir_union_val.jsonl", valid)
    for split in SPLITS:
        union = [candidate(dataset, task, split, colour) for dataset, task in TASKS for colour in range(3)]
        jsonl(root / f"cand_pool/global/mbeir_union_{split}_cand_pool.jsonl", union)
    rows = [
        "\t".join(
            ["query_modality", "cand_modality", "dataset_name", "dataset_id", *(f"prompt_{n}" for n in (1, 2, 3, 4))]
        )
    ]
    for dataset, task in TASKS:
        prompts = [f"Find what matches, {n}." for n in (1, 2, 3, 4)]
        rows.append("\t".join([*KINDS[task], TITLES[dataset], str(NUMBERS[dataset]), *prompts]))
    (root / "instructions").mkdir()
    (root / "instructions/query_instructions.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


WORDS = ("red", "green", "blue", "fox", "cat", "dog", "heart", "old", "small", "at night")


def random_tasks(
    root: Path,
    *,
    dataset: str = "tiny",
    number: int = 9,
    tasks: Sequence[int] = tuple(TASK_MODALITIES),
    splits: Sequence[str] = ("test",),
    queries: int = 9,
    candidates: int = 17,
    images: bool = True,
    graded: bool = False,
    prompts: int = 2,
    seed: int = 0,
) -> Path:
    """One data set of these tasks, added to the pools and prompts of a folder that has others.

    No two texts or images are alike. One to three candidates are right for a query; with ``graded`` one to four, of
    grades 1 and 2, and one more is judged 0. Without ``images`` only their names are written, for encoders that go by
    names. The first candidate and the first query of the n-th task have the number ``100 n``.
    """
    rng = np.random.default_rng([seed, number])
    written = 0

    def content(modality: str) -> tuple[str | None, str | None]:
        nonlocal written
        written += 1
        text = " ".join([*rng.choice(WORDS, 4), f"{dataset}{written}"]) if "text" in modality else None
        image = f"mbeir_images/{dataset}-{written}.png" if "image" in modality else None
        if image and images:
            (root / image).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(root / image)
        return text, image

    for place, split in enumerate(splits):
        for position, task in enumerate(tasks, 1):
            query_modality, modality = TASK_MODALITIES[task]
            first = 100_000 * place + 100 * position
            pool = [Candidate(f"{number}:{first + n}", *content(modality), modality) for n in range(candidates)]
            judged: dict[Query, dict[str, int]] = {}
            order = rng.permutation(candidates)
            for n in range(queries):
                grades = _grades(rng, pool, order[n % candidates], graded)
                right = tuple(did for did, grade in grades.items() if grade > 0)
                judged[Query(f"{number}:{first + n}", *content(query_modality), query_modality, right)] = grades
            _write_task(root, dataset, task, split, pool, judged)
    rows = []
    for task in tasks:
        texts = [
            f"Find the {TASK_MODALITIES[task][1]} of task {task}.",
            *(f"Other words {n}." for n in range(1, prompts)),
        ]
        rows.append((*TASK_MODALITIES[task], dataset, number, texts))
    _write_prompts(root, rows)
    return root


def _grades(rng: np.random.Generator, pool: Sequence[Candidate], first: int, graded: bool) -> dict[str, int]:
    """What is judged for a query: the first right one is given, so that queries differ in it and fit into one batch."""
    others = rng.permutation([place for place in range(len(pool)) if place != first])
    right = [first, *others[: int(rng.integers(0, 4 if graded else 3))]]
    grades = {pool[place].did: int(rng.integers(1, 3)) if graded else 1 for place in right}
    return grades | ({pool[others[-1]].did: 0} if graded else {})


def named_tasks(root: Path, *, tasks: Sequence[int] = (0, 3, 7), queries: int = 7, **options: Any) -> Path:
    """Random tasks for :class:`support.encoders.NamedEncoder`: graded, of twelve candidates, without image files."""
    return random_tasks(
        root, tasks=tasks, queries=queries, candidates=12, images=False, graded=True, prompts=3, **options
    )


def ordered_images(root: Path) -> Path:
    """One task from text to image: query ``9:100 + n`` is right with the n-th of twenty images, ``9:n``."""
    (root / "mbeir_images").mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / f"mbeir_images/{number}.png")
    pool = [Candidate(f"9:{n}", None, f"mbeir_images/{n}.png", "image") for n in range(20)]
    queries = [Query(f"9:{n + 100}", f"word {n}", None, "text", (f"9:{n}",)) for n in range(8)]
    _write_task(root, "tiny", 0, "test", pool, {query: dict.fromkeys(query.positives, 1) for query in queries})
    write_pool(global_pool_path(root, "test"), [*pool, Candidate("9:50", "a text", None, "text")])
    _write_prompts(root, [("text", "image", "tiny", 9, ["Find a picture."])])
    return root


def run_of(place: Callable[[int], int | None], size: int = 20) -> dict[str, dict[str, float]]:
    """A run over :func:`ordered_images` in which the right one of every query stands at ``place(number)``."""
    run = {}
    for number in range(8):
        others = [f"9:{n}" for n in range(size) if n != number]
        at = place(number)
        ranked = others if at is None else [*others[: at - 1], f"9:{number}", *others[at - 1 :]]
        run[f"9:{number + 100}"] = {did: 1 - position / 100 for position, did in enumerate(ranked)}
    return run


def _write_task(
    root: Path,
    dataset: str,
    task: int,
    split: str,
    pool: Sequence[Candidate],
    judged: Mapping[Query, Mapping[str, int]],
) -> None:
    """The files of one task and split; its pool is added to the global one."""
    write_queries(query_path(root, dataset, task, split), list(judged))
    write_pool(pool_path(root, dataset, task, split), list(pool))
    write_qrels(qrels_path(root, dataset, task, split), {query.qid: dict(g) for query, g in judged.items()}, task)
    union = global_pool_path(root, split)
    write_pool(union, [*(read_pool(union) if union.is_file() else ()), *pool])


def _write_prompts(root: Path, rows: list) -> None:
    path = instructions_path(root)
    known = read_instructions(path) if path.is_file() else {}
    write_instructions(
        path, [(*modalities, "other", n, list(texts)) for (n, *modalities), texts in known.items()] + rows
    )
