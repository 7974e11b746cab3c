"""onnxruntime's sessions, with as many threads as the process may use. Loads no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from puma.errors import ModelError, first_line
from puma.retriever.cores import usable_cores


def thread_count() -> int:
    """Threads of a pass: ``OMP_NUM_THREADS``, as torch has them, else the cores that this process may use.
    (onnxruntime's own default is every core of the machine.)"""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else usable_cores()


def session(file: Path) -> Any:
    """A graph, ready to run on the CPU.

    Raises:
        ModelError: the file, or that of its weights, is damaged or missing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    # Threads that wait busily after a batch would keep a search, which comes then, from the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's own classes, which share no base
        raise ModelError(f"{file}: cannot be loaded ({first_line(error)}); export the model again") from None
