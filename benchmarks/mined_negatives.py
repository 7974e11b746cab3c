"""What mined negatives bring, and those of the wrong modality among them: training goes on with and without them.

    python benchmarks/mined_negatives.py --losses split-mac mac --seeds 0 1 2   # after a kill the same command goes on

A model is trained with the quickstart's stage 2 and one of two losses. With it, ``puma mine`` finds a hard negative
for each training query of text to image and image to text, and one of another modality that scores at least as high
as the positive (``--other-modality 1``). Then training goes on from that model at a third of the rate, three times with
the same rows: without mined negatives, with the first kind, with both. Scored on val in local and mixed pools.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from _ablation_cells import World, trained_once
from _ablation_variants import VARIANTS
from _machine import described
from _rows import add_row, has_row
from losses import scores
from puma.cli.commands._shared import quiet_libraries
from puma.evaluation.mbeir import evaluate
from puma.mini.training import prepared
from puma.retriever.model import Retriever
from puma.training.config import TrainConfig
from puma.training.mining import Rules, mine
from puma.training.pairs import read_pairs

RESULTS = Path(__file__).parent / "results" / "mined_negatives.json"
SAME = ("loss", "negatives", "seed", "steps", "more_steps", "split")
TASKS = (0, 3)
"""Whose queries get negatives: text to image and image to text. The rows of the others stay as they are."""
NEGATIVES = {"before": 0, "none": 0, "same modality": 1, "both": 2}
"""By name, how many mined negatives a row has; ``before`` is the model that mines."""


def run_seed(world: World, options: argparse.Namespace, loss: str, seed: int) -> None:
    """Train, mine, and go on in each way that is not there yet."""
    names = [name for name in NEGATIVES if not finished(options, loss, name, seed)]
    if not names:
        return
    folder = options.work / f"{loss}-{seed}"
    model, mined = folder / "model", folder / "mined"
    if not model.is_dir():
        retriever = world.fresh(VARIANTS["plain"])
        config = config_of(world, loss=loss, seed=seed, steps=options.steps)
        trained_once(retriever, world.pairs, config, world)
        retriever.save_pretrained(model)
    retriever = Retriever.from_pretrained(model)
    # Mining meets the training images again: their stored features serve.
    encoder = prepared(retriever, world.plan, world.vision)
    done = mine(world.root, mined, encoder=encoder, tasks=TASKS, rules=Rules(1, 0, 0.0, 1), progress=False)
    counts = {
        key: sum(table[key] for table in done["tasks"].values())
        for key in ("queries", "negatives", "other_modality", "beyond_margin")
    }
    for name in names:
        start = time.process_time()
        retriever = prepared(Retriever.from_pretrained(model, dtype=torch.float32), world.plan, world.vision)
        if name != "before":
            count = NEGATIVES[name]
            rows = read_pairs(mined if count else world.root, limit=world.plan.rows_per_query, negatives=count)
            going_on = {"steps": options.more_steps, "learning_rate": world.plan.retrieve.learning_rate / 3}
            config = config_of(world, loss=loss, seed=seed + 100, hard_negatives=count, **going_on)
            trained_once(retriever, rows, config, world)
        spent = time.process_time() - start
        found = scores(evaluate(retriever, world.root, split=options.split, ks=(1, 10), progress=False))
        row = {
            "loss": loss,
            "negatives": name,
            "seed": seed,
            "steps": options.steps,
            "more_steps": options.more_steps,
            "split": options.split,
            "mined": counts,
            "local": found["local"]["mean"],
            "global": found["global"]["mean"],
            "wrong_mean": found["global"]["wrong_mean"],
            "wrong": found["global"]["wrong"],
            "cpu_seconds": round(spent, 1),
            "command": " ".join(["python", *sys.argv]),
            **described(),
        }
        add_row(options.out, row, SAME)
        print(
            f"{loss} seed {seed}, {name}: local {100 * row['local']:.1f}, mixed {100 * row['global']:.1f}, wrong "
            f"modality first {100 * row['wrong_mean']:.1f} %, {spent:.0f} s; {counts}",
            flush=True,
        )


def config_of(world: World, **changes: Any) -> TrainConfig:
    """The quickstart's stage 2, changed."""
    return TrainConfig.from_dict({**vars(world.plan.retrieve), **changes, "save_steps": 10**9})


def finished(options: argparse.Namespace, loss: str, name: str, seed: int) -> bool:
    cell = (loss, name, seed, options.steps, options.more_steps, options.split)
    return has_row(options.out, dict(zip(SAME, cell, strict=True)))


def main() -> None:
    quiet_libraries()
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    world = World.open()
    for seed in options.seeds:
        for loss in options.losses:
            run_seed(world, options, loss, seed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["split-mac", "mac"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100, help="before mining")
    parser.add_argument("--more-steps", type=int, default=60, help="after it")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--work", type=Path, default=Path("runs") / "mined_negatives", help="for models and data")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file that results are added to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
