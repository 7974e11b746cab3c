"""A tiny file set in M-BEIR's exact published format: ten data sets, sixteen tasks, all splits, written line by line
here so that it does not depend on PUMA's own writers."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

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


def build(root: Path) -> Path:
    """Write the whole folder; three queries and three candidates a task and split."""
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
