"""vLLM's embedding of items that are listed in a file; run by ``encode.py --vllm`` in vLLM's own environment.

    VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind PYTHON _encode_vllm.py FOLDER ITEMS.json OUT.npz ROUNDS

Imports nothing of PUMA. ITEMS.json holds a list of calls, each a list of ``{"prompt": ..., "image": path or null}``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    from vllm import LLM

    folder, calls, out, rounds = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), sys.argv[3], int(sys.argv[4])
    model = LLM(
        folder,
        runner="pooling",
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=4096,
        enforce_eager=True,
        limit_mm_per_prompt={"image": 1, "video": 0},
    )
    seconds = []
    embed(model, [call[:4] for call in calls])
    for _ in range(rounds):
        begun = time.perf_counter()
        vectors = embed(model, calls)
        seconds.append(time.perf_counter() - begun)
    np.savez(out, seconds=np.array(seconds), vectors=vectors)


def embed(model: object, calls: list[list[dict[str, str]]]) -> np.ndarray:
    rows = []
    for call in calls:
        given = []
        for item in call:
            entry: dict[str, object] = {"prompt": item["prompt"]}
            if item["image"] is not None:
                with Image.open(item["image"]) as image:
                    entry["multi_modal_data"] = {"image": image.convert("RGB")}
            given.append(entry)
        rows += [output.outputs.embedding for output in model.embed(given, use_tqdm=False)]  # type: ignore[attr-defined]
    return np.asarray(rows, dtype=np.float32)


if __name__ == "__main__":
    main()
