"""Elastic depth: exits of one training run beside models that were trained at each depth alone, at equal steps.

    python benchmarks/elastic_depth.py --depths 3 6 12 --steps 80 --seeds 0 1 2  # resumable
    python benchmarks/elastic_depth.py --speed  # texts a second at every depth
    python benchmarks/elastic_depth.py --plot  # the plot, and the table on stdout

``alone-<depth>`` is the mini recipe's stage 2 at that depth; ``elastic`` trains the deepest with exits at the others;
``elastic-taught`` adds the deepest's similarities as their teacher. From 15 layers on the learning rate is a lower one
(docs/log.md, 2026-11-23). Each run is scored on OpenPics' val at every depth it has and added to the results before the
next one starts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _machine import described
from _rows import add_row, has_row, read_rows
from _svg import DOT, GREY, INK, bounds, dot, polyline, rule, svg, text, ticks
from puma.cli.commands._shared import quiet_libraries

RESULTS = Path(__file__).parent / "results" / "elastic_depth.json"
PLOT = Path(__file__).parent.parent / "docs" / "elastic-depth.svg"
SAME = ("run", "steps", "seed", "split", "of")
TAUGHT = 1.0
"""Weight of the exits' teacher."""
DEEP, DEEP_RATE = 15, 3e-4
"""From how many layers on the learning rate is this one."""
NAMES = {
    "alone": "each depth trained alone",
    "elastic": "one run with exits",
    "elastic-taught": "one run with exits that learn from its end",
}
COLOURS = {"alone": INK, "elastic": DOT, "elastic-taught": "#c0562b"}


def runs(depths: Sequence[int]) -> dict[str, tuple[int, dict[str, Any]]]:
    """By name: the depth, and what the stage's settings have more."""
    exits = tuple(depths[:-1])
    return {
        "elastic": (depths[-1], {"exits": exits}),
        "elastic-taught": (depths[-1], {"exits": exits, "exit_distillation": TAUGHT}),
        **{f"alone-{depth}": (depth, {}) for depth in depths},
    }


def run_cell(world: Any, options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train one run, and score it at every depth it has."""
    from _ablation_variants import VARIANTS
    from puma.evaluation.mbeir import evaluate
    from puma.evaluation.metrics import means
    from puma.mini.training import prepared
    from puma.retriever.model import Retriever
    from puma.training import train
    from puma.training.config import TrainConfig

    depth, changes = runs(options.depths)[name]
    retriever = world.fresh(replace(VARIANTS["plain"], layers=depth))
    values = {**vars(world.plan.retrieve), **changes, "steps": options.steps, "seed": seed, "save_steps": 10**9}
    if depth >= DEEP:
        values["learning_rate"] = DEEP_RATE
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.from_dict(values)
        train(retriever, world.pairs, config, folder, vision=world.vision, show_progress=False)
        seconds = round(time.process_time() - start, 1)
        retriever.vision = retriever.autocast = None
        saved = retriever.save_pretrained(Path(folder) / "model")
        found = {}
        for layers in (None, *retriever.exits):
            cut = prepared(Retriever.from_pretrained(saved, layers=layers), world.plan, world.vision)
            tables = evaluate(cut, world.root, split=options.split, progress=False)
            local = means(tables.values(), ["hit_rate@10"])["hit_rate@10"]
            mixed = means([table["global"] for table in tables.values()], ["hit_rate@10"])["hit_rate@10"]
            found[str(layers or depth)] = {"local": local, "global": mixed}
    return {
        "run": name,
        "steps": options.steps,
        "seed": seed,
        "split": options.split,
        "of": depths_of(options.depths, name),
        "depths": found,
        "cpu_seconds": seconds,
        "command": " ".join(["python", *sys.argv]),
        **described(),
    }


def depths_of(depths: Sequence[int], name: str) -> list[int]:
    """The depths that a run has: all, or its own."""
    return [int(name.removeprefix("alone-"))] if name.startswith("alone-") else list(depths)


def speed(world: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Texts a second at each depth, medians of turns that alternate, over what the FLOPs promise."""
    from _ablation_variants import VARIANTS

    names = [pair.candidate.text for pair in world.pairs if pair.candidate.text][:512]
    made = {depth: world.fresh(replace(VARIANTS["plain"], layers=depth)) for depth in options.depths}
    rates: dict[int, list[float]] = {depth: [] for depth in made}
    for _ in range(options.turns):
        for depth, retriever in made.items():
            start = time.perf_counter()
            retriever.encode(names)
            rates[depth].append(len(names) / (time.perf_counter() - start))
    deepest = options.depths[-1]
    middle = {depth: statistics.median(values) for depth, values in rates.items()}
    return {
        "run": "speed",
        "steps": 0,
        "seed": 0,
        "split": "",
        "of": list(options.depths),
        "texts_a_second": {str(depth): round(rate, 1) for depth, rate in middle.items()},
        # The decoder's FLOPs are in proportion to its layers: there is no LM head, and embeddings are looked up.
        "of_the_flop_ratio": {str(d): round(middle[d] / middle[deepest] * d / deepest, 3) for d in middle},
        "command": " ".join(["python", *sys.argv]),
        **described(),
    }


def table(rows: Sequence[Mapping[str, Any]], split: str) -> str:
    """A Markdown table: mean hit@10 in local pools by depth, with the spread over seeds."""
    grouped = by_name_and_depth(rows, split)
    depths = sorted({depth for by_depth in grouped.values() for depth in by_depth})
    lines = ["| run | " + " | ".join(f"{depth} layers" for depth in depths) + " |", "|---" * (len(depths) + 1) + "|"]
    for name, by_depth in grouped.items():
        cells = []
        for depth in depths:
            values = [100 * value for value in by_depth.get(depth, ())]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread} ({len(values)})" if values else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_name_and_depth(rows: Sequence[Mapping[str, Any]], split: str) -> dict[str, dict[int, list[float]]]:
    """Mean hit@10 of each seed; all runs ``alone`` are one line."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["split"] != split:
            continue
        name = "alone" if row["run"].startswith("alone-") else row["run"]
        for depth, figures in row["depths"].items():
            found.setdefault(name, {}).setdefault(int(depth), []).append(figures["local"])
    return found


def drawn(rows: Sequence[Mapping[str, Any]], split: str, speeds: Mapping[str, float]) -> str:
    """Quality over depth, a line a run.

    Args:
        speeds: texts a second, by depth.
    """
    grouped = by_name_and_depth(rows, split)
    depths = sorted({depth for by_depth in grouped.values() for depth in by_depth})
    middle = {n: {d: 100 * statistics.fmean(v) for d, v in by.items()} for n, by in grouped.items()}
    low, high = bounds([value for by in middle.values() for value in by.values()])
    width, height, left, right, top, bottom = 580, 340, 60, 530, 30, 285

    def at(depth: int, value: float) -> tuple[float, float]:
        place = depths.index(depth) / max(1, len(depths) - 1)
        return left + place * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    parts = [text(left, 18, "mean hit@10 of eight tasks (%), local pools", "start")]
    for value in ticks(low, high):
        y = at(depths[0], value)[1]
        parts += [rule(left, y, right, y, GREY), text(left - 6, y + 4, f"{value:.0f}", "end")]
    for depth in depths:
        parts.append(text(at(depth, low)[0], bottom + 18, f"{depth} layers", "middle"))
        if str(depth) in speeds:
            parts.append(text(at(depth, low)[0], bottom + 34, f"{speeds[str(depth)]:,.0f} texts/s", "middle"))
    for number, (name, by_depth) in enumerate(middle.items()):
        points = [at(depth, by_depth[depth]) for depth in sorted(by_depth)]
        parts += [polyline(points, COLOURS[name]), *(dot(x, y, COLOURS[name]) for x, y in points)]
        parts.append(text(right, bottom - 8 - 16 * number, NAMES[name], "end", COLOURS[name]))
    return svg(width, height, parts)


def main() -> None:
    options = arguments()
    quiet_libraries()
    if options.plot:
        found = [row for row in read_rows(options.results) if set(row["of"]) <= set(options.depths)]
        found = [row for row in found if row["of"] == depths_of(options.depths, row["run"])]
        rows = [row for row in found if row["run"] != "speed" and row["steps"] == options.steps]
        if not rows:
            raise SystemExit(f"{options.results}: no runs of {options.steps} steps at the depths {options.depths}")
        speeds = next((row["texts_a_second"] for row in found if row["run"] == "speed"), {})
        PLOT.write_text(drawn(rows, options.split, speeds), encoding="utf-8")
        print(table(rows, options.split))
        return
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    from _ablation_cells import World

    world = World.open()
    if options.speed:
        add_row(options.results, speed(world, options), SAME)
        return
    for seed in options.seeds:
        for name in options.only or runs(options.depths):
            cell = (name, options.steps, seed, options.split, depths_of(options.depths, name))
            if has_row(options.results, dict(zip(SAME, cell, strict=True))):
                continue
            row = run_cell(world, options, name, seed)
            add_row(options.results, row, SAME)
            shown = "  ".join(
                f"{d}: {100 * f['local']:.1f} / {100 * f['global']:.1f}" for d, f in row["depths"].items()
            )
            print(f"{name} seed {seed}: {shown} (local / global), {row['cpu_seconds']:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 6, 12], help="ascending; the last is the model's")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="RUN", help="elastic, elastic-taught, alone-<depth>")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--turns", type=int, default=7, help="with --speed")
    parser.add_argument("--speed", action="store_true", help="measure texts a second, and train nothing")
    parser.add_argument("--plot", action="store_true", help="only write the plot and print the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.depths != sorted(set(options.depths)) or len(options.depths) < 2:
        parser.error(f"--depths {options.depths}: give two or more, ascending")
    unknown = sorted(set(options.only or ()) - set(runs(options.depths)))
    if unknown:
        parser.error(f"no such run: {', '.join(unknown)}; there are {', '.join(runs(options.depths))}")
    return options


if __name__ == "__main__":
    main()
