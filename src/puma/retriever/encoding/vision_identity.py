"""What the outputs of a vision tower depend on beside the image, as a digest that means the same in another process."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Hashable
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import torch

from puma.items.limits import image_memory
from puma.retriever.encoding.states import weights_stamp
from puma.retriever.inputs import Inputs

FORMAT = 1
"""Of the entries; a higher number leaves older ones unread."""
NOT_VISION = ("text_config", "architectures", "_name_or_path", "transformers_version", "matryoshka_dimensions")
"""Entries of a model's configuration that its tower does not know."""
MAKE_PIXELS = ("torch", "torchvision", "transformers", "pillow")
"""Packages that read images and compute: another version may round in another way."""
_KNOWN: WeakKeyDictionary[torch.nn.Module, tuple[bytes, bytes]] = WeakKeyDictionary()
"""Of each model its stamp and, for that, the digest of its weights."""


def processing(inputs: Inputs) -> Hashable:
    """What an image's pixels depend on beside the image."""
    images = inputs.processor.image_processor
    return inputs.draft, type(images).__name__, images.to_json_string()


def vision_identity(
    model: Any, inputs: Inputs, autocast: torch.dtype | None, stamp: bytes | None = None
) -> bytes | None:
    """16 bytes of all that outputs of the tower and an image's tokens depend on: the weights of tower and projector in
    full, the processor, the tokens that stand for an image, the number type, the kind of device and the libraries'
    versions. None where weights are quantised: not all that they are made of is a tensor of the model.

    Args:
        model: one that :func:`puma.retriever.encoding.seen_images.takes_seen_images`.
        inputs: its input maker.
        autocast: the type to compute in; None for the weights' own.
        stamp: :func:`puma.retriever.encoding.states.weights_stamp` of the model, where it is known.
    """
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        return None
    tokenizer = inputs.tokenizer
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_VISION}
    vision = getattr(model.config, "vision_config", None)
    parts = [
        FORMAT,
        [version(name) for name in MAKE_PIXELS],
        config,
        [getattr(one, "_attn_implementation", None) for one in (model.config, vision)],
        processing(inputs),
        image_memory(),  # a JPEG beyond it is decoded smaller
        inputs.prompt.image,
        tokenizer.vocab_size,
        sorted(tokenizer.get_added_vocab().items()),
        [str(model.dtype), str(autocast), model.device.type],
        [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32],
    ]
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16)
    digest.update(_weights(model, stamp or weights_stamp(model)))
    return digest.digest()


def _weights(model: Any, stamp: bytes) -> bytes:
    """A digest of all weights but the decoder's."""
    known = _KNOWN.get(model)
    if known is not None and known[0] == stamp:
        return known[1]
    decoder, embeddings = model.get_decoder(), model.get_input_embeddings()
    others = {id(one) for part in (decoder, embeddings) for one in itertools.chain(part.parameters(), part.buffers())}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    # Where the decoder is all there is, the tower is within it.
    own = [(name, one) for name, one in tensors if id(one) not in others] or tensors
    digest = hashlib.blake2b(digest_size=16)
    for name, one in own:
        digest.update(f"{name} {one.dtype} {tuple(one.shape)} ".encode())
        digest.update(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    _KNOWN[model] = stamp, digest.digest()
    return digest.digest()
