"""puma-mini by its recipe for some seconds, scored on val; the adapter lies beside the figures.

    python benchmarks/gpu/puma_mini.py --out puma-mini.json --seconds 240
    python benchmarks/gpu/puma_mini.py --out puma-mini.json --seconds 20 --quick    two layers, small batches

The seconds are divided over stage 2 and the rounds as the recipe's minutes are. The recipe's extra pairs and its
teacher of texts need packages that the kit's parts do not hold: ``--extra-pairs icons wordnet keywords`` and
``--text-teacher`` take them where they can be fetched.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from puma.evaluation.mbeir import evaluate
from puma.evaluation.metrics import means
from puma.mini import openpics
from puma.mini.training import train_recipe
from puma.retriever.model import Retriever
from puma.storage.folders import write_json
from puma.training.recipes.checking import EXTRA_PAIRS
from puma.training.recipes.recipe import Recipe, read_recipe


def main() -> None:
    options = arguments()
    changes: dict[str, Any] = {
        **minutes(read_recipe("puma-mini"), options.seconds / 60),
        "retrieve.seed": options.seed,
        "retrieve.loss": options.loss,
        "extra_pairs": options.extra_pairs,
    }
    if not options.text_teacher:
        changes["rounds.each"] = []
    if options.quick:
        changes |= {"layers": 2, "retrieve.batch_size": 8, "retrieve.workers": 0}
    recipe = read_recipe("puma-mini", changes)
    root = openpics.build()
    adapter = options.out.with_suffix(".safetensors")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        train_recipe(recipe, root, Path(scratch) / "model", adapter=adapter)
        done = json.loads((Path(scratch) / "model.work" / "retrieve" / "log.json").read_text(encoding="utf-8"))
        seconds = time.monotonic() - start
        tables = evaluate(Retriever.from_pretrained(Path(scratch) / "model"), root, split="val", progress=False)
    row = {
        "command": " ".join(["python", *sys.argv]),
        "seed": options.seed,
        "loss": options.loss,
        "extra_pairs": options.extra_pairs,
        "text_teacher": options.text_teacher,
        "layers": recipe.layers,
        "steps": done["steps"],
        "batch_size": recipe.retrieve.batch_size,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "adapter_bytes": adapter.stat().st_size,
        "mean_hit_rate@10": means(tables.values(), ["hit_rate@10"])["hit_rate@10"],
        "global_mean_hit_rate@10": means([t["global"] for t in tables.values()], ["hit_rate@10"])["hit_rate@10"],
        "tasks": {task: {key: table[key] for key in ("hit_rate@1", "hit_rate@10")} for task, table in tables.items()},
    }
    write_json(options.out, [row])
    print(json.dumps(row))


def minutes(recipe: Recipe, total: float) -> dict[str, float]:
    """The lengths of stage 2 and of a round that together take so many minutes, in the recipe's proportions."""
    if recipe.rounds is None:
        return {"retrieve.minutes": total}
    scale = total / (recipe.retrieve.minutes + recipe.rounds.count * recipe.rounds.config.minutes)
    return {
        "retrieve.minutes": recipe.retrieve.minutes * scale,
        "rounds.minutes": recipe.rounds.config.minutes * scale,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file of figures; the adapter is beside it")
    parser.add_argument("--seconds", type=float, default=240, help="of training")
    parser.add_argument("--loss", default="split-mac")
    parser.add_argument("--extra-pairs", nargs="*", default=[], choices=EXTRA_PAIRS)
    parser.add_argument("--text-teacher", action="store_true", help="in a round, as in the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a rehearsal")
    return parser.parse_args()


if __name__ == "__main__":
    main()
