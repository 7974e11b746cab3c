"""A small benchmark of one task with images, and runs in which the right one stands where it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from puma.data.mbeir import (
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


def build(root: Path) -> Path:
    (root / "mbeir_images").mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / f"mbeir_images/{number}.png")
    pool = [Candidate(f"9:{n}", None, f"mbeir_images/{n}.png", "image") for n in range(20)]
    queries = [Query(f"9:{n + 100}", f"word {n}", None, "text", (f"9:{n}",), (), 0) for n in range(8)]
    write_pool(pool_path(root, "tiny", 0, "test"), pool)
    write_pool(global_pool_path(root, "test"), [*pool, Candidate("9:50", "a text", None, "text")])
    write_queries(query_path(root, "tiny", 0, "test"), queries)
    write_qrels(qrels_path(root, "tiny", 0, "test"), {q.qid: dict.fromkeys(q.positives, 1) for q in queries}, 0)
    write_instructions(instructions_path(root), [("text", "image", "tiny", 9, ["Find a picture."])])
    return root


def run_of(place: Callable[[int], int | None], size: int = 20) -> dict[str, dict[str, float]]:
    """A run in which the right one of every query stands at ``place(number)``."""
    run = {}
    for number in range(8):
        others = [f"9:{n}" for n in range(size) if n != number]
        at = place(number)
        ranked = others if at is None else [*others[: at - 1], f"9:{number}", *others[at - 1 :]]
        run[f"9:{number + 100}"] = {did: 1 - position / 100 for position, did in enumerate(ranked)}
    return run
