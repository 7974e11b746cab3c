"""PUMA's encoder and vLLM's in turns, each in a process of its own that waits while the other works."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from _encode_mix import Part
from _encode_peers import PEERS
from _qwen_cut import for_vllm
from puma.retriever.model import Retriever

BATCHED_TOKENS = (1024, 4096, 16384)
"""Of a step of vLLM's scheduler, tried; the smallest is its longest sequence here."""
OUR_SIZES = (16, 64)
MARK = "@@"


class Vllm:
    """A process with vLLM's engine.

    Args:
        python: of vLLM's environment.
        folder: the model, as vLLM loads it.
        tokens: most of a step.
        work: a folder for files.
    """

    def __init__(self, python: Path, folder: Path, tokens: int, work: Path) -> None:
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        settings |= {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.work, self.log = work, work / "vllm.log"
        words = [python, Path(__file__).parent / "_encode_vllm.py", folder, tokens]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, words)),
                env=clean | settings,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        if (threads := int(self._answer())) != 1:
            raise RuntimeError(f"vLLM computes on {threads} threads, not on one")

    def embed(self, entries: list[dict[str, Any]]) -> tuple[float, np.ndarray]:
        """Seconds, as that process measures them, and vectors."""
        items, out = self.work / "items.json", self.work / "out.npy"
        items.write_text(json.dumps(entries))
        incoming: IO[str] = self.process.stdin  # type: ignore[assignment]
        print(items, out, file=incoming, flush=True)
        return float(self._answer()), np.load(out)

    def _answer(self) -> str:
        lines: IO[str] = self.process.stdout  # type: ignore[assignment]
        for line in lines:
            if line.startswith(MARK):
                return line.removeprefix(MARK).strip()
        self.process.wait()
        raise RuntimeError(f"vLLM ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


def beside_vllm(model: Path, kinds: list[Part], python: Path, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each kind and for all together: items a second of both by medians, the median and range of the ratios
    of neighbours in time, and the least cosine of their vectors. vLLM runs at the number of tokens a step, PUMA at the
    batch size, at which it was fastest on a third of the kind's items."""
    torch.set_num_threads(1)
    # Both on one hardware thread, which they use in turns: else a thread that prepares batches would have another.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    retriever = Retriever.from_pretrained(model, device="cpu")
    ours = PEERS["puma"](model)
    work = model.parent
    folder = for_vllm(model, work / "vllm")
    kinds = [part for part in kinds if not part.one_by_one and not part.repeats]

    def entries(part: Part) -> list[dict[str, Any]]:
        # As PUMA writes them, which cuts long texts.
        prompts = retriever.inputs.written(part.items, [part.instruction] * len(part.items))
        images = [None if item.image is None else str(item.image) for item in part.items]
        return [{"prompt": prompt, "image": image} for prompt, image in zip(prompts, images, strict=True)]

    def own(part: Part, size: int) -> tuple[float, np.ndarray]:
        ours.forget()
        begun = time.perf_counter()
        vectors = ours.embed(part.items, part.instruction, size)
        return time.perf_counter() - begun, vectors

    thirds = [replace(part, items=part.items[: max(4, len(part.items) // 3)]) for part in kinds]
    tried: dict[str, dict[int, float]] = {part.name: {} for part in kinds}
    for tokens in BATCHED_TOKENS:
        with _running(python, folder, tokens, work) as vllm:
            for part in thirds:
                vllm.embed(entries(part))
                tried[part.name][tokens] = min(vllm.embed(entries(part))[0] for _ in range(2))
    best = {name: min(times, key=times.__getitem__) for name, times in tried.items()}
    sizes: dict[str, int] = {}
    for part in thirds:
        own(part, OUR_SIZES[-1])
        times = {size: min(own(part, size)[0] for _ in range(2)) for size in OUR_SIZES}
        sizes[part.name] = min(times, key=times.__getitem__)
    totals = {"puma": [0.0] * rounds, "vllm": [0.0] * rounds}
    count, cosine = 0, 1.0
    for tokens in sorted(set(best.values())):
        chosen = [part for part in kinds if best[part.name] == tokens]
        with _running(python, folder, tokens, work) as vllm:
            for part in chosen:
                given = entries(part)
                vllm.embed(given)
                seconds: dict[str, list[float]] = {"puma": [], "vllm": []}
                vectors: dict[str, np.ndarray] = {}
                for turn in range(rounds):
                    for name in ("puma", "vllm") if turn % 2 == 0 else ("vllm", "puma"):
                        taken, found = own(part, sizes[part.name]) if name == "puma" else vllm.embed(given)
                        seconds[name].append(taken)
                        totals[name][turn] += taken
                        vectors[name] = found
                least = float((vectors["puma"] * vectors["vllm"]).sum(1).min())
                count, cosine = count + len(given), min(cosine, least)
                row = _row(len(given), seconds, least)
                yield part.name, row | {"batch_size": sizes[part.name], "vllm_batched_tokens": tokens}
    yield "all of these", _row(count, totals, cosine)


@contextlib.contextmanager
def _running(python: Path, folder: Path, tokens: int, work: Path) -> Iterator[Vllm]:
    process = Vllm(python, folder, tokens, work)
    try:
        yield process
    finally:
        process.close()


def _row(count: int, seconds: dict[str, list[float]], cosine: float) -> dict[str, Any]:
    ratios = [b / a for a, b in zip(seconds["puma"], seconds["vllm"], strict=True)]
    return {
        "items": count,
        "items_a_second": {name: round(count / statistics.median(times), 2) for name, times in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "least_cosine": round(cosine, 7),
    }
