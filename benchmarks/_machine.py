"""What a result's row says of the machine and the versions it came from."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "sentence-transformers")


def described() -> dict[str, Any]:
    """``machine`` and ``versions``, no name or path of the machine among them."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, GPU: {gpu}",
        "versions": {name: version(name) for name in PACKAGES},
    }
