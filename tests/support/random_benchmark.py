"""A benchmark of random queries and candidates in M-BEIR's layout, and an encoder that gives each a random vector.

No image file exists: the encoder goes by names.
"""

import hashlib
from pathlib import Path

import numpy as np

from puma.data.mbeir import (
    TASK_MODALITIES,
    Candidate,
    Query,
    global_pool_path,
    instructions_path,
    pool_path,
    qrels_path,
    query_path,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)
from puma.items import IMAGE, TEXT


class NamedEncoder:
    """A random unit vector for each text, image name and instruction, always the same one. Items and instructions are
    counted as in ToyEncoder."""

    def __init__(self, dim=16, decimals=None):
        self.dim, self.decimals, self.fingerprint = dim, decimals, f"named-{dim}"
        self.seen_instructions, self.calls = [], 0

    def encode(self, items, *, instruction=None):
        self.seen_instructions.append(instruction)
        self.calls += len(items)
        return np.stack([self._one(f"{item.text}|{item.image and item.image.name}|{instruction}") for item in items])

    def _one(self, name):
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        row = np.random.default_rng(seed).normal(size=self.dim)
        if self.decimals is not None:
            row = np.round(row, self.decimals) + np.eye(self.dim)[0] * 0.1  # many equal ones, none zero
        return (row / np.linalg.norm(row)).astype(np.float32)


def _sides(modality, name):
    return (None if modality == IMAGE else f"words {name}", None if modality == TEXT else f"mbeir_images/{name}.png")


def write_random(root: Path, dataset="tiny", number=9, tasks=(0, 3, 7), queries=7, pool=12, seed=0, prompts=3):
    """Write one data set with a test split: for each task, ``queries`` with one to four positives (grades 1 to 2, some
    judged 0) among ``pool`` candidates, and the global pool over all data sets of the folder."""
    random = np.random.default_rng([seed, number])
    union, rows = [], []
    for place, task in enumerate(tasks):
        asked, wanted = TASK_MODALITIES[task]
        first = 100 * (place + 1)
        own = []
        for n in range(first, first + pool):
            text, image = _sides(wanted, f"{dataset}-c{n}")
            own.append(Candidate(f"{number}:{n}", text, image, wanted))
        union += own
        made, qrels = [], {}
        for n in range(first, first + queries):
            text, image = _sides(asked, f"{dataset}-q{n}")
            picked = random.permutation(pool)[: int(random.integers(2, 6))]
            grades = {own[p].did: int(random.integers(1, 3)) for p in picked[1:]} | {own[picked[0]].did: 0}
            qrels[f"{number}:{n}"] = grades
            right = tuple(did for did, grade in grades.items() if grade > 0)
            made.append(Query(f"{number}:{n}", text, image, asked, right))
        write_queries(query_path(root, dataset, task, "test"), made)
        write_pool(pool_path(root, dataset, task, "test"), own)
        write_qrels(qrels_path(root, dataset, task, "test"), qrels, task)
        rows.append((asked, wanted, dataset, number, [f"{dataset} {task}, said {way}." for way in range(prompts)]))
    _write_shared(root, union, rows)
    return root


def _write_shared(root, union, rows):
    from puma.data.mbeir import read_instructions, read_pool

    if global_pool_path(root, "test").is_file():
        union = read_pool(global_pool_path(root, "test")) + union
        known = read_instructions(instructions_path(root))
        rows = [(asked, wanted, "other", n, prompts) for (n, asked, wanted), prompts in known.items()] + rows
    write_pool(global_pool_path(root, "test"), union)
    write_instructions(instructions_path(root), rows)
