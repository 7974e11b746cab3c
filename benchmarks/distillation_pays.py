"""Does distillation pay where labels are few? The mini recipe's student on OpenPics with 500 to 10,000 labelled pairs.

    python benchmarks/distillation_pays.py --variants none both --labels 500 2000 10000 --seeds 0 1 2
    python benchmarks/distillation_pays.py --variants none-longer --as both --labels 2000 --seeds 0 1 2
    python benchmarks/distillation_pays.py --plot docs/distillation-pays.svg --variants none both

Labelled pairs are drawn by the seed, equally many of each task, one a query; what is right for a query is known of
these pairs alone. All other texts of the training split are unlabelled; the variants ``captions...`` may also read
every image with its caption. (The base's projector is fitted to these captions, for all variants.) All variants of a
seed have the same pairs, start and batches. ``none-longer`` gets as many more steps as the variant named by ``--as``
spent on teacher and distillation, by CPU time.

Each cell is appended to the results before the next starts and is not run again; a killed one goes on from its
checkpoint. Cells are scored on val; ``--split test`` is for figures that are reported.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from _distillation_report import summary, write_plot
from _distillation_rows import captioned, labelled, texts
from _distillation_variants import STEPS, VARIANTS
from _machine import described
from _rows import add_row, read_rows
from puma.cli.commands._shared import quiet_libraries
from puma.evaluation.mbeir import evaluate
from puma.evaluation.metrics import means
from puma.mini import openpics
from puma.mini.base.assemble import assemble
from puma.mini.base.known_images import known_images
from puma.mini.targets import stage_targets
from puma.mini.text_teacher import text_teacher_folder
from puma.mini.training import base_settings, for_this_machine, prepared, student
from puma.pruning import cut
from puma.retriever.model import Retriever
from puma.storage.folders import write_json
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import Pair, read_pairs
from puma.training.planned import met_pairs
from puma.training.recipes.recipe import read_recipe
from puma.training.teacher.folder import captions_of
from puma.training.teacher.texts import TextTeacher
from puma.training.unlabelled import item_rows, read_items, teachable

RESULTS = Path(__file__).parent / "results" / "distillation_pays.json"


class World:
    """The data and the base, read once."""

    def __init__(self) -> None:
        # Every cell sets its steps.
        self.recipe = for_this_machine(read_recipe("mini-distilled", {"retrieve.minutes": 0}))
        self.root = openpics.build()
        self.base = assemble(settings=base_settings(self.recipe), images=self.root)
        self.vision = known_images(self.base, self.root, None)
        self.pairs = read_pairs(self.root, limit=self.recipe.rows_per_query)
        self.items = read_items(self.root)

    def student(self, layers: int) -> Any:
        """The untrained base cut to so many layers."""
        return student(self.base, replace(self.recipe, layers=layers), self.vision)

    def trained(self, folder: str, layers: int | None = None) -> Any:
        """A student that was saved; ``layers``: so many of its first ones."""
        made = Retriever.from_pretrained(folder, dtype=torch.float32)
        if layers is not None:
            cut(made.model, layers)
        return prepared(made, self.recipe, self.vision)


def run_cell(world: World, options: argparse.Namespace, name: str, labels: int, seed: int) -> dict[str, Any]:
    """Train and score one cell."""
    variant = VARIANTS[name]
    pairs = labelled(world.pairs, labels, seed)
    steps = options.steps or STEPS.get(labels, 0)
    if name == "none-longer":
        steps = steps_at_equal_compute(options, labels, seed)
    common: dict[str, Any] = {"seed": seed, "workers": 0, "save_steps": 40, "batch_size": options.batch_size}
    common |= {"loss": options.loss, "decay": options.decay}
    if options.loss == "split-mac":
        common["other_weight"] = 1.0  # the first cells were made with it
    values = {"steps": steps, **common, **variant.retrieve}
    spent: dict[str, float] = {}
    teacher: dict[str, Any] = {}
    if variant.deep:
        teacher["teacher"], spent["deep teacher"] = deep_teacher(world, options, pairs, labels, common)
        values = {**values, **teacher}
    retrieve = changed(world.recipe.retrieve, values)
    work = options.work / f"{name}-{labels}-{seed}-{options.loss}-{retrieve.steps}"
    if variant.alone or variant.cut:
        made = world.trained(teacher["teacher"], options.layers if variant.cut else None)
    else:
        made = world.student(options.layers)
    used = 0
    if variant.distil is not None:
        distil = changed(world.recipe.distil, {**common, **variant.distil, **teacher})
        if variant.captioned:
            rows = captioned(world.pairs)
        elif distil.items_only:
            items = world.items if variant.deep else teachable(world.items, captions_of(pairs))
            rows = item_rows(items, seed=seed)
        else:
            rows = texts(pairs)
        used += len(met_pairs(rows, distil))
        stage(world, made, distil, rows, rows if variant.captioned else pairs, work / "distil", spent)
    if variant.retrieve:
        used += len(met_pairs(pairs, retrieve))
    if not variant.alone:
        stage(world, made, retrieve, pairs, pairs, work / "retrieve", spent)
    tables = evaluate(made, world.root, split=options.split, progress=False)
    keep = ("pool", "queries", "hit_rate@1", "hit_rate@10")
    row = {
        "variant": name,
        "base": base_settings(world.recipe).folder,
        "says": variant.says,
        "labels": labels,
        "seed": seed,
        "loss": options.loss,
        "steps": options.deep_steps if variant.alone else retrieve.steps,
        "as": options.like if name == "none-longer" else None,
        "layers": options.deep_layers if variant.alone else options.layers,
        "deep_steps": options.deep_steps if variant.deep else None,
        "distil_steps": 0 if variant.distil is None else variant.distil["steps"],
        "split": options.split,
        "rows_with_teacher": used,
        "cpu_seconds": {key: round(value, 1) for key, value in spent.items()},
        "mean_hit_rate@10": means(tables.values(), ["hit_rate@10"])["hit_rate@10"],
        "global_mean_hit_rate@10": means([t["global"] for t in tables.values()], ["hit_rate@10"])["hit_rate@10"],
        "tasks": {task: {key: table[key] for key in keep} for task, table in tables.items()},
        "command": " ".join(["python", *sys.argv]),
        **described(),
    }
    shutil.rmtree(work, ignore_errors=True)
    return row


def deep_teacher(
    world: World, options: argparse.Namespace, pairs: list[Pair], labels: int, common: Mapping[str, Any]
) -> tuple[str, float]:
    """The folder of the deep student of these labels, trained first if it is not there, and what it cost in CPU
    seconds."""
    name = f"deep-{labels}-{common['seed']}-{options.loss}-{options.deep_layers}x{options.deep_steps}"
    folder, cost = options.work.absolute() / name, options.work.absolute() / f"{name}.json"
    if not cost.is_file():
        clock = time.process_time()
        config = changed(world.recipe.retrieve, {**common, "steps": options.deep_steps, "learning_rate": 3e-4})
        made = world.student(options.deep_layers)
        train(made, pairs, config, options.work / f"{name}.work", vision=world.vision, show_progress=False)
        made.save_pretrained(folder, replace=True)
        shutil.rmtree(options.work / f"{name}.work", ignore_errors=True)
        write_json(cost, {"cpu_seconds": time.process_time() - clock})
    return str(folder), json.loads(cost.read_text(encoding="utf-8"))["cpu_seconds"]


def stage(
    world: World,
    made: Any,
    config: TrainConfig,
    rows: list[Pair],
    pairs: list[Pair],
    work: Path,
    spent: dict[str, float],
) -> None:
    """Train one stage, its teacher's states first; CPU seconds of both go into ``spent``."""
    targets = None
    if config.distillation_weight > 0:
        clock = time.process_time()
        targets = stage_targets(world.base, world.recipe, config, rows, pairs=pairs, vision=world.vision, home=None)
        spent[f"teacher of {config.stage}"] = time.process_time() - clock
    clock = time.process_time()
    train(made, rows, config, work, vision=world.vision, teacher=targets, show_progress=False)
    spent[config.stage] = time.process_time() - clock


def changed(config: TrainConfig | None, values: Mapping[str, Any]) -> TrainConfig:
    """A stage of the recipe with other values."""
    return TrainConfig.from_dict({**vars(config or TrainConfig()), **values})


def steps_at_equal_compute(options: argparse.Namespace, labels: int, seed: int) -> int:
    """Contrastive steps that cost what the variant ``--as`` did in all: teacher, distillation and training. A deep
    teacher's training counts too, and its states as they were computed for that variant, the first that needs them. The
    states of a text teacher count at the rate measured once, whether they were in the store or not."""
    rows = {
        row["variant"]: row for row in read_rows(options.out) if same_cell(row, options, row["variant"], labels, seed)
    }
    if not {"none", options.like} <= rows.keys():
        raise SystemExit(f"none-longer: run 'none' and {options.like!r} with {labels} labels and seed {seed} first")
    plain, other = rows["none"], rows[options.like]
    deep = "deep teacher" in other["cpu_seconds"]
    stages = sum(v for key, v in other["cpu_seconds"].items() if deep or not key.startswith("teacher of"))
    teacher = 0.0 if deep else 2 * other["rows_with_teacher"] / texts_a_second()
    return round(plain["steps"] * (stages + teacher) / plain["cpu_seconds"]["retrieve"])


def texts_a_second() -> float:
    """The text teacher's rate on short texts, by CPU time."""
    teacher = TextTeacher(text_teacher_folder(), device="cpu")
    words = [f"a picture of {number} things" for number in range(512)]
    clock = time.process_time()
    teacher.states(words)
    return len(words) / (time.process_time() - clock)


def same_cell(row: Mapping[str, Any], options: argparse.Namespace, name: str, labels: int, seed: int) -> bool:
    """Whether a row is that cell's."""
    base = base_settings(read_recipe("mini")).folder
    found = (row["variant"], row["labels"], row["seed"], row["split"], row["loss"])
    same_steps = not options.steps or VARIANTS[name].alone or name == "none-longer" or row["steps"] == options.steps
    wanted = (name, labels, seed, options.split, options.loss)
    same_equal = name != "none-longer" or row["as"] == options.like
    return found == wanted and row["base"] == base and bool(same_steps) and same_equal


def main() -> None:
    quiet_libraries()
    options = arguments()
    if options.plot:
        write_plot(options.plot, read_rows(options.out), options.variants, options.split)
        for figure in ("mean_hit_rate@10", "global_mean_hit_rate@10"):
            print(figure, summary(read_rows(options.out), options.split, figure), sep="\n")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    world, until = None, time.monotonic() + (options.seconds or float("inf"))
    for seed in options.seeds:
        for labels in options.labels:
            for name in options.variants:
                if any(same_cell(row, options, name, labels, seed) for row in read_rows(options.out)):
                    continue
                if time.monotonic() > until:
                    print(f"{options.seconds:.0f} s are over: {name} with {labels} labels and seed {seed} is left")
                    return
                world = world or World()
                row = run_cell(world, options, name, labels, seed)
                add_row(options.out, row, ("variant", "base", "labels", "seed", "loss", "steps", "as", "split"))
                shown = " ".join(f"{task}:{100 * table['hit_rate@10']:.1f}" for task, table in row["tasks"].items())
                figures = f"global {100 * row['global_mean_hit_rate@10']:.1f}  {shown}  {row['cpu_seconds']}"
                print(
                    f"{name} {labels} labels seed {seed}: {row['steps']} steps, "
                    f"mean {100 * row['mean_hit_rate@10']:.1f} {figures}",
                    flush=True,
                )
    print(summary(read_rows(options.out), options.split))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["none"], choices=VARIANTS)
    parser.add_argument("--labels", nargs="+", type=int, default=[2000], help="labelled pairs, 0 for all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="contrastive steps, needed for labels beside 500, 2000 and 10000")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=6, help="of the student")
    parser.add_argument("--deep-layers", type=int, default=30, help="of the teacher of the variants deep-...")
    parser.add_argument("--deep-steps", type=int, default=45, help="of that teacher's training")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--seconds", type=float, help="begin no cell after so many")
    parser.add_argument("--loss", default="split-mac", help="the contrastive loss")
    parser.add_argument("--decay", type=float, default=0.5, help="of the hard temperature")
    parser.add_argument("--as", dest="like", default="both", help="the variant that none-longer's compute equals")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--work", type=Path, default=Path("runs") / "distillation_pays", help="for checkpoints")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file that results are appended to")
    parser.add_argument("--plot", type=Path, help="write quality over labelled pairs as SVG, and run nothing")
    options = parser.parse_args()
    if not options.steps and set(options.labels) - STEPS.keys():
        parser.error(f"--labels {options.labels}: give --steps beside {sorted(STEPS)}")
    return options


if __name__ == "__main__":
    main()
