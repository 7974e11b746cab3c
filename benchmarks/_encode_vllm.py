"""vLLM's embedding of items that are listed in files; started by ``_beside_vllm.py`` in vLLM's own environment.

    VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind PYTHON _encode_vllm.py FOLDER MOST_BATCHED_TOKENS

Imports nothing of PUMA. Each line that comes in is ``ITEMS.json OUT.npy``: a list of ``{"prompt": ..., "image": path or
null}``, and where the vectors go; each that goes out begins with ``@@`` and holds the seconds. What vLLM has kept of
earlier lines, prompts and images, is dropped before each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MARK = "@@"


def main() -> None:
    # The engine in this process: a second one would compute on a core of its own.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    model = LLM(
        sys.argv[1],
        runner="pooling",
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=int(sys.argv[2]),
        enforce_eager=True,
        limit_mm_per_prompt={"image": 1, "video": 0},
    )
    import torch

    print(MARK, torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        items, out = line.split()
        entries = json.loads(Path(items).read_text())
        model.reset_prefix_cache()
        model.reset_mm_cache()
        model.llm_engine.reset_encoder_cache()
        begun = time.perf_counter()
        vectors = embed(model, entries)
        taken = time.perf_counter() - begun
        np.save(out, vectors)
        print(MARK, taken, flush=True)


def embed(model: Any, entries: list[dict[str, str]]) -> np.ndarray:
    """One call with all items, which vLLM's scheduler puts into batches; images are opened within it."""
    given = []
    for item in entries:
        entry: dict[str, object] = {"prompt": item["prompt"]}
        if item["image"] is not None:
            with Image.open(item["image"]) as image:
                entry["multi_modal_data"] = {"image": image.convert("RGB")}
        given.append(entry)
    return np.asarray([output.outputs.embedding for output in model.embed(given, use_tqdm=False)], dtype=np.float32)


if __name__ == "__main__":
    main()
