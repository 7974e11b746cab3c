"""The table and the plot of docs/scale.md from the results of exact_scale.py. Nothing is measured here."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from puma.storage.folders import write_whole

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "exact_scale.json"
PAGE = HERE.parent / "docs" / "scale.md"
PLOT = HERE.parent / "docs" / "exact-scale.svg"
GLOBAL_POOL = 5_600_000
COLOURS = {"puma": "#1f6f8b", "faiss": "#999999"}
NAMES = {"puma": "puma.index.exact.streamed.top_k, float16 file", "faiss": "FAISS flat, float32 in memory"}


def write_report(results: Path = RESULTS, page: Path = PAGE, plot: Path = PLOT) -> None:
    """Put the table between the page's markers and draw the plot."""
    result = json.loads(results.read_text())
    text = page.read_text()
    start, end = "<!-- exact-scale:start -->", "<!-- exact-scale:end -->"
    head, tail = text.split(start)[0], text.split(end)[1]
    write_whole(page, f"{head}{start}\n{table(result)}\n{end}{tail}".encode())
    draw(result, plot)


def table(result: dict[str, Any]) -> str:
    """Markdown: what was measured, side by side, by size, and after the kill."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        f"Measured by `{result['command']}`: the engines ran in turns, times are medians. "
        f"Machine: {result['machine']}; {versions}.",
        "",
        f"{result['rows']:,} candidates x {result['dim']}:",
        "",
        "| queries | k | PUMA, s | FAISS, s | FAISS with its matrix library, s | PUMA / best FAISS | same ids |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in result["side_by_side"]:
        medians = {name: f"{statistics.median(times):.2f}" for name, times in entry["seconds"].items()}
        lines.append(
            f"| {entry['queries']} | {entry['k']} | {medians['puma']} | {medians['faiss']} "
            f"| {medians.get('faiss, library forced', 'used already')} | **{entry['ratio_to_best_faiss']:.2f}** "
            f"| {100 * entry['same_ids']:.3f} % |"
        )
    if result.get("growth"):
        lines += ["", *_growth_lines(result)]
    if kill := result.get("kill"):
        equal = "equal to the last bit" if kill["equal"] else "NOT EQUAL"
        lines += [
            "",
            f"Killed with SIGKILL at about 60 % and started again: the results are {equal}. The rest took "
            f"{kill['seconds_after_the_kill']:.1f} s; the whole takes {kill['seconds_uninterrupted']:.1f} s.",
        ]
    return "\n".join(lines)


def _growth_lines(result: dict[str, Any]) -> list[str]:
    lines = [
        f"By size: 1,000 queries, k = 1,000, budget {result['memory']}, a new process for each line:",
        "",
        "| candidates | PUMA, s | FAISS, s | PUMA, peak MB | FAISS, MB held |",
        "|---|---|---|---|---|",
    ]
    points = {(entry["engine"], entry["rows"]): entry for entry in result["growth"]}
    for rows in sorted({rows for _, rows in points}):
        own, other = (points.get((engine, rows)) for engine in ("puma", "faiss"))
        cells = [f"{entry['seconds']:.2f}" if entry else "-" for entry in (own, other)]
        cells += [f"{entry['peak_bytes'] / 1e6:,.0f}" if entry else "-" for entry in (own, other)]
        lines.append(f"| {rows:,} | {' | '.join(cells)} |")
    laws = {engine: _laws(result, engine) for engine in ("puma", "faiss")}
    text = [
        f"{NAMES[engine]}: {time[0]:.2f} s + {1e6 * time[1]:.2f} s a million, "
        f"so {time[0] + time[1] * GLOBAL_POOL:.0f} s and "
        f"{(memory[0] + memory[1] * GLOBAL_POOL) / 1e9:.1f} GB at 5.6 M"
        for engine, (time, memory) in laws.items()
    ]
    return [
        *lines,
        "",
        f"Straight lines fitted to these points: {'; '.join(text)}.",
        "",
        "![time and memory](exact-scale.svg)",
    ]


def _laws(result: dict[str, Any], engine: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Intercept and slope of seconds and of bytes against candidates, by least squares over all measured sizes."""
    points = [entry for entry in result["growth"] if entry["engine"] == engine]
    rows = [entry["rows"] for entry in points]
    found = []
    for name in ("seconds", "peak_bytes"):
        slope, intercept = np.polyfit(rows, [entry[name] for entry in points], 1)
        found.append((float(intercept), float(slope)))
    return found[0], found[1]


def draw(result: dict[str, Any], path: Path) -> None:
    """Seconds and peak memory over candidates, lines carried on to the global pool's size."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "puma", "font.size": 10})
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    reach = np.array([0, GLOBAL_POOL])
    for engine, colour in COLOURS.items():
        points = [entry for entry in result["growth"] if entry["engine"] == engine]
        rows = np.array([entry["rows"] for entry in points])
        laws = _laws(result, engine)
        for axes, name, unit, law in ((left, "seconds", 1, laws[0]), (right, "peak_bytes", 1e9, laws[1])):
            axes.plot(rows / 1e6, [entry[name] / unit for entry in points], "o", color=colour, label=NAMES[engine])
            axes.plot(reach / 1e6, (law[0] + law[1] * reach) / unit, "--", color=colour, linewidth=1)
    left.set_ylabel("seconds (1,000 queries, k = 1,000)")
    right.set_ylabel("memory of the process, GB")
    for axes in (left, right):
        axes.set_xlabel("candidates, millions (dashed: carried on to 5.6)")
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
