"""The plain forward pass: the states of all tokens of a batch, and the one at ``[RET]``."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from puma.retriever.pooling import last_token_state

Features = dict[str, torch.Tensor]


def cast_features(model: Any, features: Features) -> Features:
    """The tensors in the type of the model's weights where those are in half precision: not every family casts its
    pixels itself."""
    kind = model.dtype
    if kind not in (torch.bfloat16, torch.float16):
        return features
    floats = {key for key, value in features.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    return {key: value.to(kind) if key in floats else value for key, value in features.items()}


def token_states(model: Any, features: Features) -> torch.Tensor:
    """The states after the final norm of all tokens, [n, length, dim]."""
    return model(**cast_features(model, features), use_cache=False).last_hidden_state


def forward_states(model: Any, features: Features) -> torch.Tensor:
    """The raw (not normalised) states at ``[RET]`` after the final norm, [n, dim], in fp32."""
    return last_token_state(token_states(model, features), features["attention_mask"]).float()


SAMPLED = 4
"""Numbers read of each weight: an optimiser's fused kernel changes weights in place and leaves their version alone."""
_SAMPLES: WeakKeyDictionary[torch.nn.Module, tuple[tuple[int, ...], list[list[torch.Tensor]]]] = WeakKeyDictionary()
"""By the last of the modules: where their weights lay, and views of the numbers that are read, those of a device
together."""


def weights_stamp(*modules: torch.nn.Module) -> bytes:
    """Another value when the weights of modules are others, or have changed in place."""
    tensors = [one for module in modules for one in itertools.chain(module.parameters(), module.buffers())]
    places = tuple(number for one in tensors for number in (one.data_ptr(), one.nbytes))
    known = _SAMPLES.get(modules[-1])
    if known is None or known[0] != places:
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for one in tensors:
            by_device.setdefault(one.device, []).append(_few(one.detach()))
        known = _SAMPLES[modules[-1]] = places, list(by_device.values())
    digest = hashlib.blake2b(np.array(places, dtype=np.uint64).tobytes(), digest_size=16)
    digest.update(np.array([0 if one.is_inference() else one._version for one in tensors], dtype=np.uint64).tobytes())
    for views in known[1]:
        digest.update(torch.cat(views).float().cpu().numpy().tobytes())
    return digest.digest()


def _few(weight: torch.Tensor) -> torch.Tensor:
    """A view of evenly spaced numbers of a tensor, one-dimensional."""
    if not weight.numel() or not weight.is_contiguous():
        return weight.as_strided((min(1, weight.numel()),), (1,))
    return weight.view(-1)[:: max(1, weight.numel() // SAMPLED)][:SAMPLED]
