"""Hit rates before and after a fine-tuning, on queries that it never saw, with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma.evaluation.compare import LEVEL, compare
from puma.training.finetune.held_out import KS, HeldOut, Ranks


def gains(held_out: HeldOut, before: Ranks, after: Ranks) -> dict[str, Any]:
    """Hit rates at 1, 5 and 10 of both, and the difference with its paired bootstrap interval over queries
    (:func:`puma.evaluation.compare.compare`).

    Returns:
        ``kinds``: per pair of modalities ``queries``, ``pool`` and, by ``hit_rate@k``, ``before``, ``after``,
        ``difference``, ``low``, ``high``, ``better``, ``worse``; ``mean``: the same over the pairs of modalities.
    """
    kinds: dict[str, dict[str, Any]] = {
        kind: {"queries": len(ranks), "pool": len(held_out.pool(kind))} for kind, ranks in before.items()
    }
    mean: dict[str, Any] = {}
    for k in KS:
        metric = f"hit_rate@{k}"
        found = compare(_document(before), _document(after), metric=metric)
        for kind, row in found["tasks"].items():
            kinds[kind][metric] = _named(row)
        mean[metric] = _named(found["mean"])
    return {"level": LEVEL, "kinds": kinds, "mean": mean}


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    names = {"a": "before", "b": "after"}
    return {names.get(key, key): value for key, value in row.items() if key != "queries"}


def _document(ranks: Ranks) -> dict[str, Any]:
    return {"per_query": {"local": ranks}}


def gain_lines(found: Mapping[str, Any]) -> list[str]:
    """The same as lines to read, rates and differences in points of 100."""
    width = max([len("mean"), *map(len, found["kinds"])])
    head = f"{'hit rate, %':{width}}{'queries':>9}{'pool':>7}"
    lines = [head + "".join(f"{f'@{k} before':>13}{'after':>7}" for k in KS)]
    for kind, row in found["kinds"].items():
        lines.append(f"{kind:{width}}{row['queries']:>9,}{row['pool']:>7,}" + _rates(row))
    if len(found["kinds"]) > 1:
        lines.append(f"{'mean':{width}}{'':>16}" + _rates(found["mean"]))
    gained = []
    for k in KS:
        row = found["mean"][f"hit_rate@{k}"]
        low, high = 100 * row["low"], 100 * row["high"]
        gained.append(f"@{k} {100 * row['difference']:+.1f} ({low:+.1f} to {high:+.1f})")
    lines.append(f"gain in points, with its {100 * found['level']:.0f} % interval over queries: {', '.join(gained)}")
    return lines


def _rates(row: Mapping[str, Any]) -> str:
    rates = [row[f"hit_rate@{k}"] for k in KS]
    return "".join(f"{100 * rate['before']:13.1f}{100 * rate['after']:7.1f}" for rate in rates)
