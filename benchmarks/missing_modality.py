"""Quality when the image or the text of an image+text query is withheld (tasks 6, 7, 8 of OpenPics), test split.

    python benchmarks/missing_modality.py --model runs/quickstart/model   # any retriever's folder
    python benchmarks/missing_modality.py --train --steps 24 --threads 1  # two, with and without modality dropout
    python benchmarks/missing_modality.py --report                        # the table in docs/results.md

Results go to ``benchmarks/results/missing_modality.json``, one row a model and seed; what is there is not run again.
The instruction and the candidates stay whole, as in the literature on missing modalities (Ma et al., 2022): what is
missing is what the user did not give.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from _ablation_variants import VARIANTS
from puma.cli.commands._shared import quiet_libraries
from puma.errors import ModelError
from puma.items import Encoder, Item
from puma.storage.folders import write_json

RESULTS = Path(__file__).parent / "results" / "missing_modality.json"
TASKS = (6, 7, 8)
MODES = {"whole": "both given", "image": "text withheld", "text": "picture withheld"}
"""What is left of a query."""
DROPOUTS = (0.0, 0.3)


class Withheld:
    """An encoder whose queries come without their text or image; candidates (no instruction) are embedded once.

    Args:
        encoder: what embeds.
        keep: ``whole``, ``image`` or ``text``: what is left of a query that has both.
        memory: candidates' vectors by item, shared between the modes.
    """

    def __init__(self, encoder: Encoder, keep: str, memory: dict[tuple[str, str], np.ndarray]) -> None:
        self.encoder, self.keep, self.memory = encoder, keep, memory

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def fingerprint(self) -> str:
        return f"{self.encoder.fingerprint}-{self.keep}"

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        if instruction is not None:
            return self.encoder.encode([self.left(item) for item in items], instruction=instruction)
        todo = [item for item in items if _name(item) not in self.memory]
        if todo:
            vectors = self.encoder.encode(todo)
            self.memory.update((_name(item), vector) for item, vector in zip(todo, vectors, strict=True))
        return np.stack([self.memory[_name(item)] for item in items])

    def left(self, item: Item) -> Item:
        if self.keep == "whole" or item.image is None or item.text is None:
            return item
        return Item(image=item.image) if self.keep == "image" else Item(text=item.text)


def _name(item: Item) -> tuple[str, str]:
    path = os.fspath(item.image) if isinstance(item.image, (str, os.PathLike)) else ""
    return item.text or "", path


def measure(encoder: Encoder, root: Path, tasks: Sequence[int] = TASKS) -> dict[str, Any]:
    """hit@1 and hit@10 by what is left of the queries, by task."""
    from _ablation_cells import scores

    memory: dict[tuple[str, str], np.ndarray] = {}
    return {keep: scores(Withheld(encoder, keep, memory), root, "test", tasks) for keep in MODES}


def folder_model(path: Path, root: Path) -> Encoder:
    """A retriever's folder, reading stored vision features where its tower gives such."""
    from puma.mini.base.known_images import known_images
    from puma.retriever.model import Retriever

    retriever = Retriever.from_pretrained(path)
    try:
        retriever.vision = known_images(path, root, None)
    except ModelError:
        print(f"{path}: no tower whose outputs can be stored; pictures are opened each time")
    return retriever


def main() -> None:
    options = arguments()
    quiet_libraries()
    rows: list[dict[str, Any]] = (
        json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else []
    )
    if options.report:
        from _ablation_report import replace_between

        replace_between(options.docs / "results.md", "missing-modality", table(rows))
        return
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    from _ablation_cells import World, trained
    from puma.mini import openpics as images

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        write_json(options.results, rows)
        shown = "  ".join(f"{mode} {100 * row['scores'][mode]['mean']:.1f}" for mode in MODES)
        print(f"{row['model']} seed {row['seed']}: {shown}", flush=True)

    for path in options.model:
        root = images.build()
        keep({"model": path.name, "seed": None, "scores": measure(folder_model(path, root), root, options.tasks)})
    if not options.train:
        return
    world = None
    for seed in options.seeds:
        for dropout in DROPOUTS:
            name = f"MAC-Loss, {options.steps} steps, modality dropout {dropout:g}"
            if any((row["model"], row["seed"]) == (name, seed) for row in rows):
                continue
            world = world or World.open()
            start = time.monotonic()
            variant = replace(VARIANTS["mac"], changes={"modality_dropout": dropout})
            encoder, _, _ = trained(world, variant, options.rate, seed, options.steps)
            found = measure(encoder, world.root, options.tasks)
            seconds = round(time.monotonic() - start, 1)
            keep({"model": name, "seed": seed, "rate": options.rate, "seconds": seconds, "scores": found})


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a model and what is left of its queries; over seeds the mean and the standard deviation."""
    if not rows:
        return "Not run yet."
    tasks = list(rows[0]["scores"]["whole"]["tasks"])
    lines = [
        "hit@10 in percent, test split, local pools.",
        "",
        f"| model | query | seeds | {' | '.join('t' + task for task in tasks)} | mean |",
        f"|{'---|' * (4 + len(tasks))}",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        for mode, says in MODES.items():
            means = [100 * row["scores"][mode]["mean"] for row in own]
            each = [
                statistics.fmean(100 * row["scores"][mode]["tasks"][task]["hit_rate@10"] for row in own)
                for task in tasks
            ]
            spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
            cells = " | ".join(f"{value:.1f}" for value in each)
            lines.append(f"| {model} | {says} | {len(own)} | {cells} | **{statistics.fmean(means):.1f}{spread}** |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", default=[], help="retriever folders to measure")
    parser.add_argument("--train", action="store_true", help=f"train with modality dropout {DROPOUTS} and measure")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", type=int, nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only write the table in docs/results.md")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    options = parser.parse_args()
    if not (options.model or options.train or options.report):
        parser.error("give --model FOLDER, --train or --report")
    return options


if __name__ == "__main__":
    main()
