"""Tests of what only a GPU can show.

Their bodies run on a CPU as well (PUMA_GPU_REHEARSAL=1), so that they are known to work before a GPU is at hand.

With ``PUMA_GPU_RESULTS`` set to a file, every test's outcome and figures are appended to it as they come: a run that is
stopped leaves what it had.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from support import families


@pytest.fixture(scope="session")
def device() -> str:
    """``cuda``, or in a rehearsal ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("PUMA_GPU_REHEARSAL"):
        return "cpu"
    pytest.skip("no CUDA device (PUMA_GPU_REHEARSAL=1 runs this on the CPU)")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a tiny base with its real processor, by family; each is built once."""
    built: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in built:
            built[family] = families.build(family, tmp_path_factory.mktemp(family) / "base")
        return built[family]

    return of


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = os.environ.get("PUMA_GPU_RESULTS")
    if not path or not (report.when == "call" or report.outcome != "passed"):
        return
    row = {
        "test": report.nodeid.split("::", 1)[-1],
        "outcome": report.outcome,
        "seconds": round(report.duration, 2),
        "figures": dict(report.user_properties),
    }
    if report.failed:
        row["error"] = report.longreprtext[-3000:]
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
