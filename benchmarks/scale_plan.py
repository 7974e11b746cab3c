"""One billion items on paper: storage, GPU-hours, memory, latency and cost, from measured figures and assumptions.

    python benchmarks/scale_plan.py                 prints the section of docs/scale.md
    python benchmarks/scale_plan.py --write         puts it there

Measured figures are read from benchmarks/results. Nothing of a billion items was run: all of this is arithmetic.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scale.md"
START, END = "<!-- scale-plan:start -->", "<!-- scale-plan:end -->"


@dataclass(frozen=True)
class Assumed:
    """What was not measured here."""

    items: float = 1e9
    gpu_peak: float = 989e12
    """FLOP/s of an H100 (SXM), dense bf16, as its maker says."""
    gpu_share: float = 0.4
    """Of that peak, reached in a forward pass; on this CPU 0.67 to 0.99 of the matrix product's peak were measured."""
    image_tokens: int = 256
    """Of an image in Qwen2-VL's decoder; its tower sees four patches a token."""
    text_tokens: int = 40
    """Prompt, instruction and caption."""
    gpu_hour: float = 2.5
    core_hour: float = 0.04
    gb_month: float = 3.0
    """Of memory in a rented machine."""
    disk_gb_month: float = 0.08
    memory_bandwidth: float = 200e9
    """Bytes a second that a server reads from memory with all cores."""
    shard_gb: float = 256.0
    """Memory of one search machine that codes may fill."""


HIDDEN, INNER, KEY_VALUE, TOWER = 3584, 18944, 512, 0.675e9
"""Qwen2-VL-7B: hidden size, MLP, width of keys and of values; parameters of the vision tower."""
LAYER = 2 * HIDDEN**2 + 2 * HIDDEN * KEY_VALUE + 3 * HIDDEN * INNER


def flops(layers: int, assumed: Assumed) -> float:
    """Of one image with a caption: two a parameter and token, attention's scores included."""
    tokens = assumed.image_tokens + assumed.text_tokens
    decoder = layers * (2 * LAYER * tokens + 4 * tokens**2 * HIDDEN)
    return decoder + 2 * TOWER * 4 * assumed.image_tokens


def gpu_hours(layers: int, assumed: Assumed) -> float:
    return assumed.items * flops(layers, assumed) / (assumed.gpu_peak * assumed.gpu_share) / 3600


def code_bytes(dim: int) -> dict[str, int]:
    """A vector's bytes by code, as puma stores them: int8 with a float32 scale, binary one bit a number."""
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 4, "binary": -(-dim // 8)}


def results(name: str) -> Any:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def section(assumed: Assumed) -> str:
    """The section of the page."""
    lines = ["This is arithmetic, made by `python benchmarks/scale_plan.py`.", ""]
    lines += ["Assumed, not measured: " + assumptions(assumed), ""]
    lines += ["**Vectors** of all items, in GB (10^9 bytes), and how many machines of "
              f"{assumed.shard_gb:g} GB hold the codes (vectors as int8 or binary) in memory:", ""]  # fmt: skip
    lines += ["| numbers a vector | float32 | float16 | int8 | binary | machines for int8 | for binary |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for dim, of in ((576, "puma-mini"), (256, "puma-mini, cut to 256"), (3584, "Qwen2-VL-7B"), (1024, "the same, cut")):
        sizes = {name: size * assumed.items / 1e9 for name, size in code_bytes(dim).items()}
        machines = [-(-sizes[name] // assumed.shard_gb) for name in ("int8", "binary")]
        shown = " | ".join(f"{value:,.0f}" for value in sizes.values())
        lines.append(f"| {dim} ({of}) | {shown} | {machines[0]:.0f} | {machines[1]:.0f} |")
    ingest = results("ingest")["ingest"]
    row = ingest["bytes"] / ingest["embedded"]
    disk = row * assumed.items / 1e12
    lines += [
        "",
        f"**On disk** a row of puma-mini with thumbnail, source and vector takes {row / 1e3:.1f} KB "
        f"(measured on {ingest['embedded']:,} images). All items take {disk:.1f} TB, which cost "
        f"${disk * 1e3 * assumed.disk_gb_month:,.0f} a month.",
        "",
        "**Embedding** images with captions by a model of Qwen2-VL-7B's shape:",
        "",
        "| decoder layers | TFLOP an item | GPU-hours | days on 64 GPUs | cost |",
        "|---|---|---|---|---|",
    ]
    for layers in (12, 28):
        hours = gpu_hours(layers, assumed)
        lines.append(
            f"| {layers} | {flops(layers, assumed) / 1e12:.2f} | {hours:,.0f} | {hours / 24 / 64:.1f} | "
            f"${hours * assumed.gpu_hour:,.0f} |"
        )
    saved = flops(28, assumed) / flops(12, assumed)
    lines += [
        "",
        f"Twelve layers take 1/{saved:.2f} of the FLOPs of 28, not 12/28: the vision tower "
        "is the same in both. The hours are computed from the FLOPs, "
        "not measured on a GPU.",
        "",
        *mini_lines(assumed),
        "",
        *search_lines(assumed),
    ]
    return "\n".join(lines)


def mini_lines(assumed: Assumed) -> list[str]:
    alone = results("ingest")["encoder_alone"]
    hours = assumed.items / alone["pictures_per_cpu_second"] / 3600
    return [
        f"**puma-mini** on CPUs embeds {alone['pictures_per_cpu_second']:.1f} images a second "
        f"on one core (measured). All items take {hours:,.0f} core-hours: "
        f"{hours / 24 / 1000:.1f} days on 1,000 cores, ${hours * assumed.core_hour:,.0f}."
    ]


def search_lines(assumed: Assumed) -> list[str]:
    codes = code_bytes(576)
    lines = [
        "**Search**, with 576 numbers a vector. The memory bandwidth limits a pass over all codes: "
        "its time is the bytes on a machine divided by the bandwidth. "
        "An inverted file divides the codes into cells. Visiting a twentieth of the cells takes a "
        "twentieth of the time, and finds only what is in those cells.",
        "",
        "| codes | machines | GB on each | all codes, ms | a twentieth, ms | memory a month |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("int8", "binary"):
        total = codes[name] * assumed.items
        for machines in (max(1, round(-(-total // (assumed.shard_gb * 1e9)))), 16):
            each = total / machines
            whole = each / assumed.memory_bandwidth * 1e3
            lines.append(
                f"| {name} | {machines} | {each / 1e9:.1f} | {whole:,.0f} | {whole / 20:,.1f} | "
                f"${total / 1e9 * assumed.gb_month:,.0f} |"
            )
    found = results("search_latency")
    any_ = found["end_to_end"]["any"]
    text, index = found["parts"]["encoding one text"], found["parts"]["index, any"]
    binary = binary_loss()
    lines += [
        "",
        f"For comparison, a whole query on {found['rows']:,} rows (measured on a CPU, end to end) takes "
        f"{any_['p50_ms']:.0f} ms at the median and {any_['p99_ms']:.0f} ms at p99. Of the median, "
        f"{text['p50_ms']:.0f} ms are the embedding of the text and {index['p50_ms']:.0f} ms the index.",
        "",
        "A query that asks 16 machines waits for the slowest. For 99 % of the queries to be in time, each "
        f"machine must be in time for {100 * 0.99 ** (1 / 16):.2f} %.",
        "",
        f"Binary codes alone cost {binary[0]:.1f} points of the hit rate on local pools and {binary[1]:.1f} on "
        "global pools (puma-mini, val). If the best hits are scored again with the exact vectors, nothing is "
        "lost. That reads some hundred rows from the disk for each query.",
    ]
    return lines


def binary_loss() -> tuple[float, float]:
    """Points of hit rate, local and global, that puma-mini's binary codes lose against its float vectors."""
    rows = results("vector_sizes")["val"]["puma-mini"]["quality"]
    whole, cut = (
        next(row for row in rows if (row["width"], row["code"], row["rescored"]) == (576, code, False))
        for code in ("float32", "binary")
    )
    return whole["local"] - cut["local"], whole["global"] - cut["global"]


def assumptions(assumed: Assumed) -> str:
    return (
        f"{assumed.items:,.0f} items; an H100 at {assumed.gpu_share:.0%} of {assumed.gpu_peak / 1e12:.0f} "
        f"TFLOP/s; {assumed.image_tokens} image and "
        f"{assumed.text_tokens} text tokens an item; ${assumed.gpu_hour} a GPU-hour, ${assumed.core_hour} "
        f"a core-hour, ${assumed.gb_month} a GB of memory and "
        f"${assumed.disk_gb_month} a GB of disk a month; {assumed.memory_bandwidth / 1e9:.0f} GB/s from memory."
    )


def replaced(page: str, text: str, start: str = START, end: str = END) -> str:
    """The page with this text between its marks."""
    before, rest = page.split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into docs/scale.md")
    options = parser.parse_args()
    text = section(Assumed())
    print(text)
    if options.write:
        PAGE.write_text(replaced(PAGE.read_text(), text))


if __name__ == "__main__":
    main()
