"""A small benchmark with all eight task types, for tests that compare one evaluation with another."""

from collections.abc import Sequence
from pathlib import Path

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
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)

WORDS = ["red", "green", "blue", "fox", "cat", "dog", "heart", "old", "small", "at night"]


def eight_tasks(
    root: Path,
    queries: int = 9,
    candidates: int = 17,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("test",),
    tasks: Sequence[int] = tuple(TASK_MODALITIES),
) -> Path:
    """Write it: texts of four words and noisy images, no two alike; one to three positives a query."""
    rng = np.random.default_rng(seed)
    (root / "mbeir_images").mkdir(parents=True)
    made = 0

    def content(modality):
        nonlocal made
        made += 1
        text = " ".join([*rng.choice(WORDS, 4), f"n{made}"]) if "text" in modality else None
        image = f"mbeir_images/{made}.png" if "image" in modality else None
        if image:
            Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(root / image)
        return text, image

    prompts = [
        (*TASK_MODALITIES[task], "tiny", 9, [f"Find the {TASK_MODALITIES[task][1]} of task {task}.", "Other words."])
        for task in tasks
    ]
    for number, split in enumerate(splits):
        every = []
        first = 100_000 * number
        for task in tasks:
            asked, found = TASK_MODALITIES[task]
            pool = [Candidate(f"9:{first + 1000 * task + n}", *content(found), found) for n in range(candidates)]
            every += pool
            asks = []
            for n in range(queries):
                right = tuple(pool[place].did for place in rng.choice(candidates, rng.integers(1, 4), replace=False))
                asks.append(Query(f"9:{first + 9000 + 100 * task + n}", *content(asked), asked, right))
            write_queries(query_path(root, "tiny", task, split), asks)
            write_pool(pool_path(root, "tiny", task, split), pool)
            write_qrels(
                qrels_path(root, "tiny", task, split), {q.qid: dict.fromkeys(q.positives, 1) for q in asks}, task
            )
        write_pool(global_pool_path(root, split), every)
    write_instructions(instructions_path(root), prompts)
    return root
