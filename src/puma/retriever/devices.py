"""Where a model is put."""

from __future__ import annotations

import os

import torch


def default_device() -> str:
    """CUDA where there is one, else the CPU; each process of a group started together takes its own GPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
