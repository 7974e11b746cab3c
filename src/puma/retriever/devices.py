"""Where a model is put, and what is fast there."""

from __future__ import annotations

import os
from typing import Any

import torch


def default_device() -> str:
    """CUDA where there is one, else the CPU; each process of a group started together takes its own GPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def has_fast_bf16() -> bool:
    """Whether bf16 is faster than fp32 here: on CUDA, and on CPUs with bf16 instructions. On others it is emulated, and
    slower."""
    if torch.cuda.is_available():
        return True
    tell = getattr(torch.cpu, "get_capabilities", None)  # an older torch cannot tell
    capabilities: dict[str, Any] = dict(tell()) if tell else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
