"""Batches of worker processes: the same as without, through shared memory or pipes, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from puma.errors import DataError, InputError, ModelError
from puma.items import Item
from puma.retriever.model import Retriever
from puma.training import workers
from puma.training.collating import PairCollator
from puma.training.pairs import Pair
from puma.training.sampling import Rows
from puma.training.workers import batch_loader, default_workers, onto, worker_errors

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # the tests may have one core
BATCHES = [[(epoch, 4 * n + i) for i in range(4)] for epoch in range(2) for n in range(3)]


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Twelve pairs with images, one of which cannot be read."""
    root = tmp_path_factory.mktemp("images")
    made = []
    for n in range(12):
        path = root / f"{n}.jpg"
        Image.new("RGB", (300 + n, 200), (20 * n, 0, 100)).save(path)
        query = Item(text="word " * n + "query", image=path if n % 3 == 0 else None)
        made.append(Pair(query, Item(image=path), "Find it.", n % 2, f"q{n}", f"1:{n}", frozenset([f"1:{n}"])))
    (root / "5.jpg").write_bytes(b"broken")
    return made


def same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == right[key].dtype, key
                assert value.stride() == right[key].stride(), key
                assert torch.equal(value, right[key]), key
            else:
                assert value == right[key]


@pytest.mark.parametrize("pipes", [False, True])
def test_workers_make_the_same_batches(pairs, retriever, pipes):
    """An unreadable image among them; through mapped memory, and where there is none."""
    collate = PairCollator(pairs, retriever.inputs, chunks=2, teacher=Lengths())
    plain = list(batch_loader(Rows(12), BATCHES, collate, 0))
    assert sum(len(batch["chunk0_puma_replaced"]) for batch in plain) == 2
    for count in (1, 3):
        made = list(batch_loader(Rows(12), BATCHES, collate, count, pipes=pipes))
        same(plain, made)


class Lengths:
    """A teacher that can be pickled."""

    def __call__(self, item, instruction):
        import numpy as np

        return np.full(3, len(item.text or ""), dtype=np.float32)


class Layouts:
    def __call__(self, rows):
        n = rows[0]["row"]
        image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(n))
        return {
            "last": image.contiguous(memory_format=torch.channels_last),
            "slice": image[:, :, 1:3],
            "none": torch.zeros(0, 2, dtype=torch.int64),
            "bool": torch.tensor([True, False, True]),
            "half": image.bfloat16(),
            "number": torch.tensor(n),
            "word": "message",
        }


def test_a_parcel_keeps_types_values_and_layouts():
    plain = list(batch_loader(Rows(12), BATCHES, Layouts(), 0))
    for pipes in (False, True):
        for left, right in zip(plain, batch_loader(Rows(12), BATCHES, Layouts(), 1, pipes=pipes), strict=True):
            assert list(left) == list(right)
            assert right["last"].is_contiguous(memory_format=torch.channels_last)
            for key, value in left.items():
                assert value == right[key] if key == "word" else torch.equal(value, right[key]), key


class Refuses:
    def __call__(self, rows):
        if rows[0]["row"] == 4:
            raise DataError("pairs.jsonl, line 4: none of your business")
        return {"row": torch.tensor(rows[0]["row"])}


def test_an_error_in_a_worker_comes_as_it_was_raised():
    with pytest.raises(DataError) as caught:
        list(batch_loader(Rows(12), BATCHES, Refuses(), 1))
    assert type(caught.value) is DataError
    assert str(caught.value) == "pairs.jsonl, line 4: none of your business"


def test_what_cannot_be_pickled_is_done_here_and_said(caplog):
    loader = batch_loader(Rows(12), BATCHES, lambda rows: {"row": torch.tensor(rows[0]["row"])}, 2)
    assert loader.num_workers == 0
    assert [int(batch["row"]) for batch in loader] == [0, 4, 8, 0, 4, 8]
    assert "workers=2" in caplog.text
    with pytest.raises(InputError, match="workers=-1"):
        batch_loader(Rows(12), BATCHES, Refuses(), -1)


def test_batches_take_no_room_in_dev_shm():
    """docker gives 64 MB of it. Nor many open files: a batch of 40 tensors is one, as long as it is on its way."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = {path.name for path in Path("/dev/shm").glob("torch_*")} if Path("/dev/shm").is_dir() else set()
    # Other tests of this process may have left files open, those of Milvus Lite for one.
    taken = max((int(path.name) for path in Path("/proc/self/fd").glob("*")), default=30)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, taken + 70), hard))
    try:
        iterator = iter(batch_loader(Rows(12), BATCHES * 9, Large(), 2))
        held = [next(iterator) for _ in range(20)]
        open_now = {path.name for path in Path("/dev/shm").glob("torch_*")} if Path("/dev/shm").is_dir() else set()
        assert open_now <= before
        assert [float(batch["t39"].sum()) for batch in held[:3]] == [0.0, 4 * 50_000, 8 * 50_000]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Large:
    def __call__(self, rows):
        batch = {f"t{n}": torch.tensor(n) for n in range(39)}
        return {**batch, "t39": torch.full((50_000,), float(rows[0]["row"]))}


TRAINER = """
import os, sys, time
import torch
from puma.training.workers import batch_loader
from puma.training.sampling import Rows
loader = batch_loader(Rows(400), [[(0, n)] for n in range(400)], COLLATE, 2)
iterator = iter(loader)
batch = next(iterator)
print("workers", *batch["pid"].tolist(), *next(iterator)["pid"].tolist(), flush=True)
time.sleep(60)
"""


def script(tmp_path, text):
    """A module of the collator beside a script without a guard."""
    (tmp_path / "collates.py").write_text(
        "import os, torch\n"
        "class Pid:\n    def __call__(self, rows):\n        return {'pid': torch.tensor([os.getpid()])}\n"
    )
    path = tmp_path / "script.py"
    path.write_text("from collates import Pid\nCOLLATE = Pid()\n" + text)
    return [sys.executable, "-W", "ignore", str(path)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    """All processes that descend from this one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_a_killed_training_leaves_no_process_behind(tmp_path):
    """It is a script without a guard, too."""
    run = subprocess.Popen(script(tmp_path, TRAINER), stdout=subprocess.PIPE, text=True)
    try:
        words = run.stdout.readline().split()
        assert words[0] == "workers"
        pids = {int(word) for word in words[1:]}
        assert len(pids) == 2
        everything = children(run.pid)
        assert pids < everything, "two workers, their server, multiprocessing's tracker"
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        run.stdout.close()
    for _ in range(400):
        if not any(map(alive, everything)):
            break
        time.sleep(0.05)
    assert not [pid for pid in everything if alive(pid)]


ENDED = """
import os, signal
from puma.training.workers import batch_loader, worker_errors
from puma.training.sampling import Rows
with worker_errors(1):
    for batch in batch_loader(Rows(400), [[(0, n)] for n in range(400)], COLLATE, 1):
        os.kill(int(batch["pid"][0]), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do(tmp_path):
    run = subprocess.run(script(tmp_path, ENDED), capture_output=True, text=True, timeout=120, check=False)
    assert "puma.errors.InputError: workers=1: a process that prepares batches was ended from outside" in run.stderr


def test_worker_errors_leaves_others_alone():
    with pytest.raises(RuntimeError, match=r"^shapes$"), worker_errors(1):
        raise RuntimeError("shapes")
    with pytest.raises(InputError, match=r"workers=3.*fewer workers"), worker_errors(3):
        raise RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly")
    with pytest.raises(ModelError), worker_errors(1):
        raise ModelError("x")


def test_workers_by_cores(pairs, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for cores, expected in ((1, 0), (2, 1), (6, 5), (64, workers.MOST)):
        monkeypatch.setattr(workers, "usable_cores", lambda cores=cores: cores)
        assert default_workers(pairs, accelerator=True) == expected
        assert default_workers(pairs, accelerator=False) == 0
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers(pairs, accelerator=True) == 3
    texts = [Pair(Item(text="a"), Item(text="b"), None, 1, "q", "c", frozenset())]
    assert default_workers(texts, accelerator=True) == 0
    monkeypatch.undo()
    assert 1 <= workers.usable_cores() <= (os.cpu_count() or 1)


def test_onto_moves_tensors_alone():
    moved = onto({"a": torch.ones(2), "word": "message", "inner": {"b": torch.ones(1)}}, "meta")
    assert moved["a"].device.type == moved["inner"]["b"].device.type == "meta"
    assert moved["word"] == "message"
