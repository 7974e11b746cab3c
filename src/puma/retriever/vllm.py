"""A retriever as a folder that vLLM serves: the weights under the names of the family's whole class.

vLLM finds a model by its class with a language model's head, and turns that into an embedder itself
(``--runner pooling``): last token, unit length. The folder's chat template ends in ``[RET]``, so what is sent as chat
``messages`` is read as PUMA reads it.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from puma.errors import InputError, ModelError
from puma.pruning.cards import CARD
from puma.retriever.model import Retriever
from puma.storage.folders import write_json, written_folder

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "llava")
"""Families (transformers' ``model_type``) whose vectors vLLM 0.32 was seen to give alike
(tests/retriever/test_vllm.py). It has no class for FastVLM, and did not find Gemma3's image placeholders."""
RENAMED = {"llava": ("vision_tower.", "vision_tower.vision_model.")}
"""Families whose tensors transformers 5 writes under shorter names than their published checkpoints have, which are
those that vLLM reads: the beginning of a name, and what stands there instead."""


def export_vllm(retriever_folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a retriever's folder for vLLM. PUMA and sentence-transformers load the same folder, with the same vectors.

    Args:
        retriever_folder: a retriever's folder or hub name.
        out: the folder to make; it appears only when whole.

    Returns:
        ``out``.

    Raises:
        InputError: no such retriever, or ``out`` is there already.
        ModelError: the family is not in :data:`FAMILIES`, or the retriever cannot be loaded.
    """
    if Path(out).exists():
        raise InputError(f"out={os.fspath(out)!r}: exists; give another folder or remove it first")
    retriever = Retriever.from_pretrained(retriever_folder, device="cpu")
    family = str(retriever.model.config.model_type)
    if family not in FAMILIES:
        raise ModelError(
            f"model {os.fspath(retriever_folder)!r}: of the family {family!r}, whose vectors vLLM was not seen to give "
            f"alike; of {', '.join(FAMILIES)} it was. puma serve answers /v1/embeddings in the same shape"
        )
    whole = copy.copy(retriever)
    whole.model = with_head(retriever.model)
    with written_folder(out) as work:
        whole.save_pretrained(work, replace=True)
        if family in RENAMED:
            rename_tensors(work, *RENAMED[family])
        with open(work / CARD, "a", encoding="utf-8") as card:
            card.write(_usage(retriever))
    return Path(out)


def with_head(model: Any) -> Any:
    """A bare multimodal model inside its family's class with a language model's head, which is its token embeddings.

    The weights are shared, not copied. A retriever has no head of its own and an embedder needs none; tied to the token
    embeddings it takes no room in the file.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = copy.deepcopy(model.config)
    for part in (config, config.get_text_config(decoder=True)):
        part.tie_word_embeddings = True
    with torch.device("meta"):
        whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
    whole.model = model
    whole.tie_weights()
    return whole.eval()


def rename_tensors(folder: Path, start: str, instead: str) -> None:
    """Give the tensors of a folder whose names begin so another beginning, where they have it not yet."""

    def renamed(name: str) -> str:
        return instead + name.removeprefix(start) if name.startswith(start) and not name.startswith(instead) else name

    for file in folder.glob("*.safetensors"):
        save_file({renamed(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    for file in folder.glob("*.safetensors.index.json"):
        index = json.loads(file.read_text(encoding="utf-8"))
        index["weight_map"] = {renamed(name): place for name, place in index["weight_map"].items()}
        write_json(file, index)


def _usage(retriever: Retriever) -> str:
    limit = retriever.prompt.max_text_tokens
    return f"""
## vLLM

```bash
vllm serve this-folder --runner pooling --max-model-len 4096 --limit-mm-per-prompt '{{"image": 1, "video": 0}}'
```

Send `messages` to `/v1/embeddings`, so that the chat template is used; a plain `input` would be read without it. A
system message is the instruction of a query:

```python
import requests

image = {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,..."}}}}
text = {{"type": "text", "text": "a red fox"}}
instruction = {{"role": "system", "content": "Find an image."}}
body = {{"model": "this-folder", "messages": [instruction, {{"role": "user", "content": [image, text]}}]}}
vector = requests.post("http://localhost:8000/v1/embeddings", json=body).json()["data"][0]["embedding"]
```

vLLM does not cut a text at {limit} tokens as PUMA does, and its image processing may differ slightly. Compare the two
with `puma doctor --parity this-folder --server http://localhost:8000`.
"""
