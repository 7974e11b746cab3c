"""Several processes train what one would: real ones, started by torchrun and by accelerate, on gloo and the CPU.

This file is its own child: run as a program it is one of the processes.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import InputError
from puma.items import Item
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.distributed import average_gradients, equalise, processes, wait
from puma.training.pairs import Pair
from puma.training.run_folder import MARK, PARTS, latest_checkpoint
from puma.training.teacher.dual_depth import DualDepth
from puma.training.validation import Validation
from training.test_two_stages import texts, two_stages
from training.test_validation import benchmark

RANKS = 2
PLAIN = TrainConfig(
    steps=4, batch_size=4, lora_rank=0, save_steps=2, precision="fp32", learning_rate=1e-4, warmup=0.0, symmetric=True
)
LORA = replace(PLAIN, lora_rank=4, lora_alpha=8, lora_dropout=0.0)
SCENARIOS = {
    # few images, so that a process meets batches without any and has no gradient for the projector
    "plain": replace(PLAIN, projector_rate=1e-4),
    "cache": replace(PLAIN, grad_cache=3, hard_negatives=2, modality_dropout=0.5, gradient_checkpointing=True),
    "accumulated": replace(PLAIN, accumulate=2, batch_size=3),
    "bf16 base": replace(LORA, precision="bf16", learning_rate=1e-5),
    "shared": replace(LORA, distillation_weight=0.5, teacher="shared", distillation="relational", decay=0.0),
    "mapped": replace(PLAIN, distillation_weight=0.5, distillation="cosine", distillation_map=True),
    "rows": replace(PLAIN, distillation_weight=0.5, distillation="row-softmax", distillation_within="modality"),
    "exits": replace(PLAIN, loss="split-mac", exits=(1,), exit_distillation=0.5),
}


FSDP = {
    "full": PLAIN,
    "lora": LORA,
    # in some steps one process has no image, in some none has
    "projector": replace(LORA, projector_rate=1e-4, batch_size=2, steps=8),
    "shared": SCENARIOS["shared"],
}
EVALUATED = replace(LORA, steps=9, learning_rate=3e-2, eval_every=1, patience=4, save_steps=1)


def make_pairs():
    def drawn(i):
        return Image.fromarray(np.full((64, 64, 3), (i * 37) % 255, dtype=np.uint8))

    pairs = []
    for i in range(36):
        query = Item(text=f"thing {i}", image=drawn(i)) if i % 12 == 0 else Item(text=f"thing {i}")
        task, candidate = (0, Item(image=drawn(i + 5))) if i % 12 == 1 else (1, Item(text=f"word {i}"))
        # not every query has as many negatives: processes hold different numbers of candidates
        negatives = tuple((f"n{i}{k}", Item(text=f"not {i} {k}")) for k in range(i % 3))
        known = frozenset([f"c{i}", f"c{(i + 1) % 36}"])
        pairs.append(Pair(query, candidate, "Find it.", task, f"q{i}", f"c{i}", known, negatives))
    return pairs


class Taught:
    """A teacher of texts with a width of its own: a state is drawn by its text."""

    dim = 12

    def __call__(self, item, instruction):
        if item.text is None:
            return None
        return np.random.default_rng(zlib.crc32(item.text.encode())).normal(size=self.dim).astype(np.float32)


def trained(base, config, out, **options):
    """Weights after training; the same call on one process and on many."""
    shared = config.teacher == "shared"
    retriever = Retriever.from_base(base, layers=None if shared else 2, prompt="open-quote", device="cpu")
    teacher = Taught() if config.distillation_weight else None
    if shared:
        teacher = DualDepth(retriever.model, 2, ret_id=retriever.inputs.ret_id)
    result = train(retriever, make_pairs(), config, out, teacher=teacher, show_progress=False, **options)
    return {name: value.clone() for name, value in retriever.model.state_dict().items()}, result


def finish(path, weights):
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in weights.items()}, f"{path}-{processes()[0]}.st")


def child(base, out, steps):
    rank = int(os.environ["RANK"])
    if steps:  # a long run, to be killed
        trained(base, replace(LORA, steps=steps, lora_dropout=0.1), out / "run")
        return
    for name, config in SCENARIOS.items():
        # Each process gets its own folder: the second's must stay away.
        weights, result = trained(base, config, out / f"{name}-run-{rank}")
        finish(out / name, weights)
        if rank == 0:
            (out / f"{name}.json").write_text(json.dumps(result.log))
    resumable = replace(LORA, lora_dropout=0.1, modality_dropout=0.5)
    finish(out / "whole", trained(base, resumable, out / "run")[0])
    cut_back(out / "run")
    finish(out / "resumed", trained(base, resumable, out / "run")[0])
    held_out = Validation.read(out / "val") if rank == 0 else None
    weights, result = trained(base, EVALUATED, out / "evaluated-run", validation=held_out)
    finish(out / "evaluated", weights)
    (out / f"evaluated-{rank}.json").write_text(json.dumps(asdict(result)))
    check_averages(rank)
    two_stages(base, out / "data", out / "model", batch_size=2)
    try:
        trained(base, replace(PLAIN, batch_size=30), out / "never")
    except InputError as error:
        (out / f"error-{rank}").write_text(str(error))


def cut_back(run):
    """As if killed while the last checkpoint was written."""
    wait()
    if processes()[0] == 0:
        shutil.rmtree(max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1])))
        (run / "checkpoint-3").mkdir()  # half-written: no mark
    wait()


def child_of_fsdp(base, out):
    """The road that accelerate takes with accelerators only: the test says that the CPU is one."""
    import accelerate.state
    from accelerate.utils import DistributedType

    def prepared(self, *args, **kwargs):
        return "gloo", DistributedType.MULTI_XPU

    def placed(self):
        self.device = torch.device("cpu")

    torch.distributed.init_process_group("gloo")
    accelerate.state.PartialState._prepare_backend = prepared
    accelerate.state.PartialState.set_device = placed
    for name, config in FSDP.items():
        finish(out / name, trained(base, config, out / f"{name}-run")[0])
        cut_back(out / f"{name}-run")
        finish(out / f"{name}-resumed", trained(base, config, out / f"{name}-run")[0])
    assert (out / "full-run" / "checkpoint-4" / "pytorch_model_fsdp_0").is_dir(), "sharded, not replicated"
    try:
        trained(base, replace(PLAIN, tower_rate=1e-4), out / "never")
    except InputError as error:
        (out / f"error-{processes()[0]}").write_text(str(error))


def check_averages(rank):
    weights = [torch.nn.Parameter(torch.full((3,), float(rank))) for _ in range(3)]
    equalise(weights)
    assert all(float(weight.sum()) == 0 for weight in weights), "the first process's values"
    weights[0].grad = torch.full((3,), 1.0 + rank)
    if rank == 1:
        weights[1].grad = torch.full((3,), 4.0)
    average_gradients(weights)
    assert weights[0].grad.tolist() == [1.5] * 3
    assert weights[1].grad.tolist() == [2.0] * 3, "a gradient that the first lacks counts as zero there"
    assert weights[2].grad is None


def command(launcher, base, out, steps=0, **extra):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if launcher == "torchrun":
        start = ["torch.distributed.run", "--nproc_per_node", str(RANKS), "--master_addr", "127.0.0.1"]
        start += ["--master_port", port]
    else:
        start = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(RANKS), "--num_machines", "1"]
        start += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_ip", "127.0.0.1"]
        start += ["--main_process_port", port]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": "", **extra}
    return [sys.executable, "-m", *start, __file__, str(base), str(out), str(steps)], environment


def launched(launcher, base, out, **extra):
    line, environment = command(launcher, base, out, **extra)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def loaded(path):
    from safetensors.torch import load_file

    return load_file(path)


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.fixture(scope="module")
def both(base, tmp_path_factory):
    """One launch of two processes for all that is asked of them."""
    out = tmp_path_factory.mktemp("both")
    texts(out / "data")
    benchmark(out / "val")
    launched("torchrun", base, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_two_processes_train_what_one_does_with_the_whole_batch(both, base, tmp_path, name):
    config = replace(SCENARIOS[name], batch_size=RANKS * SCENARIOS[name].batch_size)
    alone, result = trained(base, config, tmp_path / "alone")
    start = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu").model.state_dict()
    moved = difference(alone, start)
    assert difference(loaded(both / f"{name}-0.st"), loaded(both / f"{name}-1.st")) == 0.0
    apart = difference(loaded(both / f"{name}-0.st"), alone)
    assert apart < 1e-5 < moved
    log = json.loads((both / f"{name}.json").read_text())
    assert [entry["loss"] for entry in log] == pytest.approx([entry["loss"] for entry in result.log], abs=1e-3)


@pytest.mark.slow
def test_the_first_process_evaluates_and_all_take_the_best(both, base, tmp_path):
    whole = replace(EVALUATED, batch_size=RANKS * EVALUATED.batch_size)
    alone, result = trained(base, whole, tmp_path / "alone", validation=Validation.read(both / "val"))
    first, second = (json.loads((both / f"evaluated-{rank}.json").read_text()) for rank in range(RANKS))
    figures = [[row["eval_hit_mean"] for row in log if "eval_hit_mean" in row] for log in (first["log"], result.log)]
    assert figures[0] == figures[1]
    assert first["best_step"] == second["best_step"] == result.best_step
    assert first["steps"] == second["steps"] == result.steps
    assert difference(loaded(both / "evaluated-0.st"), loaded(both / "evaluated-1.st")) == 0.0
    assert difference(loaded(both / "evaluated-0.st"), alone) < 1e-3


@pytest.mark.slow
def test_only_the_first_process_writes(both):
    for name in SCENARIOS:
        assert (both / f"{name}-run-0" / "log.json").is_file()
        assert not (both / f"{name}-run-1").exists()
    assert (both / "plain-run-0" / "checkpoint-4" / "rng_state_1.pth").is_file(), "the other's dropout goes on, too"


@pytest.mark.slow
def test_two_processes_resume_where_they_were(both):
    assert difference(loaded(both / "whole-0.st"), loaded(both / "resumed-0.st")) == 0.0
    assert not (both / "run" / "checkpoint-3").exists()


@pytest.mark.slow
def test_a_batch_too_large_for_all_is_refused_by_all(both):
    for rank in range(RANKS):
        assert "batch_size=30 on each of 2 processes" in (both / f"error-{rank}").read_text()


@pytest.mark.slow
def test_two_stages_on_two_processes_make_one_retriever(both, base, tmp_path):
    """The teacher's states are computed in two parts; the batch is as large as one process's."""
    alone = two_stages(base, both / "data", tmp_path / "alone", batch_size=2 * RANKS)
    assert len(alone["distil"]) == 2
    names = ["0-of-2", "1-of-2"]
    assert sorted(path.name for path in (both / "model.work" / "teacher").iterdir()) == names
    one, two = (Retriever.from_pretrained(path, device="cpu") for path in (tmp_path / "alone", both / "model"))
    assert difference(one.model.state_dict(), two.model.state_dict()) < 1e-4  # the store keeps fp16


@pytest.mark.slow
def test_fsdp2_trains_the_same_and_resumes(base, tmp_path):
    settings = {
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    }
    launched("torchrun", base, tmp_path, ACCELERATE_USE_FSDP="true", **settings)
    for name, config in FSDP.items():
        alone, _ = trained(base, replace(config, batch_size=RANKS * config.batch_size), tmp_path / f"{name}-alone")
        for part in (f"{name}-0", f"{name}-1", f"{name}-resumed-0"):
            assert difference(loaded(tmp_path / f"{part}.st"), alone) < 1e-5
    assert "FSDP2 does not go with tower_rate" in (tmp_path / "error-0").read_text()


@pytest.mark.slow
def test_accelerate_launch_and_kill_minus_nine_of_both(base, tmp_path):
    line, environment = command("accelerate", base, tmp_path, steps=300)
    child = subprocess.Popen(
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob(f"run/checkpoint-*/{MARK}")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = child.poll() is None
    if alive:
        os.killpg(child.pid, signal.SIGKILL)
    errors = child.communicate()[1].decode()
    assert alive, errors[-4000:]
    kept = latest_checkpoint(tmp_path / "run")
    assert loaded(Path(kept) / "trainable.safetensors")
    stored = {"distillation_weight": 0.5, "distillation": "relational"}
    with pytest.raises(InputError, match="processes"):  # its targets belong to the pairs that two processes meet
        trained(base, replace(LORA, steps=300, lora_dropout=0.1, **stored), tmp_path / "run")
    done = int(kept.rsplit("-", 1)[1])
    steps = done + 4
    _, result = trained(base, replace(LORA, steps=steps, lora_dropout=0.1), tmp_path / "run")
    assert result.steps == steps
    parts = json.loads((tmp_path / "run" / f"checkpoint-{steps}" / PARTS).read_text())
    assert parts == [[RANKS, done], [1, 4]]


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP"):
        child_of_fsdp(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
