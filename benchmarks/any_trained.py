"""Does training an instruction for queries that ask for no modality pay? The quickstart's stage 2 with and without it.

    python benchmarks/any_trained.py --shares 0 0.1 0.25 --seeds 0 1 2   # after a kill the same command goes on

A share of the training rows (``any_share``) asks for no modality: they get the general instruction, and any item of the
query's concept is right for them. Each model is scored on val in local and mixed pools, as
``benchmarks/losses.py`` does, and as ``benchmarks/any_modality.py`` on queries that ask for no modality: with the
general instruction over everything (*any*), and asked once for each modality (*calibrated*, what a search does).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from _ablation_cells import World, trained_once
from _ablation_variants import VARIANTS
from _machine import described
from _rows import add_row, has_row
from any_modality import measure
from losses import scores
from puma.cli.commands._shared import quiet_libraries
from puma.evaluation.mbeir import evaluate
from puma.mini.training import training_rows
from puma.training.any_modality import with_any_instructions
from puma.training.config import TrainConfig
from puma.training.pairs import first_instructions

RESULTS = Path(__file__).parent / "results" / "any_trained.json"
SAME = ("share", "seed", "steps", "split")
WAYS = ("any", "score", "calibrated")


def run_cell(world: World, options: argparse.Namespace, share: float, seed: int) -> dict[str, Any]:
    """Train and score one model."""
    start = time.process_time()
    values = {**vars(world.plan.retrieve), "steps": options.steps, "seed": seed, "any_share": share}
    config = TrainConfig.from_dict({**values, "save_steps": 10**9})
    rows = training_rows(replace(world.plan, distil=None, retrieve=config), world.root, None)
    retriever = world.fresh(VARIANTS["plain"])
    trained_once(retriever, rows, config, world)
    retriever.instructions = with_any_instructions(first_instructions(world.root), [share])
    seconds = time.process_time() - start
    found = scores(evaluate(retriever, world.root, split=options.split, ks=(1, 10), progress=False))
    ways = measure(retriever, world.root, options.split)["ways"]
    return {
        "share": share,
        "seed": seed,
        "steps": options.steps,
        "split": options.split,
        "local": found["local"]["mean"],
        "global": found["global"]["mean"],
        "wrong": max(found["global"]["wrong"].values()),
        "ways": {
            way: {
                "mean ndcg": ways[way]["mean ndcg"],
                "mean first": ways[way]["mean first"],
                **{key: ways[way]["whole"][key] for key in ("ndcg", "precision", "first", "shares")},
            }
            for way in WAYS
        },
        "cpu_seconds": round(seconds, 1),
        "command": " ".join(["python", *sys.argv]),
        **described(),
    }


def main() -> None:
    quiet_libraries()
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    world = None
    for seed in options.seeds:
        for share in options.shares:
            cell = dict(zip(SAME, (share, seed, options.steps, options.split), strict=True))
            if has_row(options.out, cell):
                continue
            world = world or World.open()
            row = run_cell(world, options, share, seed)
            add_row(options.out, row, SAME)
            figures = "  ".join(
                f"{way}: nDCG {100 * own['mean ndcg']:.1f}, first {100 * own['first']:.1f}, "
                f"{'/'.join(f'{100 * part:.0f}' for part in own['shares'].values())}"
                for way, own in row["ways"].items()
            )
            print(
                f"share {share} seed {seed}: local {100 * row['local']:.1f}, mixed {100 * row['global']:.1f}, "
                f"wrong first at most {100 * row['wrong']:.1f} %; {figures}",
                flush=True,
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.1], help="of the rows, 0 to below 1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file that results are added to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
