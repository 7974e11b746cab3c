"""One process under torchrun, over NCCL: the way a run on several GPUs begins. On a CPU the same over gloo.

This file is its own child: run as a program it is that process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

pytestmark = pytest.mark.gpu


def child(base: Path, out: Path) -> None:
    from gpu_material import make_pairs
    from test_training import LORA, fresh

    from puma.training import train
    from puma.training.distributed import join, processes

    device = join()
    if not distributed.is_initialized():  # accelerate makes no group for one process on a CPU
        distributed.init_process_group("gloo")
    sum_of = torch.ones(3, device=device)
    distributed.all_reduce(sum_of)
    gathered = [torch.zeros_like(sum_of)]
    distributed.all_gather(gathered, sum_of)
    retriever = fresh(base, str(device))
    log = train(retriever, make_pairs(), LORA, out / "run", show_progress=False).log
    output = {
        "backend": distributed.get_backend(),
        "device": device.type,
        "processes": processes(),
        "sum": gathered[0].tolist(),
        "loss": [row["loss"] for row in log],
    }
    (out / "output.json").write_text(json.dumps(output))
    distributed.destroy_process_group()


def test_one_process_over_nccl(bases, device, tmp_path, record_property):
    from gpu_material import make_pairs
    from test_training import LORA, stage

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", __file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), *sys.path])}
    done = subprocess.run(
        [*command, str(bases("qwen2_vl")), str(tmp_path)],
        check=False, capture_output=True, text=True, env=environment, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    output = json.loads((tmp_path / "output.json").read_text())
    assert output["backend"] == ("nccl" if device == "cuda" else "gloo")
    assert output["device"] == device
    assert output["processes"] == [0, 1]
    assert output["sum"] == [1.0, 1.0, 1.0]
    _, _, alone = stage(bases("qwen2_vl"), LORA, device, tmp_path / "alone", make_pairs())
    difference = max(abs(a - row["loss"]) for a, row in zip(output["loss"], alone.log, strict=True))
    record_property("backend", output["backend"])
    record_property("loss_difference", difference)
    assert difference < 1e-3


if __name__ == "__main__":
    child(Path(sys.argv[1]), Path(sys.argv[2]))
