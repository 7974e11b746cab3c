"""One variant of the quickstart's recipe on OpenPics: trained for given steps or seconds, scored on a split.

    python benchmarks/quickstart_recipe.py --name k30 --layers 30 --seconds 150 --set learning_rate=3e-4
    python benchmarks/quickstart_recipe.py --name plain --set decay=0 --set temperature=0.05 --seed 1

Runs on CPU or GPU. Results are appended to ``benchmarks/results/quickstart_recipe.json`` with machine, versions,
command and seed. Tuning looks at ``--split val``, the default; ``--split test`` is for figures that are reported.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from puma.cli.commands._shared import quiet_libraries
from puma.cli.commands.train import parsed
from puma.evaluation.mbeir import evaluate
from puma.evaluation.metrics import means
from puma.mini import openpics as images
from puma.mini.base.assemble import assemble
from puma.mini.base.known_images import known_images
from puma.mini.targets import distillation_targets
from puma.mini.training import base_settings, for_this_machine, student, training_rows
from puma.storage.folders import write_json
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.recipes.recipe import Recipe, read_recipe

RESULTS = Path(__file__).parent / "results" / "quickstart_recipe.json"


def main() -> None:
    quiet_libraries()
    options = arguments()
    changes = {"seed": options.seed, "save_steps": 10**9, **parsed(options.set)}
    length = {"retrieve.minutes": options.seconds / 60} if options.seconds else {}
    plan = for_this_machine(read_recipe(options.recipe, length | parsed(options.recipe_set)))
    if options.threads:
        torch.set_num_threads(options.threads)
    if changes.get("steps"):  # a fixed length, which the recipe's minutes must not cut short
        changes = {"minutes": 0.0, **changes}
    stage_1 = None if plan.distil is None else {**vars(plan.distil), "seed": options.seed, **parsed(options.distil_set)}
    plan = replace(
        plan,
        layers=options.layers or plan.layers,
        prompt=options.prompt or plan.prompt,
        retrieve=TrainConfig.from_dict({**vars(plan.retrieve), **changes}),
        distil=TrainConfig.from_dict(stage_1) if stage_1 and stage_1["steps"] else None,
    )
    root = images.build()
    base = assemble(settings=base_settings(plan), images=root)
    vision = known_images(base, root, None)
    pairs = training_rows(plan, root, None)
    targets = distillation_targets(base, plan, pairs, None) if plan.distil is not None else None

    def stage(config: TrainConfig, retriever: Any) -> tuple[float, int]:
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            result = train(retriever, pairs, config, folder, vision=vision, teacher=targets)
            return time.monotonic() - start, result.steps

    config = plan.retrieve
    retriever = student(base, plan, vision)
    seconds = {"distil": stage(plan.distil, retriever)[0]} if plan.distil is not None else {}
    seconds["train"], steps = stage(config, retriever)
    for split in options.split:
        report(options, plan, split, steps, seconds, evaluate(retriever, root, split=split))


def report(
    options: argparse.Namespace,
    plan: Recipe,
    split: str,
    steps: int,
    seconds: Mapping[str, float],
    tables: Mapping[str, Any],
) -> None:
    """Add the figures of a split to the results, and print them."""
    keep = ("pool", "queries", "hit_rate@1", "hit_rate@10")
    mixed = [table["global"] for table in tables.values()]
    row = {
        "name": options.name,
        "command": " ".join(["python", *sys.argv]),
        "seed": options.seed,
        "split": split,
        "layers": plan.layers,
        "steps": steps,
        "pairs": steps * plan.retrieve.batch_size,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "mean_hit_rate@10": means(tables.values(), ["hit_rate@10"])["hit_rate@10"],
        "global_mean_hit_rate@10": means(mixed, ["hit_rate@10"])["hit_rate@10"],
        "wrong": max(table["wrong_modality@1"] for table in mixed),
        "tasks": {task: {key: table[key] for key in keep} for task, table in tables.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, cuda {torch.cuda.is_available()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
    }
    out = options.out or RESULTS
    rows = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    write_json(out, [*rows, row])
    shown = " ".join(f"{task}:{100 * table['hit_rate@10']:.1f}" for task, table in tables.items())
    local, both = (100 * row[f"{pool}mean_hit_rate@10"] for pool in ("", "global_"))
    worst = f"wrong first at most {100 * row['wrong']:.1f} %"
    print(
        f"{options.name} seed {options.seed} {split}: {steps} steps, {seconds['train']:.0f} s, local {local:.1f}, "
        f"mixed {both:.1f}, {worst}  {shown}",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe", default="mini", help="the recipe that is varied: mini, or mini-distilled for a first stage"
    )
    parser.add_argument("--name", required=True, help="what to call this variant in the results")
    parser.add_argument("--layers", type=int, help="decoder layers kept")
    parser.add_argument("--prompt", help="the student's prompt format")
    parser.add_argument("--seconds", type=float, help="wall time of stage 2 instead of the recipe's minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", nargs="+", default=["val"], choices=("val", "test"))
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--recipe-set", action="append", help="a key of the recipe, as 'extra_pairs=[keywords]'")
    parser.add_argument("--set", action="append", help="a setting of stage 2, as learning_rate=1e-4")
    parser.add_argument("--distil-set", action="append", help="a setting of stage 1")
    parser.add_argument("--out", type=Path, help="the file that results are appended to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
