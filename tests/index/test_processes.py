"""Several processes at one index, and some that are killed at random moments: nothing acknowledged is ever lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from puma.errors import IndexMismatchError, StorageError
from puma.index import Index, maintenance, reader, tables
from support import index_child
from support.index_child import BATCH, DIM, rows_of, shrink


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-W", "error", str(Path(index_child.__file__)), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process):
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    return out.split()


@pytest.fixture
def small(monkeypatch):
    """The bounds of :func:`index_child.shrink`, here too."""
    for module, name in (
        (reader, "FLAT_ROWS"),
        (maintenance, "FRAGMENTS"),
        (maintenance, "ROWS_A_FRAGMENT"),
        (maintenance, "SEGMENTS"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    shrink()


def check_whole(path, acknowledged):
    """Every acknowledged batch is there with everything that came with it, and nothing is damaged."""
    index = Index(path, create=False)
    # A kill can leave what came before the row (its image), never a row without it.
    assert index.verify() == []
    sources = index.sources(["/w"])
    for batch in acknowledged:
        rows = rows_of("w", batch)
        found = index.get(rows["ids"])
        assert [found[name].payload for name in rows["ids"]] == rows["payloads"]
        assert [found[name].thumbnail for name in rows["ids"]] == [image is not None for image in rows["thumbnails"]]
        assert set(zip(rows["sources"], rows["ids"], strict=True)) <= sources
    if acknowledged:
        sample = rows_of("w", acknowledged[-1])
        assert index.search(sample["vectors"][3], 1)[0][0].id == sample["ids"][3]
        assert index.thumbnail(sample["ids"][3]) == sample["thumbnails"][3]
    return index


def kill_again_and_again(path, kills, seed):
    """Writers killed at random moments, every second one while another process compacts (and is killed too)."""
    moments = random.Random(seed)
    acknowledged: list[int] = []
    for kill in range(kills):
        children = [start("write", path, "w", len(acknowledged), 100_000)]
        if kill % 2 and acknowledged:
            children.append(start("compact", path, 100_000))
        first = [child.stdout.readline() for child in children]
        assert all(first), [child.stderr.read() for child in children if child.poll() is not None]
        time.sleep(moments.random() * 0.5)
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        lines = [first[0], *children[0].stdout.read().splitlines()]
        for child in children:
            child.communicate()
            assert child.returncode == -signal.SIGKILL
        acknowledged += [int(line) for line in lines]
        assert acknowledged == list(range(len(acknowledged)))  # each rerun went on where the last one was
        index = check_whole(path, acknowledged[-12:])
        assert len(index) in (BATCH * len(acknowledged), BATCH * (len(acknowledged) + 1))  # whole batches
    check_whole(path, acknowledged)
    index.compact()
    assert index.verify() == []
    index.add(**rows_of("w", len(acknowledged)))  # the batch that was under way, once more
    assert len(index) == BATCH * (len(acknowledged) + 1)


def test_kills_at_random_moments_lose_nothing_acknowledged(tmp_path, small):
    kill_again_and_again(tmp_path / "i", kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_kills_at_random_moments_lose_nothing_acknowledged(tmp_path, small):
    kill_again_and_again(tmp_path / "i", kills=30, seed=2)


def test_writers_readers_and_compaction_at_once(tmp_path, small):
    path = tmp_path / "i"
    Index(path, dim=DIM)
    index = Index(path)
    for batch in range(8):
        index.add(**rows_of("x", batch))
    children = [start("write", path, "w", 0, 6), start("write", path, "v", 0, 6)]
    children += [start("read", path, 8), start("compact", path, 2)]
    assert [int(finished(child)[-1]) for child in children][:2] == [5, 5]
    assert len(index) == 20 * BATCH
    check_whole(path, range(6))
    assert index.sources(["/v"]) == {pair for b in range(6) for pair in zip(*_sources("v", b), strict=True)}
    index.compact()
    assert index.verify() == []


def _sources(prefix, batch):
    rows = rows_of(prefix, batch)
    return rows["sources"], rows["ids"]


def test_threads_of_one_process_write_and_read_at_once(tmp_path, small):
    index = Index(tmp_path / "i", dim=DIM)
    index.add(**rows_of("a", 0))
    faults = []

    def work(prefix):
        try:
            for batch in range(4):
                index.add(**rows_of(prefix, batch))
                assert len(index.search(rows_of(prefix, batch)["vectors"], 3)) == BATCH
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(prefix,)) for prefix in "bcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(index) == 13 * BATCH
    assert index.verify() == []


def test_a_writer_waits_for_the_lock_and_says_so_when_it_does_not_come(tmp_path, monkeypatch):
    index = Index(tmp_path / "i", dim=DIM)
    with tables.locked(tmp_path / "i", "write"):
        monkeypatch.setattr(tables, "LOCK_SECONDS", 0.05)
        with pytest.raises(StorageError, match="another process has been writing this index"):
            index.add(**rows_of("a", 0))
        assert index.search(rows_of("a", 0)["vectors"], 3) == [[]] * BATCH  # readers wait for nobody
    index.add(**rows_of("a", 0))
    assert len(index) == BATCH


def test_upkeep_is_done_by_one_process_at_a_time(tmp_path, small):
    index = Index(tmp_path / "i", dim=DIM)
    with tables.locked(tmp_path / "i", "upkeep"):
        for batch in range(8):
            index.add(**rows_of("a", batch))  # another is at it: nobody waits
        assert index.stats()["search"] == "exact"
        assert index.stats()["fragments"] == 8
    index.add(**rows_of("a", 8))
    assert index.stats()["search"] == "ivf_rq"
    assert index.stats()["fragments"] < 8


@pytest.mark.parametrize("threads", [2, 6])
def test_creations_at_once_all_go_on(tmp_path, threads):
    for turn in range(10):
        path, barrier, faults = tmp_path / f"{turn}", threading.Barrier(threads), []

        def create(n, path=path, barrier=barrier, faults=faults):
            barrier.wait()
            try:
                Index(path, dim=8, fingerprint="f").add([f"{n}"], np.eye(8)[n : n + 1], ["text"])
            except Exception as error:
                faults.append(error)

        running = [threading.Thread(target=create, args=(n,)) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert not faults
        assert len(Index(path)) == threads


def test_of_two_creations_of_different_lengths_one_is_refused(tmp_path):
    barrier, found = threading.Barrier(2), []

    def create(dim):
        barrier.wait()
        try:
            found.append(Index(tmp_path / "i", dim=dim).dim)
        except IndexMismatchError as error:
            found.append(str(error))

    running = [threading.Thread(target=create, args=(dim,)) for dim in (4, 8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert sum(isinstance(one, int) for one in found) == 1
    assert sum("holds vectors of length" in str(one) for one in found) == 1
