"""The plain forward pass: the states of all tokens of a batch, and the one at ``[RET]``."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

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


def weights_stamp(*modules: torch.nn.Module) -> bytes:
    """Another value when the weights of modules are others, or have changed in place."""
    numbers = [
        (tensor.data_ptr(), tensor.nbytes, 0 if tensor.is_inference() else tensor._version)
        for module in modules
        for tensor in itertools.chain(module.parameters(), module.buffers())
    ]
    return hashlib.blake2b(np.array(numbers, dtype=np.uint64).tobytes(), digest_size=16).digest()
