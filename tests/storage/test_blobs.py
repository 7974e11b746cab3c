"""Bytes on a disk: whole or absent, within the bound, shared by processes, and no reason to stop."""

import copy
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys

import pytest

from puma.errors import InputError, StorageError
from puma.storage.blobs import LEAST_BYTES, BlobStore

MIB = 2**20


def key(n):
    return n.to_bytes(16, "big")


def value(n, size=20_000):
    return (n.to_bytes(4, "big") * size)[:size]


def test_what_is_put_is_there_for_the_next_run_and_for_copies(tmp_path):
    store = BlobStore(tmp_path / "a" / "b", 4 * MIB)
    store.put({key(n): value(n) for n in range(5)})
    store.put({key(0): value(7)})
    expected = {key(0): value(7), key(3): value(3)}
    copies = [BlobStore(tmp_path / "a" / "b", 4 * MIB), copy.deepcopy(store), pickle.loads(pickle.dumps(store))]
    for one in (store, *copies):
        assert one.get([key(0), key(3), key(9)]) == expected
        assert one.present([key(0), key(9)]) == {key(0)}
        assert len(one) == 5
    store.close()
    assert (store.get([key(0)]), store.present([key(0)]), len(store)) == ({}, set(), 0)


def test_what_was_used_longest_ago_makes_room_and_the_file_stays_small(tmp_path, monkeypatch):
    store = BlobStore(tmp_path, 2 * MIB)
    monkeypatch.setattr("puma.storage.blobs.USED_AGAIN_S", 0)
    for n in range(400):  # 8 MB
        store.put({key(n): value(n)})
        assert store.get([key(0)]), n
        assert store.path.stat().st_size <= 2 * MIB
    assert 60 < len(store) < 110
    assert store.present(key(n) for n in range(1, 300)) == set()
    assert set(store.get(key(n) for n in range(390, 400))) == {key(n) for n in range(390, 400)}
    store.put({key(1000): value(1, 2 * MIB)})  # more than half
    assert store.present([key(0), key(1000)]) == {key(0)}
    store.close()
    smaller = BlobStore(tmp_path, MIB)
    assert smaller.path.stat().st_size <= MIB
    assert len(smaller.get(key(n) for n in range(400))) == len(smaller) > 20


def test_many_values_at_once_stay_within_the_bound(tmp_path):
    store = BlobStore(tmp_path, 4 * MIB)
    store.put({key(n): value(n) for n in range(1000)})
    assert store.path.stat().st_size <= 4 * MIB
    assert 150 < len(store) <= 210


def test_a_damaged_value_is_absent_and_a_damaged_file_is_told_once(tmp_path, caplog):
    store = BlobStore(tmp_path, 4 * MIB)
    store.put({key(n): value(n) for n in range(40)})
    store.close()
    data = bytearray(store.path.read_bytes())
    place = data.index(value(5)[:2000])
    data[place + 100] ^= 1
    store.path.write_bytes(data)
    found = BlobStore(tmp_path, 4 * MIB).get(key(n) for n in range(40))
    assert found == {key(n): value(n) for n in range(40) if n != 5}
    for damage in (data[: len(data) // 2], b"nothing of the kind " * 400, bytes(data[:4096]) + b"\7" * 90_000):
        store.path.write_bytes(damage)
        for beside in tmp_path.glob("*-*"):
            beside.unlink()
        caplog.clear()
        broken = BlobStore(tmp_path, 4 * MIB)
        for n in range(40):
            assert broken.get([key(n)]) in ({}, {key(n): value(n)})
            broken.put({key(n + 100): value(n)})
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "going on without it" in caplog.text
        broken.close()


def test_a_value_of_another_key_or_kind_is_absent(tmp_path):
    store = BlobStore(tmp_path, 4 * MIB)
    store.put({key(1): value(1), key(2): value(2), key(3): value(3)})
    with sqlite3.connect(store.path) as connection:
        connection.execute(
            "UPDATE held SET value = (SELECT value FROM held WHERE key = ?) WHERE key = ?", [key(1), key(2)]
        )
        connection.execute("UPDATE held SET value = 'text' WHERE key = ?", [key(3)])
    connection.close()
    assert set(store.get([key(1), key(2), key(3)])) == {key(1)}


def test_no_place_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache=.*file: is a file; give a folder's path"):
        BlobStore(tmp_path / "file", MIB, what="cache")
    with pytest.raises(StorageError, match="cannot be written"):
        BlobStore(tmp_path / "file" / "below", MIB)
    (tmp_path / "taken" / "blobs.sqlite3").mkdir(parents=True)
    with pytest.raises(
        StorageError, match=r"cache=.*taken: cannot be written .unable to open database file.; give another"
    ):
        BlobStore(tmp_path / "taken", MIB, what="cache")
    for wrong in (0, LEAST_BYTES - 1, True, 2.5 * MIB):
        with pytest.raises(InputError, match="most_bytes="):
            BlobStore(tmp_path / "new", wrong)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_of_others_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        BlobStore(tmp_path, MIB)


FULL = """
import resource, sys
from puma.storage.blobs import BlobStore
store = BlobStore(sys.argv[1], 64 * 2**20)
store.put({b"a": b"x" * 1000})
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for n in range(10):
    store.put({b"%d" % n: b"y" * 400_000})
print(sorted(store.get([b"a", b"1"])), len(store))
"""


def test_a_disk_that_fills_up_stops_nothing_and_is_told_once(tmp_path):
    ran = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[b'a'] 1"
    assert ran.stderr.count("going on without it") == ran.stderr.count("\n") == 1
    assert BlobStore(tmp_path, 64 * MIB).get([b"a"]) == {b"a": b"x" * 1000}


WRITER = """
import sys
from puma.storage.blobs import BlobStore
store, first = BlobStore(sys.argv[1], 8 * 2**20), int(sys.argv[2])
for n in range(first, first + int(sys.argv[3])):
    store.put({n.to_bytes(16, "big"): (n.to_bytes(4, "big") * 20000)[:20000]})
    print(n, flush=True)
    for known in (n, n % 50):
        for found in store.get([known.to_bytes(16, "big")]).values():
            assert found == (known.to_bytes(4, "big") * 20000)[:20000], known
"""


def writer(folder, first, count):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, str(first), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_write_and_read_at_once(tmp_path):
    running = [writer(tmp_path, first, 150) for first in (0, 100)]
    for one in running:
        _, output = one.communicate(timeout=60)
        assert (one.returncode, output) == (0, "")
    assert BlobStore(tmp_path, 8 * MIB).get(key(n) for n in range(250)) == {key(n): value(n) for n in range(250)}


def test_killed_at_any_moment_what_was_kept_is_there(tmp_path):
    for turn, lines in enumerate((1, 7, 30)):
        one = writer(tmp_path, 1000 * turn, 300)
        last = [int(next(one.stdout)) for _ in range(lines)]
        one.send_signal(signal.SIGKILL)
        one.wait()
        one.stdout.close()
        one.stderr.close()
        found = BlobStore(tmp_path, 8 * MIB).get(key(n) for n in last)
        assert found == {key(n): value(n) for n in last}


def test_a_fork_has_a_connection_of_its_own(tmp_path):
    store = BlobStore(tmp_path, 4 * MIB)
    store.put({key(1): value(1)})
    child = os.fork()
    if child == 0:
        good = store.get([key(1)]) == {key(1): value(1)}
        store.put({key(2): value(2)})
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert set(store.get([key(1), key(2)])) == {key(1), key(2)}
