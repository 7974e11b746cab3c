"""The arrays of an adapter file, and the checksum of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import safe_open

from puma.errors import ModelError

SEPARATOR = "::"
"""Between a tensor's name and the short name of one of its arrays."""


def read_arrays(path: str | os.PathLike[str], header: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of an adapter by tensor and short name. Raises ModelError where they are not the header's."""
    with safe_open(path, "np") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no dict)
    if content_digest(tensors) != header["content"]:
        raise ModelError(f"adapter {path}: damaged; its content does not have the checksum it was written with")
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, array in tensors.items():
        name, _, part = key.rpartition(SEPARATOR)
        found.setdefault(name, {})[part] = array
    return found


def content_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays and their names, as hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name}{tensors[name].dtype.str}{tensors[name].shape}".encode() + tensors[name].tobytes())
    return found.hexdigest()
