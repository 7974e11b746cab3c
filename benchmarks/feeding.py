"""How fast batches of images are prepared, by worker processes, and how long a model waits for them.

    python benchmarks/feeding.py

A step is the recipe's: 150 pairs, a text and a JPEG of 640 x 480 each (made here, with the spectrum of photographs),
through PUMA's collator and Qwen2-VL's own image processor at the recipe's 4 to 300 tokens an image; the tokenizer is a
small one. For each number of workers: items (texts and images) prepared a second when nobody holds them up, and the
share of its time that a model waits. The model is simulated: the consumer sleeps for --step seconds a batch, as the
processor would while a GPU works; on a machine with more cores the same share falls with the workers it can run.
Then large photographs (4032 x 3024), decoded in full and small (puma.retriever.images.decoding).
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _machine import described
from _photo_like import jpeg
from puma.items import Item, open_image
from puma.retriever.cores import usable_cores
from puma.retriever.images.decoding import decode_side
from puma.retriever.images.image_tokens import limit_image_tokens
from puma.retriever.inputs import Inputs
from puma.retriever.prompts import RET, from_chat_template
from puma.storage.folders import write_json
from puma.training.collating import PairCollator
from puma.training.pairs import Pair
from puma.training.sampling import Rows
from puma.training.workers import batch_loader

WORDS = "Find a picture that matches this caption. a red fox jumps over the blue fence behind an old house in winter"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=150, help="a step")
    parser.add_argument("--batches", type=int, default=6, help="measured for each figure, after the first")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--step", type=float, nargs="+", default=[1.0], help="seconds a step of the simulated model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "feeding.json")
    options = parser.parse_args()
    inputs = Inputs(*processor())
    with tempfile.TemporaryDirectory() as folder:
        pairs = made_pairs(Path(folder), options.pairs, options.seed)
        rows = [row for count in options.workers for row in feeding(inputs, pairs, count, options)]
    result = {
        "format": 1,
        "command": "python benchmarks/feeding.py",
        "seed": options.seed,
        **described(),
        "cores": usable_cores(),
        "pairs_a_step": options.pairs,
        "items_a_step": 2 * options.pairs,
        "image": "JPEG 640 x 480, quality 90",
        "rows": rows,
        "photographs": photographs(inputs.processor, options.seed),
    }
    write_json(options.out, result)
    for row in rows:
        print(row)
    print(result["photographs"])


def feeding(inputs: Inputs, pairs: list[Pair], workers: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the result for one number of workers: with image tensors in fp32 and bf16 and, once, through pipes."""
    batches = [[(0, row) for row in range(len(pairs))] for _ in range(options.batches + 1)]
    rows = []
    ways = [(False, None)] + [(False, torch.bfloat16)] * bool(workers) + [(True, torch.bfloat16)] * (workers == 2)
    for pipes, kind in ways:
        collate = PairCollator(pairs, inputs, pixel_type=kind)
        row: dict[str, Any] = {"workers": workers, "through": "pipes" if pipes else "mapped memory"}
        row["pixels"] = "bf16" if kind else "fp32"
        if not workers:
            row["through"] = "this process"
        begun = time.perf_counter()
        ready = iter(batch_loader(Rows(len(pairs)), batches, collate, workers, pipes=pipes))
        first = next(ready)
        row["first_batch_seconds"] = round(time.perf_counter() - begun, 2)
        row["batch_megabytes"] = round(sum(v.nbytes for v in first.values() if isinstance(v, torch.Tensor)) / 1e6)
        begun = time.perf_counter()
        count = sum(1 for _ in ready)
        seconds = time.perf_counter() - begun
        row["seconds_a_batch"] = round(seconds / count, 3)
        row["items_a_second"] = round(2 * len(pairs) * count / seconds, 1)
        row["waiting"] = {
            str(step): round(waited(pairs, batches, collate, workers, pipes, step), 3) for step in options.step
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def waited(
    pairs: list[Pair], batches: list[Any], collate: PairCollator, workers: int, pipes: bool, step: float
) -> float:
    """The share of its time that a consumer waits which takes ``step`` seconds a batch, the first batch aside."""
    ready = iter(batch_loader(Rows(len(pairs)), batches, collate, workers, pipes=pipes))
    next(ready)
    waiting, begun = 0.0, time.perf_counter()
    for _ in batches[1:]:
        time.sleep(step)
        asked = time.perf_counter()
        next(ready)
        waiting += time.perf_counter() - asked
    return waiting / (time.perf_counter() - begun)


def photographs(multimodal: Any, seed: int, count: int = 8) -> dict[str, Any]:
    """Images a second of 4032 x 3024 pixels through the image processor, in full and decoded small."""
    data = jpeg(np.random.default_rng(seed), 4032, 3024)
    side = functools.partial(decode_side, multimodal)
    found: dict[str, Any] = {"image": "JPEG 4032 x 3024, quality 90"}
    made = []
    for name, least in (("full", None), ("small", side)):
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            opened = open_image(data, least_side=least)
            pixels = multimodal.image_processor(images=[opened], return_tensors="pt")["pixel_values"]
            times.append(time.perf_counter() - begun)
        made.append(pixels.double().flatten())
        found[f"{name}_images_a_second"] = round(1 / float(np.median(times)), 2)
        found[f"{name}_size"] = list(opened.size)
    found["cosine_of_pixels"] = round(float(torch.nn.functional.cosine_similarity(made[0], made[1], 0)), 6)
    return found


def made_pairs(folder: Path, count: int, seed: int) -> list[Pair]:
    generator = np.random.default_rng(seed)
    words = WORDS.split()
    pairs = []
    for n in range(count):
        path = folder / f"{n}.jpg"
        path.write_bytes(jpeg(np.random.default_rng(seed + n), 640, 480))
        text = Item(text=" ".join(generator.choice(words, int(generator.integers(5, 30)))))
        query, candidate = (text, Item(image=path)) if n % 2 else (Item(image=path), text)
        pairs.append(Pair(query, candidate, words[0], 0, f"q{n}", f"1:{n}", frozenset([f"1:{n}"])))
    return pairs


def processor() -> tuple[Any, Any]:
    """Qwen2-VL's processor at the recipe's limits, with a small tokenizer, and the prompt of its chat template."""
    import transformers as t
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    small = Tokenizer(models.BPE())
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    small.decoder = decoders.ByteLevel()
    images = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*SPECIAL, *images.values(), RET],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    small.train_from_iterator([WORDS], trainer)
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=small, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=images
    )
    made = t.Qwen2VLProcessor(
        image_processor=t.Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=t.Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )
    limit_image_tokens(made, 4, 300)
    prompt = from_chat_template(made)
    return made, prompt


if __name__ == "__main__":
    main()
