"""Cache keys of teacher states: digests of everything about teacher and image that the states depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from puma.items.digest import image_digest
from puma.items.item import ImageSource
from puma.retriever.model import Retriever
from puma.retriever.weight_samples import weight_samples

IMAGE_BYTES = 16


def teacher_facts(teacher: Retriever, autocast: torch.dtype | None = None) -> dict[str, str]:
    """What a teacher's states depend on, each as a short digest: by these a store knows its own teacher.

    ``weights`` samples every tensor (as :attr:`puma.retriever.model.Retriever.fingerprint` does) without the ``[RET]``
    row, which has a digest of its own, since it is what one base's retrievers differ in.
    """
    inputs = teacher.inputs
    table = teacher.model.get_input_embeddings().weight

    def without_ret(weight: torch.Tensor) -> torch.Tensor:
        return weight[: inputs.ret_id] if weight.data_ptr() == table.data_ptr() else weight

    weights = b"".join(weight_samples(teacher.model.state_dict(), without_ret))
    images = teacher.processor.image_processor
    pixels = f"{type(images).__name__} {images.to_json_string()} stored {teacher.vision is not None}"
    kind = next(teacher.model.parameters()).dtype if autocast is None else autocast
    return {
        "weights": digest(weights),
        "[RET] row": digest(table[inputs.ret_id].detach().float().cpu().numpy().tobytes()),
        "prompt": digest(json.dumps(inputs.prompt.to_dict(), sort_keys=True).encode()),
        "tokenizer": digest(_tokenizer(inputs.tokenizer)),
        "pixel limits and image backend": digest(pixels.encode()),
        "number type": str(kind).removeprefix("torch."),
    }


def image_identity(image: ImageSource) -> bytes:
    """16 bytes that tell an image from another by content: of a file or its bytes, the bytes; else the pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    return image_digest(image)[:IMAGE_BYTES]


def digest(data: bytes) -> str:
    """64 bits of a hash, as 16 letters."""
    return hashlib.sha256(data).hexdigest()[:16]


def _tokenizer(tokenizer: Any) -> bytes:
    """How texts are cut into tokens, without the padding and truncation that a used tokenizer remembers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
    settings = json.loads(backend.to_str())
    return json.dumps({**settings, "truncation": None, "padding": None}, sort_keys=True).encode()
