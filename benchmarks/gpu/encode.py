"""Items a second that PUMA and sentence-transformers embed with the same model: texts, images, both, and a mix.

    python benchmarks/gpu/encode.py --out encode.json --seconds 60          Qwen2-VL-2B's shape, 12 layers, bf16
    python benchmarks/gpu/encode.py --out encode.json --seconds 20 --quick  a small shape: a rehearsal

The weights are random, which changes neither speed nor memory; the processor is the published one with a stand-in
tokenizer (one token a letter), so that lengths are known: log-normal, 24 tokens in the median, 450 at most. Images are
JPEG files of 640 x 480, 800 x 600 and 480 x 640 pixels, read and decoded in the measured time, of at most 300 tokens.
Needs ``tests`` on the path (published_bases).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from puma.pruning import prune
from puma.pruning.processors import load_processor
from puma.pruning.shapes import config_of
from puma.retriever.images.image_tokens import limit_image_tokens
from puma.retriever.model import Retriever
from puma.retriever.prompts import from_chat_template
from puma.retriever.ret_token import add_ret_token
from puma.retriever.sentence_transformers import sentence_transformer
from puma.storage.folders import write_json
from support import published_bases

INSTRUCTION = "Find an image that matches the given text."
LAYERS = 12
SIZES = ((640, 480), (800, 600), (480, 640))
KINDS = ("texts", "images", "images with text", "mix")
BATCH = 64
MOST = 4096
"""Items of one measurement at most."""


def main() -> None:
    options = arguments()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    until = time.monotonic() + options.seconds
    found: dict[str, Any] = {
        "model": "Qwen2-VL-2B's shape, scaled down" if options.quick else "Qwen2-VL-2B's shape",
        "layers": LAYERS if not options.quick else 2,
        "batch_size": BATCH if not options.quick else 8,
        "command": " ".join(["python", *sys.argv]),
        "seed": options.seed,
        "rates": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        retriever = random_retriever(Path(scratch) / "base", device, options)
        plain = sentence_transformer(retriever)
        paths = photographs(Path(scratch), 16 if options.quick else 128, options.seed)
        for number, kind in enumerate(KINDS):
            seconds = (until - time.monotonic()) / (len(KINDS) - number)
            found["rates"].append(measured(kind, retriever, plain, paths, seconds, found["batch_size"], options.seed))
            print(json.dumps(found["rates"][-1]), flush=True)
            write_json(options.out, found)


def measured(
    kind: str, retriever: Retriever, plain: Any, paths: list[Path], seconds: float, batch: int, seed: int
) -> dict[str, Any]:
    """Rates of both on the same items, each warmed up, and how far their vectors differ."""

    def ours(items: list[Any]) -> np.ndarray:
        return retriever.encode(items, instruction=INSTRUCTION, batch_size=batch)

    def theirs(items: list[Any]) -> np.ndarray:
        opened = [
            item if isinstance(item, str) else {**item, "image": Image.open(item["image"])} for item in items
        ]  # a path would do as well, were a mistyped one not embedded as text
        return plain.encode(opened, prompt=INSTRUCTION, batch_size=batch, show_progress_bar=False)

    few = items_of(kind, batch, paths, seed)
    first, second = ours(few), theirs(few)
    start = time.monotonic()
    ours(few)
    once = time.monotonic() - start
    count = int(max(1, min(MOST // batch, seconds * 0.3 / max(once, 1e-6)))) * batch
    items = items_of(kind, count, paths, seed + 1)
    return {
        "kind": kind,
        "items": count,
        "puma": round(count / timed(lambda: ours(items)), 2),
        "sentence_transformers": round(count / timed(lambda: theirs(items)), 2),
        "least_cosine": round(float((first * second).sum(1).min()), 6),
    }


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call that ends with vectors on the CPU."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def items_of(kind: str, count: int, paths: list[Path], seed: int) -> list[Any]:
    """Items of a kind; the mix is four parts texts, three images, three images with text."""
    draw = random.Random(seed)

    def text() -> str:
        length = min(450, max(3, round(draw.lognormvariate(3.18, 0.9))))
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz    ", k=length)).strip() or "text"

    def one(kind: str) -> Any:
        if kind == "texts":
            return text()
        image = {"image": draw.choice(paths)}
        return image if kind == "images" else {**image, "text": text()}

    kinds = [kind] if kind != "mix" else ["texts"] * 4 + ["images"] * 3 + ["images with text"] * 3
    return [one(kinds[i % len(kinds)]) for i in range(count)]


def photographs(folder: Path, count: int, seed: int) -> list[Path]:
    """JPEG files of smooth noise: about as large and as slow to decode as photographs."""
    numbers, paths = np.random.default_rng(seed), []
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
        grain = numbers.normal(0, 8, (size[1], size[0], 3))
        pixels = np.clip(np.asarray(coarse, np.float32) + grain, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=88)
    return paths


def random_retriever(folder: Path, device: str, options: argparse.Namespace) -> Retriever:
    """A retriever of the shape with random weights, made where it will be."""
    from transformers import AutoConfig, AutoModel

    values = json.loads(json.dumps(published_bases.LAYOUTS["qwen2_vl"].config))
    if options.quick:
        values.update(hidden_size=96, intermediate_size=192, num_attention_heads=3, num_key_value_heads=1)
        values.update(num_hidden_layers=4, rope_scaling={"type": "mrope", "mrope_section": [4, 6, 6]})
        values["vision_config"].update(depth=2, embed_dim=64, num_heads=2, hidden_size=96)
    published_bases.write_small_files("qwen2_vl", folder, values)
    config = AutoConfig.from_pretrained(folder) if options.quick else config_of("Qwen/Qwen2-VL-2B-Instruct")
    torch.manual_seed(options.seed)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=dtype)
    prune(model, 2 if options.quick else LAYERS)
    processor = load_processor(folder)
    limit_image_tokens(processor, 4, 16 if options.quick else 300)
    prompt = from_chat_template(processor)
    add_ret_token(model, processor, prompt)
    return Retriever(model, processor, prompt)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file of results")
    parser.add_argument("--seconds", type=float, default=60, help="for everything together, about")
    parser.add_argument("--device", help="cuda or cpu; by default cuda where there is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a small shape")
    return parser.parse_args()


if __name__ == "__main__":
    main()
