"""Tables, plots and verdicts of the ablation, from its results: what ``benchmarks/ablation.py --report`` writes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _ablation_peer import ADAPTIVE_NOTE
from _ablation_plots import Line, depth_plot, seeds_plot
from _ablation_variants import DEPTHS, VARIANTS, Row, Variant, best_rate, cell
from puma.data.mbeir import TASK_MODALITIES
from puma.errors import InputError
from puma.storage.folders import write_whole

POINT = 1.0
"""Percentage points under which a difference is called none, however the seeds agree."""

CLAIMS = (
    ("mac", "plain", "MAC-Loss beats InfoNCE at the same tau_norm"),
    ("mac", "plain-cold", "MAC-Loss beats InfoNCE that is as cold as MAC-Loss ends: it is adaptive, not only colder"),
    ("distil", "plain", "a first stage of distillation (caption targets) helps InfoNCE, steps being equal"),
    ("distil-paper", "plain", "a first stage of the paper's distillation helps InfoNCE, steps being equal"),
    ("both", "mac", "a first stage of distillation helps MAC-Loss, steps being equal"),
    ("both", "plain", "distillation and MAC-Loss together beat plain InfoNCE"),
    ("plain", "full-plain", "six layers beat all thirty at equal steps (InfoNCE)"),
    ("mac", "k30", "six layers beat all thirty at equal steps (MAC-Loss)"),
    ("k30", "full-plain", "MAC-Loss beats InfoNCE at full depth"),
    ("keep-last", "mac", "five layers and the very last beat the first six"),
    ("open-quote", "one-word", "the open-quote prompt beats the one-word prompt"),
    ("mac", "open-quote", "the short prompt beats the open-quote prompt (it also costs less)"),
    ("mac", "st-mnrl", "our loss and batches beat sentence-transformers' MultipleNegativesRankingLoss"),
    ("mac", "st-adaptive", "... and its AdaptiveLayerLoss"),
    ("plain", "ridge", "a few minutes of training beat the ridge baseline without a language model"),
)
"""(the better, the worse, what that would mean)."""


@dataclass(frozen=True)
class Figures:
    """A variant's test figures at the rate chosen: ``means`` by seed in percent, ``tasks`` averaged over the seeds."""

    variant: Variant
    rate: float
    tuned: bool
    means: Mapping[int, float]
    tasks: Mapping[str, float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.means.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds, n - 1; None for one seed."""
        return statistics.stdev(self.means.values()) if len(self.means) > 1 else None


def figures(rows: Sequence[Row]) -> dict[str, Figures]:
    """What each variant reached; those without a test figure are left out."""
    found = {}
    for one in VARIANTS.values():
        own = [row for row in rows if row["variant"] == one.name]
        first = next((row["seed"] for row in own if row["val"]), None)
        rate = best_rate(rows, one, first) if first is not None else None
        scored = [row for row in own if row["test"] and row["rate"] == rate]
        if rate is None or first is None or not scored:
            continue
        names = scored[0]["test"]["tasks"]
        found[one.name] = Figures(
            one,
            rate,
            all(cell(rows, one, other, first) for other in one.rates),
            {row["seed"]: 100 * row["test"]["mean"] for row in sorted(scored, key=lambda row: row["seed"])},
            {
                task: statistics.fmean(100 * row["test"]["tasks"][task]["hit_rate@10"] for row in scored)
                for task in names
            },
        )
    return found


def verdict(better: Figures, worse: Figures) -> tuple[str, list[float]]:
    """Whether the seeds agree that one is better by at least :data:`POINT` in the mean, and their paired differences.

    What has no seed of its own (ridge) is compared with each seed of the other.
    """
    if worse.variant.trained:
        common = sorted(set(better.means) & set(worse.means))
        pairs = [(better.means[seed], worse.means[seed]) for seed in common]
    else:
        pairs = [(value, worse.mean) for value in better.means.values()]
    gaps = [a - b for a, b in pairs]
    if not gaps:
        return "no seed in common", gaps
    if len(gaps) == 1:
        return "not decided (one seed only)", gaps
    agree = all(gap > 0 for gap in gaps) or all(gap < 0 for gap in gaps)
    if not agree or abs(statistics.fmean(gaps)) < POINT:
        return "not decided", gaps
    return ("holds" if gaps[0] > 0 else "the reverse holds"), gaps


def write_results(rows: Sequence[Row], steps: int, docs: Path) -> None:
    """Write the plots, and what stands between the markers of ``docs/results.md``.

    Raises:
        InputError: no result of these steps, or the file or its markers are missing.
    """
    known = figures(rows)
    if not known:
        raise InputError(f"steps={steps}: no finished cell of these steps; run benchmarks/ablation.py first")
    curve = [(depth, known[name]) for depth, name in DEPTHS.items() if name in known]
    points = [Line(str(depth), depth, tuple(one.means.values())) for depth, one in curve]
    ranked = sorted(known.values(), key=lambda one: -one.mean)
    lines = [Line(one.variant.says, 0, tuple(one.means.values())) for one in ranked]
    full = known.get("full-plain")
    level = {"full depth, InfoNCE": full.mean} if full else {}
    if "ridge" in known:
        level["ridge baseline"] = known["ridge"].mean
    write_whole(docs / "ablation_depth.svg", depth_plot(points, level).encode())
    write_whole(docs / "ablation_variants.svg", seeds_plot(lines).encode())
    replace_between(docs / "results.md", "ablation", "\n".join(_page(rows, known, steps)))


def _page(rows: Sequence[Row], known: Mapping[str, Figures], steps: int) -> Iterable[str]:
    batch = rows[0]["batch_size"]
    hours = sum(sum(row["seconds"].values()) for row in rows) / 3600
    yield (
        f"{steps} steps of {batch} pairs ({steps * batch:,} pairs) for every trained variant, {len(rows)} cells, "
        f"{hours:.1f} h in all. Test split, local pools, hit@10 in percent, ties counted against us; the mean over "
        "eight tasks is followed by the standard deviation over seeds (n - 1). The learning rate is the best on val "
        "with the first seed; a star marks a rate whose grid is not finished."
    )
    yield f"\nMachine: {'; '.join(sorted({row['machine'] for row in rows}))}.\n"
    tasks = sorted({task for one in known.values() for task in one.tasks}, key=int)
    yield f"| variant | k | rate | seeds | {' | '.join('t' + task for task in tasks)} | mean |"
    yield f"|{'---|' * (5 + len(tasks))}"
    for one in known.values():
        rate = f"{one.rate:g}{'' if one.tuned else '*'}" if one.variant.trained else "-"
        depth = "-" if one.variant.made_by == "ridge" else one.variant.layers
        shown = " | ".join(f"{one.tasks[task]:.1f}" if task in one.tasks else "-" for task in tasks)
        yield f"| {one.variant.says} | {depth} | {rate} | {len(one.means)} | {shown} | **{_with_spread(one)}** |"
    names = ", ".join(f"t{task} {' → '.join(_short(side) for side in TASK_MODALITIES[int(task)])}" for task in tasks)
    yield f"\n{names}.\n"
    yield "![every variant, a dot a seed](ablation_variants.svg)\n"
    yield "![mean hit@10 over depth](ablation_depth.svg)\n"
    yield "### Which claims hold here\n"
    yield (
        "Differences are paired by seed (same seed, same batches). *Holds* and *the reverse holds*: every seed agrees "
        f"in sign and the mean difference is at least {POINT:g} point. That is a rule of thumb, not a test: that three "
        "seeds agree in sign by luck has a probability of one in four.\n"
    )
    yield "| claim | difference by seed | mean | verdict |"
    yield "|---|---|---|---|"
    for better, worse, text in CLAIMS:
        if better in known and worse in known:
            word, gaps = verdict(known[better], known[worse])
            mean = f"{statistics.fmean(gaps):+.1f}" if gaps else "-"
            yield f"| {text} | {', '.join(f'{gap:+.1f}' for gap in gaps) or '-'} | {mean} | {word} |"
    left = [f"{b} against {w}" for b, w, _ in CLAIMS if b not in known or w not in known]
    if left:
        yield f"\nNot run yet: {'; '.join(left)}."
    yield "\n### Learning rates\n\nMean hit@10 on val, first seed.\n"
    yield "| variant | " + " | ".join(f"{rate:g}" for rate in _rates(rows)) + " |"
    yield f"|{'---|' * (1 + len(_rates(rows)))}"
    for one in VARIANTS.values():
        if one.trained and any(row["variant"] == one.name and row["val"] for row in rows):
            shown = " | ".join(_val(rows, one, rate) for rate in _rates(rows))
            yield f"| {one.says} | {shown} |"
    if "st-adaptive" in known:
        yield f"\n{ADAPTIVE_NOTE}"


def replace_between(path: Path, name: str, text: str) -> None:
    """Put a text between ``<!-- NAME:start -->`` and ``<!-- NAME:end -->`` of a Markdown file.

    Raises:
        InputError: the file or a marker is missing.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    if page.count(start) != 1 or page.count(end) != 1 or page.index(start) > page.index(end):
        raise InputError(f"{path}: needs the lines {start} and {end}, once each, for the text between them")
    head, tail = page.split(start)[0], page.split(end)[1]
    write_whole(path, f"{head}{start}\n{text}\n{end}{tail}".encode())


def _with_spread(one: Figures) -> str:
    return f"{one.mean:.1f}" + ("" if one.spread is None else f" ± {one.spread:.1f}")


def _short(modality: str) -> str:
    return modality.replace("image,text", "image+text")


def _rates(rows: Sequence[Row]) -> list[float]:
    return sorted({row["rate"] for row in rows if row["rate"]})


def _val(rows: Sequence[Row], variant: Variant, rate: float) -> str:
    found: list[Any] = [
        row["val"]["mean"]
        for row in rows
        if row["variant"] == variant.name and row["rate"] == rate and row["val"] is not None
    ]
    return f"{100 * found[0]:.1f}" if found else "-"
