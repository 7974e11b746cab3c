"""Exported retrievers, and the command line where torch and transformers cannot be imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ABSENT = ("torch", "torchvision", "transformers", "sentence_transformers", "onnx", "onnxscript", "gguf")
"""What the light run-time does without."""
LIGHTLY = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # as if it were not installed
from puma.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def needs_onnx() -> None:
    """Skip the calling module where the ``onnx`` extra is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'puma-retrieval[onnx]'")


def exported(base: Path, out: Path, **options: Any) -> Path:
    """A retriever of a base's first two layers, as ONNX."""
    from puma.retriever.model import Retriever
    from puma.retriever.onnx.exporting import export_onnx

    retriever = Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")
    export_onnx(retriever, out, source=str(base), **options)
    return out


@contextmanager
def graphs_of(folder: Path) -> Iterator[None]:
    """Within the block an export takes the graphs of another one of the same model, which saves making them: for tests
    of what comes after that."""
    from puma.retriever.onnx import exporting

    def copied(*arguments: Any, **_: Any) -> None:
        (target,) = (given for given in arguments if isinstance(given, Path))
        for file in folder.glob(f"{target.name}*"):  # large weights lie beside a graph
            shutil.copyfile(file, target.with_name(file.name))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_text_graph", "write_vision_graph"):
            patch.setattr(exporting, name, copied)
        yield


def lightly(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command of puma in a process that can import neither torch nor transformers."""
    command = [sys.executable, "-c", LIGHTLY, *map(str, words)]
    environment = {**os.environ, "PUMA_HOME": str(cwd / "home"), "PUMA_DEBUG": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
