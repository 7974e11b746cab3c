"""What the ablation compares: every variant, the learning rates it is tried with, and in which order cells are run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from puma.training.config import TrainConfig

SHALLOW_RATES = (1e-3, 3e-4)
DEEP_RATES = (3e-4, 1e-3, 1e-4)
"""First the one that docs/log.md found best at this depth. All of them are tried with the first seed."""
DEEP = 15
"""Decoder layers from which a model counts as deep: other rates, and later in the queue."""
TAU = 0.03
COLD = TAU * math.exp(-0.5)
"""Where MAC-Loss ends for same-modality candidates; plain InfoNCE is tried there too, to tell colder from adaptive."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One way to make a retriever.

    Args:
        name: on the command line and in the results.
        group: ``baseline``, ``main``, ``peer``, ``structure``, ``prompt``, ``depth`` or ``loss``.
        says: what it is, for the tables.
        layers, keep_last, prompt: of the student.
        changes: settings of the contrastive stage against the quickstart's.
        distil: ``captions`` (the quickstart's stage 1) or ``paper`` (MSE on raw states, pairs of texts); it takes a
            quarter of the steps.
        made_by: ``puma``, ``mnrl`` or ``adaptive`` (sentence-transformers' trainer), ``ridge`` or ``untrained``.
        cost: of an item against the short prompt's at the same depth, for the estimate of time.
    """

    name: str
    group: str
    says: str
    layers: int = 6
    keep_last: bool = False
    prompt: str = "short"
    changes: Mapping[str, Any] = field(default_factory=dict)
    distil: str = ""
    made_by: str = "puma"
    cost: float = 1.0

    @property
    def trained(self) -> bool:
        return self.made_by not in ("ridge", "untrained")

    @property
    def deep(self) -> bool:
        return self.layers >= DEEP

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to try, the most likely first; one 0 for what is not trained."""
        return (DEEP_RATES if self.deep else SHALLOW_RATES) if self.trained else (0.0,)

    @property
    def missing_settings(self) -> list[str]:
        """Settings that this version of PUMA does not have: the variant cannot be run."""
        return sorted(set(self.changes) - {one.name for one in fields(TrainConfig)})


PLAIN = {"decay": 0.0}
VARIANTS = {
    one.name: one
    for one in (
        Variant("ridge", "baseline", "ridge baseline, no language model", made_by="ridge", cost=0.5),
        Variant("untrained", "baseline", "pruned, untrained", made_by="untrained"),
        Variant("untrained-full", "baseline", "full depth, untrained", layers=30, made_by="untrained"),
        Variant("plain", "main", "pruned, InfoNCE", changes=PLAIN),
        Variant("mac", "main", "pruned, MAC-Loss"),
        Variant("distil", "main", "pruned, distillation, then InfoNCE", changes=PLAIN, distil="captions"),
        Variant("both", "main", "pruned, distillation, then MAC-Loss", distil="captions"),
        Variant("full-plain", "main", "full depth, InfoNCE", layers=30, changes=PLAIN),
        Variant("st-mnrl", "peer", "sentence-transformers: MultipleNegativesRankingLoss", made_by="mnrl", cost=1.4),
        Variant("plain-cold", "main", f"pruned, InfoNCE at {COLD:.4f}", changes={**PLAIN, "temperature": COLD}),
        Variant(
            "distil-paper", "main", "pruned, the paper's distillation, then InfoNCE", changes=PLAIN, distil="paper"
        ),
        Variant("keep-last", "structure", "first 5 layers and the last, MAC-Loss", keep_last=True),
        Variant("open-quote", "prompt", "open-quote prompt, MAC-Loss", prompt="open-quote", cost=1.3),
        Variant("one-word", "prompt", "one-word prompt in the chat template, MAC-Loss", prompt="chat", cost=2.2),
        Variant("k4", "depth", "k = 4, MAC-Loss", layers=4),
        Variant("k10", "depth", "k = 10, MAC-Loss", layers=10),
        Variant(
            "st-adaptive", "peer", "sentence-transformers: AdaptiveLayerLoss over MNRL", made_by="adaptive", cost=1.7
        ),
        Variant("siglip", "loss", "pruned, sigmoid loss", changes={**PLAIN, "loss": "siglip"}),
        Variant(
            "facility-location", "loss", "pruned, facility location", changes={**PLAIN, "loss": "facility-location"}
        ),
        Variant("graph-cut", "loss", "pruned, graph cut", changes={**PLAIN, "loss": "graph-cut"}),
        Variant("k15", "depth", "k = 15, MAC-Loss", layers=15),
        Variant("k30", "depth", "k = 30, full depth, MAC-Loss", layers=30),
        Variant("k22", "depth", "k = 22, MAC-Loss", layers=22),
    )
}
DEPTHS = {4: "k4", 6: "mac", 10: "k10", 15: "k15", 22: "k22", 30: "k30"}
"""The variants of the curve over depth: k = 6 is ``mac`` itself."""


@dataclass(frozen=True)
class Job:
    """One cell to run: train this variant at this rate with this seed, then score it.

    ``tuning`` cells are scored on val, and on test only where their val figure is the variant's best so far.
    """

    variant: Variant
    rate: float
    seed: int
    tuning: bool


def next_job(
    rows: Sequence[Row],
    variants: Sequence[Variant],
    seeds: Sequence[int],
    rates: Sequence[float] = (),
    passed_over: Callable[[Job], bool] = lambda job: False,
) -> Job | None:
    """The most valuable cell that is not in ``rows``, or None.

    First every variant at its likeliest rate with the first seed (the deep ones after the others), then the other rates
    and the other seeds of the shallow ones, then those of the deep ones, then the other losses. A seed beyond the first
    is trained at the rate whose val figure is best so far; if a later rate overtakes it, its cells are wanted too.

    Args:
        rows: finished cells of these steps.
        rates: the grid; empty for each variant's own.
        passed_over: cells not to be offered (they failed in this run).
    """
    for job in _wanted(rows, variants, seeds, rates):
        row = cell(rows, job.variant, job.rate, job.seed)
        scored = row is not None and (row["test"] is not None or (job.tuning and not _is_best(rows, row)))
        if not scored and not passed_over(job):
            return job
    return None


def _wanted(
    rows: Sequence[Row], variants: Sequence[Variant], seeds: Sequence[int], rates: Sequence[float]
) -> Iterator[Job]:
    first, others = seeds[0], seeds[1:]
    grid = {one.name: tuple(rates) if rates and one.trained else one.rates for one in variants}
    extra = [one for one in variants if one.group == "loss"]
    deep = [one for one in variants if one.deep and one not in extra]
    shallow = [one for one in variants if one not in deep and one not in extra]
    for one in [*shallow, *deep]:
        yield Job(one, grid[one.name][0], first, True)
    for part in (shallow, deep, extra):
        for one in part:
            for rate in grid[one.name]:
                yield Job(one, rate, first, True)
        for seed in others:
            for one in part:
                best = best_rate(rows, one, first)
                if one.trained and best is not None:
                    yield Job(one, best, seed, False)


def cell(rows: Sequence[Row], variant: Variant, rate: float, seed: int) -> Row | None:
    """The finished row of a cell."""
    for row in rows:
        if row["variant"] == variant.name and row["seed"] == seed and math.isclose(row["rate"], rate):
            return row
    return None


def best_rate(rows: Sequence[Row], variant: Variant, seed: int) -> float | None:
    """The rate with the best val figure among those tried so far with this seed."""
    tried = [row for row in rows if row["variant"] == variant.name and row["seed"] == seed and row["val"]]
    return max(tried, key=lambda row: row["val"]["mean"])["rate"] if tried else None


def _is_best(rows: Sequence[Row], row: Row) -> bool:
    return bool(best_rate(rows, VARIANTS[row["variant"]], row["seed"]) == row["rate"])


def estimate(job: Job, steps: int, rows: Sequence[Row], threads: int) -> float:
    """Seconds that a cell will take: by this variant's own cells where there are any, else by its depth."""
    own = [sum(row["seconds"].values()) for row in rows if row["variant"] == job.variant.name]
    if own:
        return max(own)
    known = [sum(row["seconds"].values()) / _units(VARIANTS[row["variant"]], row["steps"], True) for row in rows]
    each = statistics.median(known) if known else 1.4 / min(threads, 2) ** 0.85
    return each * _units(job.variant, steps, job.tuning)


def _units(variant: Variant, steps: int, tuning: bool) -> float:
    """A cell's work in training steps of six layers: to score test is about 16 of them, val 6, loading 4."""
    work = (steps if variant.trained else 0) + 16 + (6 if tuning else 0)
    return 4 + work * variant.cost * (variant.layers + 1) / 7
