"""The GPU kit, rehearsed on the CPU: parts travel whole or are refused, a killed run goes on, every step works."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

# It is no package: its scripts import each other by their plain names.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "gpu"))

import parts
import run
import steps

from puma.errors import DataError, InputError

KIT = Path(run.__file__).parent
LIMIT = 100_000


@pytest.fixture
def packed(tmp_path):
    """(source, parts): files smaller and larger than a part, an empty one, long names and others."""
    source = tmp_path / "source"
    sizes = {"a.bin": 250_000, "b/small.txt": 11, "b/empty": 0, "c/exact": LIMIT, f"d/{'long' * 40}": 3_000, "ü.txt": 7}
    for i, (name, size) in enumerate(sizes.items()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(bytes((j * 7 + i) % 251 for j in range(size)))
    for i in range(90):
        (source / f"many/{i}").parent.mkdir(exist_ok=True)
        (source / f"many/{i}").write_bytes(b"x" * (1 + 97 * i % 5000))
    files = {p.relative_to(source).as_posix(): p for p in source.rglob("*") if p.is_file()}
    texts = {name: path for name, path in files.items() if name.startswith("many")}
    rest = {name: path for name, path in files.items() if name not in texts}
    parts.write_parts({"texts": texts, "rest": rest}, tmp_path / "parts", LIMIT)
    return source, tmp_path / "parts"


def test_parts_are_bounded_and_come_together_again(packed, tmp_path):
    source, folder = packed
    assert all(path.stat().st_size <= LIMIT for path in folder.glob("*.tar*"))
    assert len(list(folder.glob("rest-*.tar"))) >= 4
    out = parts.read_parts(folder, tmp_path / "out")
    made = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {parts.MANIFEST}
    assert made == {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert all((out / name).read_bytes() == (source / name).read_bytes() for name in made)
    before = (out / "a.bin").stat().st_mtime_ns
    parts.read_parts(folder, out)
    assert (out / "a.bin").stat().st_mtime_ns == before, "unpacked once"


def test_damaged_and_missing_parts_are_named(packed, tmp_path):
    _, folder = packed
    first, second, *_ = sorted(folder.glob("rest-*.tar"))
    first.write_bytes(first.read_bytes()[:-600])
    second.unlink()
    with pytest.raises(DataError, match=rf"{first.name} .*SHA-256.*{second.name} is missing"):
        parts.read_parts(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"manifest\.json"):
        parts.read_parts(tmp_path, tmp_path / "out")


def test_a_manifest_cannot_write_outside(packed, tmp_path):
    _, folder = packed
    manifest = json.loads((folder / parts.MANIFEST).read_text())
    manifest["files"]["../evil"] = manifest["files"].pop("b/small.txt")
    (folder / parts.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="outside the folder"):
        parts.read_parts(folder, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def step(code, name="one", **options):
    return steps.Step(name, 1.0, lambda *_: ["-c", code.replace("OUT", repr(str(_[1])))], **options)


@pytest.fixture
def here(tmp_path):
    """A run's places, as run.prepared makes them."""
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    options = SimpleNamespace(cpu_small=True, only=None)
    return steps.Run(options, tmp_path / "out", tmp_path / "work", time.monotonic() + 100, dict(os.environ))


def taken(here, one, seconds=60.0):
    run.take(here, one, here.out / "one.json", seconds)
    return json.loads((here.out / "one.json").read_text())


def test_a_step_leaves_its_figures_its_error_or_both(here):
    row = taken(here, step("import json; json.dump([1, 2], open(OUT, 'w'))"))
    assert (row["status"], row["results"]) == ("done", [1, 2])
    assert {"machine", "versions", "command", "seed", "budget_s", "seconds"} <= row.keys()
    row = taken(here, step("import json; json.dump([1], open(OUT, 'w')); raise SystemExit('no memory left')"))
    assert (row["status"], row["results"]) == ("failed", [1])
    assert "no memory left" in row["error"]
    assert taken(here, step("1"), seconds=5)["status"] == "out of time"
    here.environment.pop("PUMA_HOME", None)
    row = taken(here, step("1", needs_parts=True))
    assert row["status"] == "left out"
    assert "--parts" in row["error"]


def test_a_step_that_hangs_is_stopped_with_its_children(tmp_path):
    pid_file = tmp_path / "child"
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']);"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); print('begun', flush=True); time.sleep(99)"
    )
    while True:  # until it had the time to start its child, however slow this machine is
        status, output = run.executed([sys.executable, "-c", code], dict(os.environ), 2.0)
        assert status is None
        if pid_file.is_file() and pid_file.read_text():
            break
    assert "begun" in output
    pid = int(pid_file.read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("its child is alive")


def test_cut_off_lines_are_read_as_far_as_they_go(tmp_path):
    (tmp_path / "rows").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert steps.lines_of(tmp_path / "rows") == [{"a": 1}, {"a": 2}]


def test_the_gpus_tests_are_there_and_skip_without_one():
    import torch

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        str(KIT.parents[1] / "tests/gpu"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PUMA_GPU_REHEARSAL"}
    command += ["--collect-only"] if torch.cuda.is_available() else []
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "one_process_over_nccl" in done.stdout
    if not torch.cuda.is_available():
        assert re.search(r"= \d+ skipped in ", done.stdout)  # none passed, none failed


@pytest.mark.slow
def test_the_whole_rehearsal_goes_on_after_a_kill(tmp_path):
    small = tmp_path / "parts"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(KIT.parents[1] / "src"), str(KIT)])}
    pack = [sys.executable, str(KIT / "pack.py"), "--small", "--out", str(small), "--limit", "0.5"]
    subprocess.run(pack, check=True, env=environment, capture_output=True)
    call = [sys.executable, str(KIT / "run.py"), "--minutes", "5", "--cpu-small", "--parts", str(small)]
    call += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    first = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (tmp_path / "out" / "shape.json").is_file():
        assert first.poll() is None
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    shape = (tmp_path / "out" / "shape.json").read_bytes()
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "[tests] done before" in done.stdout
    assert (tmp_path / "out" / "shape.json").read_bytes() == shape
    finished = json.loads((tmp_path / "out" / "summary.json").read_text())["steps"]
    assert list(finished) == [one.name for one in steps.STEPS]
    assert {row["status"] for name, row in finished.items() if name != "feeding"} == {"done"}
    tests = json.loads((tmp_path / "out" / "tests.json").read_text())["results"]
    assert len(tests) > 35
    assert {row["outcome"] for row in tests} <= {"passed", "skipped"}
    encode = json.loads((tmp_path / "out" / "encode.json").read_text())["results"]["rates"]
    assert [row["kind"] for row in encode] == ["texts", "images", "images with text", "mix"]
    assert min(row["least_cosine"] for row in encode) > 0.999
