"""Where the time of PUMA's encoder goes, beside what this machine can do."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from _encode_mix import Part
from _photo_like import jpeg
from puma.items import Item
from puma.retriever.cores import usable_cores
from puma.retriever.encoding.batches import prefetched, preparing_threads
from puma.retriever.encoding.image_cache import ImageCache
from puma.retriever.encoding.loop import encode_batches, encode_items
from puma.retriever.encoding.quick_linear import OneDnnLinears
from puma.retriever.encoding.repeats import image_keys
from puma.retriever.encoding.seen_images import SeenImages
from puma.retriever.inputs import for_threads
from puma.retriever.model import Retriever

MODEL_SECONDS = 0.005
"""A batch of the simulated model."""


def gemm_peak() -> float:
    """FLOPs a second of the fastest of a few fp32 matrix multiplications of the decoder's shapes, by MKL or oneDNN."""
    best = 0.0
    ways = [contextlib.nullcontext, *([OneDnnLinears] if torch.backends.mkldnn.is_available() else [])]
    for rows, left, right in ((1024, 576, 1536), (1024, 1536, 576), (1024, 1024, 1024), (2048, 2048, 2048)):
        a, b = torch.randn(rows, left), torch.randn(right, left)
        for way in ways:
            with torch.inference_mode(), way():
                for _ in range(8):
                    begun = time.perf_counter()
                    functional.linear(a, b)
                    best = max(best, 2 * rows * left * right / (time.perf_counter() - begun))
    return best


def _linear_flops(given: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Of oneDNN's product, which torch's counter does not know, from the shapes."""
    return 2 * math.prod(given) * weight[0]


def profile(retriever: Retriever, part: Part, peak: float) -> dict[str, Any]:
    """Tokens, FLOPs and the shares of the time of one kind of items without repeats, by passes that end early."""
    if part.one_by_one or part.repeats:
        return {}
    tokens = padded = 0

    def batches(forward: Callable[..., Any]) -> Iterator[Any]:
        return encode_batches(
            retriever.model, retriever.inputs, part.items, part.instruction, forward=forward, batch_size=64
        )

    def feed() -> None:
        nonlocal tokens, padded
        tokens = padded = 0
        for _, features, _ in batches(lambda model, features: None):
            tokens += int(features["attention_mask"].sum())
            padded += features["attention_mask"].numel()

    def see(model: Any, features: dict[str, torch.Tensor]) -> None:
        given = {key: value for key, value in features.items() if key.startswith(("pixel_", "image_"))}
        if given:
            model.get_image_features(**given, return_dict=True)

    def embed() -> None:
        encode_items(retriever.model, retriever.inputs, part.items, instruction=part.instruction)

    whole, feeding, seeing = (seconds(work) for work in (embed, feed, lambda: [*batches(see)]))
    known = {torch.ops.mkldnn._linear_pointwise: _linear_flops}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        embed()
    flops = counter.get_total_flops()
    seen = seeing - feeding if part.items[0].image is not None else 0.0
    return {
        "tokens": tokens,
        "padding": round(1 - tokens / padded, 4),
        "gflop": round(flops / 1e9, 1),
        "of_gemm_peak": round(flops / whole / peak, 3),
        "share_of_time": {
            "texts and images read": round(feeding / whole, 3),
            "vision tower": round(seen / whole, 3),
            "decoder and the rest": round(1 - (feeding + seen) / whole, 3),
        },
    }


def seconds(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


class Elsewhere(torch.nn.Module):
    """A model that is not on the CPU and computes nothing: batches are made for it as for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))


FEEDS = ("texts", "images", "images of the cache")


def feeding_row(retriever: Retriever, kind: str, seed: int, batches: int = 40) -> dict[str, Any]:
    """How much of its time a model works that takes 5 ms a batch of 64 and leaves the cores alone, as a GPU does.

    Images of the cache are those that a cache on the disk holds already: what is fed is the tower's outputs.
    """
    generator = np.random.default_rng(seed)
    words = ["a", "red", "fox", "jumps", "over", "the", "blue", "fence", "behind", "an", "old", "house", "in", "winter"]
    texts = [" ".join(generator.choice(words, int(generator.integers(4, 20)))) + f" {n}" for n in range(64 * batches)]
    cached = kind == FEEDS[2]
    if kind == "texts":
        items = [Item(text=text) for text in texts]
    else:
        count = 16 * batches
        files = [jpeg(generator, 320, 240) for _ in range(count if cached else 64)]
        items = [Item(image=files[n % len(files)], text=text) for n, text in enumerate(texts[:count])]
    model, shares, totals = Elsewhere().eval(), [], []
    worked = 0.0

    def work(model: Any, features: Any) -> None:
        nonlocal worked
        started = time.perf_counter()
        time.sleep(MODEL_SECONDS)
        worked += time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        cache = ImageCache(folder)
        if cached:
            encode_items(retriever.model, retriever.inputs, items, image_cache=cache)
        for _ in range(5):
            worked, count, begun = 0.0, 0, time.perf_counter()
            seen = _seen_before(retriever, items, cache) if cached else None
            for _ in encode_batches(model, retriever.inputs, items, batch_size=64, forward=work, seen=seen):
                count += 1
            totals.append(time.perf_counter() - begun)
            shares.append(worked / totals[-1])
        cache.close()
    return {
        "kind": kind,
        "items": len(items),
        "batches": count,
        "cores": usable_cores(),
        "threads": preparing_threads(model.weight.device) if kind != "texts" else 1,
        "items_a_second": round(len(items) / statistics.median(totals), 1),
        "share_of_time_the_model_works": round(statistics.median(shares), 3),
    }


def _seen_before(retriever: Retriever, items: Sequence[Item], cache: ImageCache) -> SeenImages:
    """What encoding makes of images and a cache before its first batch; it counts as time."""
    keys = image_keys([item.image for item in items])
    return SeenImages(retriever.model, for_threads(retriever.inputs), items, [None] * len(items), keys, None, cache)


def preparation_rows(retriever: Retriever, seed: int, rounds: int = 5, count: int = 256) -> list[dict[str, Any]]:
    """Images that are read and made tensors of a second, on one thread and on two, as the model's processor does it and
    with less of Python around the same pixels; medians, in turns."""
    generator = np.random.default_rng(seed)
    found = []
    for size in ((320, 240), (640, 480)):
        items = [Item(image=jpeg(generator, *size), text="a red fox") for _ in range(count)]
        batches = [items[n : n + 32] for n in range(0, count, 32)]
        quick = for_threads(retriever.inputs)
        plain = copy.copy(quick)
        plain.processor = copy.copy(quick.processor)
        plain.processor.image_processor = retriever.processor.image_processor
        ways = [(name, inputs, threads) for threads in (1, 2) for name, inputs in (("plain", plain), ("quick", quick))]
        times: dict[tuple[str, int], list[float]] = {(name, threads): [] for name, _, threads in ways}
        for _ in range(rounds):
            for name, inputs, threads in ways:
                begun = time.perf_counter()
                for _ in prefetched(batches, inputs.features, threads):
                    pass
                times[name, threads].append(time.perf_counter() - begun)
        for threads in (1, 2):
            old, new = times["plain", threads], times["quick", threads]
            row: dict[str, Any] = {"image": f"JPEG {size[0]} x {size[1]}", "threads": threads, "cores": usable_cores()}
            for name, seconds_taken in (("plain", old), ("quick", new)):
                row[f"{name}_images_a_second"] = round(count / statistics.median(seconds_taken), 1)
            row["ratio"] = round(statistics.median(a / b for a, b in zip(old, new, strict=True)), 3)
            found.append(row)
    return found
