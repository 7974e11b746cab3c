"""The losses of stage 2, compared in local and mixed pools: the quickstart's recipe without stage 1, at equal steps.

    python benchmarks/losses.py --plan                                  # what is left to run
    python benchmarks/losses.py --steps 150 --seeds 0 1 2 --threads 1   # run; after a kill the same command goes on
    python benchmarks/losses.py --only mac split-mac --splits val test
    python benchmarks/losses.py --steps 150 --plot                      # the plots, and the table on stdout

A cell is one loss with one seed. It is trained, scored on every split asked for in local *and* global pools, and added
to the results (``--results``) before the next one starts. While it trains, a fixed part of val is searched in
one mixed pool every ``--watch-every`` steps, for the plot of how often the first hit is of the wrong modality. A killed
cell goes on from its checkpoint (sentence-transformers' starts anew). Decide on val; test is for what is reported.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _rows import add_row, read_rows
from puma.cli.commands._shared import quiet_libraries
from puma.mini.fetch.packages import cache_home

RESULTS = Path(__file__).parent / "results" / "losses.json"
DOCS = Path(__file__).parent.parent / "docs"
TAU = 0.03
COLD = TAU * math.exp(-0.5)
"""Where the hard temperature of the paper's decay ends."""
WATCHED_QUERIES, WATCHED_POOL = 25, 60
"""Of each task, in the pool that is searched while a cell trains: queries, and candidates beside their positives."""


@dataclass(frozen=True)
class Loss:
    """A loss to compare: its name here, what it is, and the settings that make it of the recipe's stage 2."""

    name: str
    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False


LOSSES = {
    one.name: one
    for one in (
        Loss("mac", "MAC-Loss (the paper's)", {"loss": "mac"}),
        Loss("split-mac", "split MAC-Loss", {"loss": "split-mac", "other_weight": 1.0}),
        Loss("infonce", "InfoNCE at 0.03", {"loss": "infonce", "decay": 0.0}),
        Loss("infonce-cold", "InfoNCE at 0.0182", {"loss": "infonce", "decay": 0.0, "temperature": COLD}),
        Loss("st-mnrl", "sentence-transformers' MNRL", peer=True),
        Loss("split-mac-w0.3", "split MAC-Loss, other_weight 0.3", {"loss": "split-mac", "other_weight": 0.3}),
        Loss("split-mac-w0.5", "split MAC-Loss, other_weight 0.5", {"loss": "split-mac", "other_weight": 0.5}),
        Loss("split-mac-w3", "split MAC-Loss, other_weight 3", {"loss": "split-mac", "other_weight": 3.0}),
        Loss("split-mac-d0", "split MAC-Loss, decay 0", {"loss": "split-mac", "other_weight": 1.0, "decay": 0.0}),
        Loss("split-mac-d1", "split MAC-Loss, decay 1", {"loss": "split-mac", "other_weight": 1.0, "decay": 1.0}),
    )
}
MAIN = ("mac", "split-mac-w0.5", "infonce", "infonce-cold", "st-mnrl")
"""Those of the plot over steps."""


@dataclass(frozen=True)
class MixedPool:
    """What :func:`puma.training.train` evaluates on: a part of val, all its candidates in one pool.

    Args:
        judged: queries of all tasks, and the mixed pool.
    """

    judged: Any

    @classmethod
    def read(cls, root: Path) -> MixedPool:
        """The same part for every cell."""
        import numpy as np

        from puma.training.validation import Validation

        judged = Validation.read(root, queries=WATCHED_QUERIES, pool=WATCHED_POOL).judged
        pools = {**judged.pools, ("global", None): np.arange(len(judged.candidates))}
        return cls(replace(judged, pools=pools))

    def figures(self, encoder: Any) -> dict[str, float]:
        """``eval_hit_mean`` (hit@10) and ``eval_wrong_mean``, and each task's ``eval_wrong_<task>``, in [0, 1]."""
        from puma.evaluation.counting import count
        from puma.evaluation.encoded import InMemory
        from puma.items.encoder import BATCH

        tables = count(self.judged, InMemory(encoder, BATCH, False, "first", None, None), ("global",), (10,))
        own = {task: table["global"] for task, table in tables.items()}
        return {
            **{f"eval_wrong_{task}": table["wrong_modality@1"] for task, table in own.items()},
            "eval_hit_mean": statistics.fmean(table["hit_rate@10"] for table in own.values()),
            "eval_wrong_mean": statistics.fmean(table["wrong_modality@1"] for table in own.values()),
        }


def main() -> None:
    options = arguments()
    quiet_libraries()
    if options.plot:
        from _losses_plots import write_plots

        print(write_plots(rows_of(options.results, options.steps), LOSSES, MAIN, options.docs))
        return
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    cells = [(LOSSES[name], seed) for seed in options.seeds for name in options.only or LOSSES]
    left = [cell for cell in cells if not finished(options, *cell)]
    if options.plan:
        for loss, seed in left:
            print(f"{loss.name:16} seed {seed}  {loss.says}")
        print(f"{len(left)} of {len(cells)} cells left, of {options.steps} steps")
        return
    run(options, left)


def run(options: argparse.Namespace, left: Sequence[tuple[Loss, int]]) -> None:
    """Cells one after the other, until none is left or the longest so far would not fit any more."""
    from _ablation_cells import World

    start, world, longest = time.monotonic(), World.open() if left else None, 0.0
    for loss, seed in left:
        spent = time.monotonic() - start
        if options.max_minutes and spent + longest > 60 * options.max_minutes:
            print(f"stopping before {loss.name} seed {seed}: {spent / 60:.0f} min are spent", flush=True)
            return
        print(f"{spent / 60:5.1f} min  {loss.name} seed {seed} ...", flush=True)
        begun = time.monotonic()
        row = run_cell(options, world, loss, seed)
        longest = max(longest, time.monotonic() - begun)
        add_row(options.results, row, ("loss", "seed", "steps"))
        for split, found in row["splits"].items():
            local, mixed = (100 * found[pool]["mean"] for pool in ("local", "global"))
            wrong = 100 * found["global"]["wrong_mean"]
            line = f"local {local:.1f}  global {mixed:.1f}  wrong modality first {wrong:.1f} %"
            print(f"           {split}: {line}", flush=True)


def run_cell(options: argparse.Namespace, world: Any, loss: Loss, seed: int) -> dict[str, Any]:
    """Train and score one cell."""
    from _ablation_variants import VARIANTS
    from _machine import described
    from puma.evaluation.mbeir import evaluate
    from puma.training.config import TrainConfig

    retriever = world.fresh(VARIANTS["plain"])
    config = TrainConfig.from_dict(
        {
            **vars(world.plan.retrieve),
            **loss.settings,
            "steps": options.steps,
            "seed": seed,
            "eval_every": options.watch_every,
            "keep_best": False,
        }
    )
    start = time.monotonic()
    log = trained(options, world, retriever, config, loss)
    seconds = {"train": round(time.monotonic() - start, 1)}
    splits: dict[str, Any] = {}
    for split in options.splits:
        start = time.monotonic()
        splits[split] = scores(evaluate(retriever, world.root, split=split, ks=(1, 5, 10), progress=False))
        seconds[split] = round(time.monotonic() - start, 1)
    shutil.rmtree(work_folder(options, loss, seed), ignore_errors=True)
    watched = ("step", "eval_hit_mean", "eval_wrong_mean")
    return {
        "loss": loss.name,
        "settings": dict(loss.settings),
        "seed": seed,
        "steps": options.steps,
        "batch_size": config.batch_size,
        "splits": splits,
        "watched": [{k: entry[k] for k in entry if k in watched} for entry in log if "eval_wrong_mean" in entry],
        "train_log": [
            {k: round(entry[k], 4) for k in ("step", "loss", "same_loss", "other_loss") if k in entry}
            for entry in log
            if "loss" in entry
        ],
        "seconds": seconds,
        "command": " ".join(["python", *sys.argv]),
        **described(),
    }


def trained(options: argparse.Namespace, world: Any, retriever: Any, config: Any, loss: Loss) -> list[dict[str, float]]:
    """Train in place, from the last checkpoint where there is one; the log."""
    from _ablation_peer import train_by_peer
    from puma.training import train
    from puma.training.validation import TrainingEncoder

    pool = MixedPool.read(world.root) if config.eval_every else None
    if loss.peer:
        encoder = TrainingEncoder(retriever, world.vision, config.precision)
        watch = None if pool is None else (config.eval_every, lambda: pool.figures(encoder))
        return train_by_peer(retriever, world.pairs, config, watch=watch)
    folder = work_folder(options, loss, config.seed)
    result = train(retriever, world.pairs, config, folder, vision=world.vision, validation=pool, show_progress=False)
    return result.log


def scores(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Of both pools hit@1 and hit@10 by task and their mean, and of the global one how often the first hit is of a
    modality that was not asked for; all in [0, 1]."""
    found: dict[str, Any] = {}
    for pool in ("local", "global"):
        own = {task: table if pool == "local" else table["global"] for task, table in tables.items()}
        found[pool] = {
            "mean": statistics.fmean(table["hit_rate@10"] for table in own.values()),
            "mean@1": statistics.fmean(table["hit_rate@1"] for table in own.values()),
            "tasks": {
                task: {key: table[key] for key in ("pool", "queries", "hit_rate@1", "hit_rate@10")}
                for task, table in own.items()
            },
        }
    wrong = {task: table["global"]["wrong_modality@1"] for task, table in tables.items()}
    found["global"] |= {"wrong": wrong, "wrong_mean": statistics.fmean(wrong.values())}
    return found


def work_folder(options: argparse.Namespace, loss: Loss, seed: int) -> Path:
    """Where a cell's checkpoints are until it is finished."""
    return cache_home() / "losses" / f"{loss.name}-{options.steps}-{options.watch_every}-{seed}"


def rows_of(path: Path, steps: int) -> list[dict[str, Any]]:
    """The finished cells of these steps."""
    return [row for row in read_rows(path) if row["steps"] == steps]


def finished(options: argparse.Namespace, loss: Loss, seed: int) -> bool:
    """Whether this cell was scored on all the splits asked for."""
    own = [row for row in rows_of(options.results, options.steps) if (row["loss"], row["seed"]) == (loss.name, seed)]
    return any(set(options.splits) <= set(row["splits"]) for row in own)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="LOSS", help=f"of {', '.join(LOSSES)}")
    parser.add_argument("--steps", type=int, default=150, help="of 64 pairs, the same for all losses")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--splits", nargs="+", default=["val"], choices=("val", "test"))
    parser.add_argument("--watch-every", type=int, default=10, help="steps between searches while it trains; 0: none")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--max-minutes", type=float, default=0.0, help="start no cell that would not fit")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="where --plot writes")
    parser.add_argument("--plan", action="store_true", help="only tell what would be run")
    parser.add_argument("--plot", action="store_true", help="only write the plots and print the table")
    options = parser.parse_args()
    if options.steps < 1 or options.watch_every < 0:
        parser.error("--steps must be at least 1, --watch-every at least 0")
    unknown = sorted(set(options.only or ()) - set(LOSSES))
    if unknown:
        parser.error(f"no such loss: {', '.join(unknown)}; there are {', '.join(LOSSES)}")
    return options


if __name__ == "__main__":
    main()
