"""Figures of a retriever on OpenPics' test split, as puma-mini's model card has them.

    python benchmarks/puma_mini_figures.py --model runs/puma-mini/model --name puma-mini

All eight tasks in local and global pools, and text to image and image to text in *pools of 500*: one image and one
name for each of 500 concepts that no training pair shows. The pool of all concepts holds flags, letters and numbers,
whose looks no name tells; ``500 without signs`` leaves those out (and is smaller if the split has fewer concepts);
``... with keywords`` has up to three keywords behind the name, as the first prototype's captions had.
Results go to ``benchmarks/results/puma_mini.json``; the no-LLM ridge baseline is scored beside the model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from _machine import described
from _rows import add_row
from puma.cli.commands._shared import quiet_libraries
from puma.data.mbeir import Benchmark
from puma.evaluation.mbeir import evaluate
from puma.evaluation.metrics import hit_rate_from_ranks, means
from puma.evaluation.runs import read_run
from puma.items import Encoder, Item
from puma.items.encoder import embed_readable
from puma.mini import openpics as images

RESULTS = Path(__file__).parent / "results" / "puma_mini.json"
SIGNS = re.compile(r"\b(flag|letter|number|numeral|keycap|digit|button|squared|regional indicator|kanji)\b|^\W*\d")
POOL = 500


def concepts(
    root: Path, split: str, *, signs: bool, keywords: bool = False, limit: int = POOL
) -> list[tuple[str, Item]]:
    """Name and one image of each concept, at most ``limit``, in an order that a hash of the name gives."""
    benchmark = Benchmark(root)
    shown: dict[str, Item] = {}
    output: dict[str, list[str]] = {}
    for candidate in sorted(benchmark.pool(0, split), key=lambda c: _hash(c.did)):
        source = json.loads(candidate.src or "{}")
        name = source.get("name")
        if name and (signs or not SIGNS.search(name)):
            shown.setdefault(source.get("concept", name), candidate.item(root))
            output.setdefault(source.get("concept", name), source.get("keywords", []))
    names = {json.loads(c.src or "{}").get("concept"): c.text for c in benchmark.pool(3, split)}
    found = sorted((_hash(names[concept]), names[concept], concept) for concept in shown if names.get(concept))
    chosen = [(name, concept) for _, name, concept in found[:limit]]
    more = {
        name: [word for word in output[concept] if word not in name][:3] if keywords else [] for name, concept in chosen
    }
    return [(name + (": " + ", ".join(more[name]) if more[name] else ""), shown[concept]) for name, concept in chosen]


def small_pools(
    encoder: Encoder, root: Path, split: str, *, signs: bool = True, keywords: bool = False
) -> dict[str, Any]:
    """Hit rates at 1, 5 and 10, both ways, ties against us."""
    chosen = concepts(root, split, signs=signs, keywords=keywords)
    benchmark = Benchmark(root)
    texts, images = [Item(text=name) for name, _ in chosen], [item for _, item in chosen]
    asked = {task: benchmark.instruction(task) for task in (0, 3)}
    rates: dict[str, Any] = {"candidates": len(chosen)}
    for way, task, queries, candidates in (("text->image", 0, texts, images), ("image->text", 3, images, texts)):
        left, _, _ = embed_readable(encoder, queries, instruction=asked[task], batch_size=256, progress=None)
        right, _, _ = embed_readable(encoder, candidates, batch_size=256, progress=None)
        scores = np.round(left.astype(np.float64) @ right.T.astype(np.float64), 6)
        own = scores.diagonal()[:, None]
        ranks = (scores >= own).sum(1)  # the positive itself included: 1 is the best
        rates[way] = {f"hit_rate@{k}": hit_rate_from_ranks(ranks[:, None], k) for k in (1, 5, 10)}
    return rates


def hits_by_style(root: Path, split: str, runs: Path) -> dict[str, Any]:
    """Task 0 in its local pool, queries with a photograph among their right answers and the others apart."""
    benchmark = Benchmark(root)
    photos = {c.did for c in benchmark.pool(0, split) if json.loads(c.src or "{}").get("style") == "a photo"}
    run, qrels = read_run(runs / f"task0_{split}_local.run"), benchmark.qrels(0, split)
    hits: dict[str, list[bool]] = {"photographs": [], "drawings": []}
    for query in benchmark.queries(0, split):
        right = set(qrels[query.qid])
        first = sorted(run.get(query.qid, {}).items(), key=lambda pair: -pair[1])[:10]
        hits["photographs" if right & photos else "drawings"].append(any(did in right for did, _ in first))
    return {name: {"queries": len(rows), "hit_rate@10": float(np.mean(rows))} for name, rows in hits.items() if rows}


def figures(encoder: Encoder, root: Path, split: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as runs:
        tables = evaluate(encoder, root, split=split, run_dir=runs)
        by_style = hits_by_style(root, split, Path(runs))
    return {
        "text->image by style": by_style,
        "global_mean_hit_rate@10": means([table["global"] for table in tables.values()], ["hit_rate@10"])[
            "hit_rate@10"
        ],
        "tasks": tables,
        "mean_hit_rate@10": means(tables.values(), ["hit_rate@10"])["hit_rate@10"],
        "500 concepts": small_pools(encoder, root, split),
        "500 without signs": small_pools(encoder, root, split, signs=False),
        "500 without signs, with keywords": small_pools(encoder, root, split, signs=False, keywords=True),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="retriever folder; without it the no-LLM ridge baseline is scored")
    parser.add_argument("--name", required=True)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    options = parser.parse_args()
    quiet_libraries()
    root = images.build()
    encoder: Encoder
    if options.model:
        from puma.retriever.model import Retriever

        encoder = Retriever.from_pretrained(options.model)
    else:
        from puma.mini.base.assemble import assemble
        from puma.mini.base.projector import training_pairs
        from puma.mini.base.vision import tower_precision
        from puma.mini.baseline import RidgeBaseline
        from puma.mini.training import base_settings
        from puma.training.recipes.recipe import read_recipe

        base = assemble(settings=base_settings(read_recipe("puma-mini")), images=root)
        encoder = RidgeBaseline.fit(base, *training_pairs(root), precision=tower_precision())
    row = {
        "name": options.name,
        "split": options.split,
        "command": " ".join(["python", *(os.path.relpath(word) if os.path.isabs(word) else word for word in sys.argv)]),
        **figures(encoder, root, options.split),
        **described(),
    }
    add_row(RESULTS, row, ["name", "split"])
    shown = " ".join(f"t{task}:{100 * table['hit_rate@10']:.1f}" for task, table in row["tasks"].items())
    print(
        "  global",
        row["global_mean_hit_rate@10"],
        {t: table["global"]["wrong_modality@1"] for t, table in row["tasks"].items()},
    )
    print("  by style", row["text->image by style"])
    print(f"{options.name} {options.split}: mean {100 * row['mean_hit_rate@10']:.1f}  {shown}")
    for name in ("500 concepts", "500 without signs", "500 without signs, with keywords"):
        rates = row[name]
        print(f"  {name} ({rates['candidates']}):", {way: rates[way] for way in ("text->image", "image->text")})


if __name__ == "__main__":
    main()
