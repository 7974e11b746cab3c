"""Streamed search killed at any point, by real ``kill -9``, and started again: the same results, and the work is not
done twice. Also states of other searches, of a changed file, and of a process that is still at it."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from puma.errors import InputError, StorageError
from puma.index.exact import planning
from puma.index.exact import resume as checkpoints
from puma.index.exact import streamed as bulk
from puma.index.exact.streamed import ranks_of_positives_streamed, top_k

SCRIPT = """
import json, os, signal, sys, time, zipfile
import numpy as np
from puma.index.exact import planning, ranking, selection
from puma.index.exact import resume as checkpoints
from puma.index.exact import streamed as bulk

call, folder, dies_at, seconds, threads, pause = sys.argv[1:]
planning.BLOCKS = (64,)
checkpoints.SECONDS, checkpoints.SHARE = float(seconds), 1e9
count = {}


def dying(owner, name, point, after=False):
    whole = getattr(owner, name)

    def wrapped(*arguments, **keywords):
        count[point] = count.get(point, 0) + 1
        dies = dies_at == f"{point} {count[point]}"
        if dies and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **keywords)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(pause) if point == "visited" else 0)
        return result

    setattr(owner, name, wrapped)


dying(selection.Selection, "visit", "visited")
dying(ranking.Counting, "visit", "visited")
dying(selection.Selection, "merge", "merged", after=True)
dying(zipfile.ZipFile, "open", "half written")
dying(checkpoints.os, "replace", "written", after=True)
dying(checkpoints.Checkpoints, "drop", "dropping")
dying(bulk, "in_order", "ending")
plan = bulk.plan_for
bulk.plan_for = lambda *arguments: bulk.Plan(9, 64, plan(*arguments).threads)
data = np.load(f"{folder}/queries.npy"), f"{folder}/pool.npy"
if call == "top_k":
    ids, scores = bulk.top_k(*data, 30, threads=int(threads), work=f"{folder}/work")
    result = [ids.tolist(), scores.tolist()]
else:
    positives = [[n, 2 * n + 1] for n in range(len(data[0]))]
    result = [row.tolist() for row in bulk.ranks_of_positives_streamed(*data, positives, threads=int(threads),
                                                                       work=f"{folder}/work")]
print(json.dumps({"result": result, "visited": count.get("visited", 0)}))
"""


def near_units(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    rows[count // 2 :] = rows[: count - count // 2] * (1 + 1e-7)  # twins all over: the earlier one goes first
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "queries.npy", near_units(17, 16, 0))
    np.save(tmp_path / "pool.npy", near_units(1300, 16, 1).astype(np.float16))  # 21 blocks, in 2 passes of queries
    return tmp_path


def start(folder, call, dies_at="never", seconds=0.0, threads=1, pause=0.0):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), call, folder, dies_at, seconds, threads, pause]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment)


def finished(process):
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return json.loads(output)


def uninterrupted(folder, call):
    queries, pool = np.load(folder / "queries.npy"), np.load(folder / "pool.npy")
    if call == "top_k":
        return [array.tolist() for array in top_k(queries, pool, 30)]
    positives = [[n, 2 * n + 1] for n in range(len(queries))]
    return [row.tolist() for row in ranks_of_positives_streamed(queries, pool, positives)]


@pytest.mark.parametrize(
    ("call", "points"),
    [
        ("top_k", ["visited 1", "half written 9", "written 3", "merged 9", "ending 1", "dropping 1", "ending 1"]),
        ("ranks", ["half written 2", "visited 8", "written 6"]),
    ],
)
def test_killed_at_every_kind_of_point_and_started_again(folder, call, points):
    for number, point in enumerate(points):
        with start(folder, call, point, threads=1 + number % 2) as process:
            assert process.wait(timeout=120) == -signal.SIGKILL, f"never came to {point!r}"
    found = finished(start(folder, call))
    assert found["result"] == uninterrupted(folder, call)
    assert found["visited"] < 21 * (2 if call == "top_k" else 1)
    again = finished(start(folder, call, threads=2))
    assert (again["result"], again["visited"]) == (found["result"], 0)  # the result itself was kept
    assert not list((folder / "work").glob("*.part"))
    assert not list((folder / "work").glob("*.running.[0-9]*"))


def test_a_kill_while_the_state_is_written_leaves_the_one_before(folder):
    with start(folder, "top_k", "half written 75") as process:  # six arrays a state: in the thirteenth
        assert process.wait(timeout=120) == -signal.SIGKILL
    assert list((folder / "work").glob("*.part"))
    found = finished(start(folder, "top_k"))
    assert found["result"] == uninterrupted(folder, "top_k")
    assert found["visited"] == 2 * 21 - 12


def killed_at_random(folder, call, seed, kills):
    chance = random.Random(seed)
    for _ in range(kills):
        with start(folder, call, seconds=chance.choice([0, 0.02]), threads=2, pause=0.05) as process:
            work = folder / "work"
            while process.poll() is None and not list(work.glob("*.lock")):
                time.sleep(0.005)  # until it is at it, however long Python takes to start
            time.sleep(chance.random())
            process.kill()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert finished(start(folder, call))["result"] == uninterrupted(folder, call)


@pytest.mark.parametrize("call", ["top_k", "ranks"])
def test_killed_at_random_moments(folder, call):
    killed_at_random(folder, call, 0, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("call", ["top_k", "ranks"])
def test_killed_at_many_random_moments(folder, call, seed):
    killed_at_random(folder, call, seed, kills=8)


def interrupted(patch, arguments, after, **keywords):
    """A search that stops after some merged blocks, its state on the disk."""
    patch.setattr(planning, "BLOCKS", (100,))
    patch.setattr(checkpoints, "SECONDS", 0)
    patch.setattr(checkpoints, "SHARE", 1e9)
    merge = bulk.Selection.merge

    def stopping(self, start, kept):
        if start >= after * 100:
            raise KeyboardInterrupt
        merge(self, start, kept)

    with patch.context() as inner:
        inner.setattr(bulk.Selection, "merge", stopping)
        with pytest.raises(KeyboardInterrupt):
            top_k(*arguments, **keywords)


def visits(patch):
    seen = []
    visit = bulk.Selection.visit
    patch.setattr(bulk.Selection, "visit", lambda self, start, *rest: seen.append(start) or visit(self, start, *rest))
    return seen


def test_it_goes_on_where_it_was_on_another_budget_and_number_of_threads(tmp_path, monkeypatch):
    queries, pool = near_units(8, 16, 0), near_units(1000, 16, 1)
    interrupted(monkeypatch, (queries, pool, 9), 6, work=tmp_path, threads=2)
    seen = visits(monkeypatch)
    monkeypatch.setattr(planning, "BLOCKS", (37,))
    found = top_k(queries, pool, 9, work=tmp_path, memory="64GB", threads=1)  # of the whole test process
    assert min(seen) == 600
    for own, expected in zip(found, top_k(queries, pool, 9), strict=True):
        np.testing.assert_array_equal(own, expected)


def test_states_of_other_searches_are_not_taken(tmp_path, monkeypatch):
    queries, pool = near_units(8, 16, 0), near_units(1000, 16, 1)
    np.save(tmp_path / "pool.npy", pool)
    interrupted(monkeypatch, (queries, tmp_path / "pool.npy", 9), 6, work=tmp_path / "work")
    seen = visits(monkeypatch)
    other = near_units(1000, 16, 2)
    np.save(tmp_path / "pool.npy", other)
    for arguments in (
        (queries, tmp_path / "pool.npy", 9),
        (queries[::-1], pool, 9),
        (queries, pool, 8),
    ):
        seen.clear()
        found = top_k(*arguments, work=tmp_path / "work")
        assert min(seen) == 0
        np.testing.assert_array_equal(found[0], top_k(*arguments)[0])


def test_a_state_that_cannot_be_read_is_done_again(tmp_path, monkeypatch):
    queries, pool = near_units(8, 16, 0), near_units(1000, 16, 1)
    interrupted(monkeypatch, (queries, pool, 9), 6, work=tmp_path)
    (state,) = tmp_path.glob("*.npz")
    state.write_bytes(state.read_bytes()[:100])
    np.testing.assert_array_equal(top_k(queries, pool, 9, work=tmp_path)[0], top_k(queries, pool, 9)[0])


def test_two_processes_are_not_at_one_search(folder):
    with start(folder, "top_k", pause=0.5) as process:
        while not list((folder / "work").glob("*.running.*.npz")):
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(InputError, match=r"another process is at this very search there"):
            top_k(np.load(folder / "queries.npy"), folder / "pool.npy", 30, work=folder / "work")
        top_k(np.load(folder / "queries.npy"), folder / "pool.npy", 31, work=folder / "work")  # another search may
        process.kill()


def test_a_work_folder_that_cannot_be_is_an_error_of_storage(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        top_k(near_units(2, 4, 0), near_units(8, 4, 1), 2, work=tmp_path / "file")
