"""Evaluating, mining and embedding survive kill -9 at any moment and are shared between processes, to the same bits."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.cli import app as cli
from puma.errors import ImageError, InputError
from puma.evaluation.mbeir import evaluate
from puma.evaluation.stored.resumable import Resumable, Wanted, Work, made_with, opened_store
from puma.items import Item
from puma.items.encoder import embed_readable
from support import benchmarks
from support.embedding_child import Batched
from support.encoders import ToyEncoder

TESTS = Path(__file__).parents[1]
BATCH = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return benchmarks.published(tmp_path_factory.mktemp("resumable") / "M-BEIR")


@pytest.fixture
def items(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 90, 10)).save(tmp_path / f"images/{number}.png")
    with_image = [Item(image=tmp_path / f"images/{number}.png") for number in range(6)]
    return with_image + [Item(text=f"red green {number}") for number in range(11)]


def embedded(folder, items, encoder, resume=True, batch_size=BATCH):
    wanted = Wanted("items", lambda: items, len(items), "Find it.")
    said = []
    values = made_with(encoder, batch_size)
    with opened_store(folder, "test", values, Work(resume=resume, say=said.append)) as store:
        vectors, readable, faults = Resumable(encoder, store, batch_size=batch_size, progress=False).embedded(wanted)
        return np.array(vectors), readable, faults, said


def test_the_vectors_are_those_of_one_pass_in_memory(items, tmp_path):
    (tmp_path / "images/2.png").write_bytes(b"no image")
    expected = embed_readable(Batched(), items, instruction="Find it.", batch_size=BATCH)
    first = embedded(tmp_path / "work", items, Batched())
    for mine, plain in zip(first[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(mine, plain)
    assert first[2] == expected[2]
    assert [place for place, _ in first[2]] == [2]
    encoder = Batched()
    again = embedded(tmp_path / "work", items, encoder)
    assert encoder.calls == 0
    np.testing.assert_array_equal(again[0], first[0])
    assert again[2] == first[2]  # with the reason, though nothing was opened
    assert (first[3], len(again[3])) == ([], 1)
    assert again[3][0].startswith("17 vectors were there already")


class Refusing(ToyEncoder):
    """Refuses an image that can be opened, as a processor with limits does."""

    def encode(self, items, *, instruction=None):
        for item in items:
            if Path(item.image_name).name == "red.jpg":
                raise ImageError(f"{item.image_name}: the model's image processor refuses it (too narrow)")
        return super().encode(items, instruction=instruction)


def test_an_image_that_the_model_refuses_is_left_out_listed_and_remembered(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: Refusing())
    plain = evaluate(Refusing(), root, tasks=["nights"], progress=False)
    assert plain["nights_task4"]["skipped"] == 2  # as a query and as a candidate
    assert all("too narrow" in line for line in plain["nights_task4"]["skipped_items"])
    assert evaluate(Refusing(), root, tasks=["nights"], work=tmp_path / "work", progress=False) == plain
    for command in commands(root, root / "mbeir_images", tmp_path / "out"):
        assert cli.main([str(part) for part in [*command, "--model", "toy"]]) == 0
        assert "too narrow" in capsys.readouterr().err


def test_changed_items_are_embedded_again_and_only_their_parts(items, tmp_path):
    embedded(tmp_path / "work", items, Batched())
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images/1.png")
    items[16] = Item(text="blue")
    encoder = Batched()
    vectors = embedded(tmp_path / "work", items, encoder)[0]
    assert encoder.calls == 5 + 2
    expected = embed_readable(Batched(), items, instruction="Find it.", batch_size=BATCH)[0]
    np.testing.assert_array_equal(vectors, expected)
    shorter = items[:7]
    np.testing.assert_array_equal(
        embedded(tmp_path / "work", shorter, Batched())[0],
        embed_readable(Batched(), shorter, instruction="Find it.", batch_size=BATCH)[0],
    )


def test_another_model_or_batch_has_a_store_of_its_own_and_one_can_start_anew(items, tmp_path):
    embedded(tmp_path / "work", items, ToyEncoder())
    for other, batch_size in ((ToyEncoder(fingerprint="toy-2"), BATCH), (ToyEncoder(), BATCH + 1)):
        embedded(tmp_path / "work", items, other, batch_size=batch_size)
        assert other.calls == 17
    encoder = ToyEncoder()
    embedded(tmp_path / "work", items, encoder, resume=False)
    assert encoder.calls == 17


KILLED = """
import sys
sys.path[:0] = {paths!r}
from support.embedding_child import Batched
from puma.evaluation.mbeir import evaluate
evaluate(Batched({left}), {root!r}, work={work!r}, batch_size=5, progress=False, instruction="all", details=True)
"""


MOMENTS = [1, 10, 73, *(pytest.param(left, marks=pytest.mark.slow) for left in (0, 6, 9, 30))]
"""Batches before the kill, of 10 of candidates and 64 of queries: at the first, between the two, at the last."""


@pytest.mark.parametrize("left", MOMENTS)
def test_an_evaluation_killed_anywhere_goes_on_to_the_same_figures(root, tmp_path, left):
    options = {"batch_size": 5, "progress": False, "instruction": "all", "details": True}
    whole = Batched()
    expected = evaluate(whole, root, run_dir=tmp_path / "whole", **options)
    paths = [str(TESTS), *[path for path in sys.path if path]]
    code = KILLED.format(paths=paths, left=left, root=str(root), work=str(tmp_path / "work"))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    encoder = Batched()
    found = evaluate(encoder, root, run_dir=tmp_path / "again", work=tmp_path / "work", **options)
    assert found == expected
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    batches = [5] * 9 + [3] * 65
    assert whole.calls == sum(batches)
    assert encoder.calls == sum(batches[left:])
    assert not list((tmp_path / "work").iterdir())


def test_two_runs_of_one_evaluation_at_once_are_refused(root, tmp_path):
    class Second(ToyEncoder):
        def encode(self, items, *, instruction=None):
            with pytest.raises(InputError, match="another run is at work on the same"):
                evaluate(ToyEncoder(), root, tasks=["nights"], work=tmp_path, progress=False)
            return super().encode(items, instruction=instruction)

    assert evaluate(Second(), root, tasks=["nights"], work=tmp_path, progress=False)


def commands(root, images, out):
    """One of each command, with results in ``out``."""
    return [
        ["evaluate", "--root", root, "--json-out", out / "e.json", "--run-dir", out / "runs"],
        ["mine", "--root", root, "--out", out / "mined", "--split", "val", "-n", "2", "--margin", "2"],
        ["embed", images, "--out", out / "v.npz"],
    ]


def child(tmp_path, given, *, left=-1, ranks=0):
    start = [sys.executable]
    if ranks:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-addr", "127.0.0.1"]
        start += ["--master-port", port]
    plain = json.dumps([[str(part) for part in command] for command in given])
    paths = [str(TESTS), *[path for path in sys.path if path]]
    return subprocess.run(
        [*start, str(TESTS / "support" / "embedding_child.py"), str(left), str(BATCH), str(tmp_path / "log"), plain],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PUMA_HOME": str(tmp_path / "home"),
            "PUMA_MODEL": "toy",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def results(out):
    """Every file under a folder with its bytes, but for what links lead to."""
    found = {}
    for folder, _, names in os.walk(out):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(out))] = path.read_bytes().replace(os.fsencode(out), b"OUT")
    return found


@pytest.fixture(scope="module")
def uninterrupted(root, tmp_path_factory):
    """The results of one process that nothing disturbs, and how many items each command embedded."""
    place = tmp_path_factory.mktemp("uninterrupted")
    done = child(place, commands(root, root / "mbeir_images", place / "out"))
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line)["calls"] for line in (place / "log").read_text().splitlines()]
    assert calls == [96, 96, 30]
    return results(place / "out")


def test_every_command_goes_on_after_a_kill(root, tmp_path, uninterrupted):
    out, left = tmp_path / "out", {"evaluate": 12, "mine": 12, "embed": 4}
    for command in commands(root, root / "mbeir_images", out):
        killed = child(tmp_path, [command], left=left[command[0]])
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    # what they left is beside their results, or in the cache
    again = child(tmp_path, commands(root, root / "mbeir_images", out))
    assert again.returncode == 0, again.stderr
    kept = re.findall(r"^(\d+) vectors were there already \(.*\); going on", again.stderr, re.MULTILINE)
    assert kept == [str(48 + 2 * 3), str(48 + 2 * 3), "20"]
    calls = [json.loads(line)["calls"] for line in (tmp_path / "log").read_text().splitlines()]
    assert calls == [96 - 54, 96 - 54, 30 - 20]
    assert results(out) == uninterrupted
    assert not list((tmp_path / "home" / "evaluations").iterdir())
    assert not list(out.glob(".*"))


def test_two_processes_share_the_work_and_write_the_same(root, tmp_path, uninterrupted):
    done = child(tmp_path, commands(root, root / "mbeir_images", tmp_path / "out"), ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    calls = {command: {} for command in ("evaluate", "mine", "embed")}
    for line in lines:
        calls[line["command"]][line["rank"]] = line["calls"]
    for command, total in (("evaluate", 96), ("mine", 96), ("embed", 30)):
        assert sum(calls[command].values()) == total
        assert min(calls[command].values()) >= total // 3, command
    assert results(tmp_path / "out") == uninterrupted
    assert done.stdout.count("M-BEIR, local pools") == 1  # only the first one speaks


@pytest.mark.slow
def test_killed_with_several_processes_one_process_goes_on(root, tmp_path, uninterrupted):
    command = commands(root, root / "mbeir_images", tmp_path / "out")[:1]
    killed = child(tmp_path, command, left=6, ranks=2)
    assert killed.returncode != 0
    again = child(tmp_path, command)
    assert again.returncode == 0, again.stderr
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["calls"] <= 96 - 2 * 6 * 3
    assert {name for name in uninterrupted if name[0] in "er"} == set(results(tmp_path / "out"))
    assert all(uninterrupted[name] == data for name, data in results(tmp_path / "out").items())


def test_without_room_on_the_disk_an_evaluation_runs_in_memory(root, tmp_path, monkeypatch, capsys):
    from puma.storage import vectors

    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(vectors.shutil, "disk_usage", lambda _: usage)
    arguments = ["evaluate", "--root", str(root), "--model", "toy", "--tasks", "nights"]
    assert cli.main(arguments) == 0
    output = capsys.readouterr()
    assert "cannot be resumed" in output.err
    assert "NIGHTS" in output.out
    assert cli.main([*arguments, "--work", str(tmp_path / "work")]) == 1
    assert "name a folder on another disk (--work)" in capsys.readouterr().err
