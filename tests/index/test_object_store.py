"""What is an object store's own: addresses, leases between writers, kills, and stores that cannot be used. A real S3
server (moto's) on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from puma.errors import InputError, StorageError
from puma.index import Index, remote
from puma.index.generations import Generation
from puma.index.object_generations import GenerationFolder, ObjectGenerations
from puma.index.remote import RemoteFolder
from puma.index.tables import locked
from puma.storage import object_stores
from puma.storage.object_stores import store_of
from support.engines import S3_ENVIRONMENT, free_port, placed
from support.index_child import rows_of

obstore = pytest.importorskip("obstore", reason="needs the extra object-store")


@pytest.fixture
def bucket(request, tmp_path):
    return placed(request, "s3", tmp_path)


def test_an_address_needs_a_name():
    with pytest.raises(InputError, match="write s3://BUCKET/NAME"):
        Index("s3://bucket")


@pytest.mark.timeout(60)
def test_no_store_is_said_within_seconds(monkeypatch):
    for name, value in (S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_stores, "RETRIES", 1)
    object_stores.store_of.cache_clear()
    with pytest.raises(StorageError, match=r"s3://bucket/name: the object store cannot be used .*AWS_ENDPOINT_URL"):
        Index("s3://bucket/name", dim=4)
    object_stores.store_of.cache_clear()


@pytest.fixture
def memory(monkeypatch):
    """A store in this process, which has conditional puts as well, and a lease of half a second."""
    from obstore.store import MemoryStore

    store = MemoryStore()
    monkeypatch.setattr(remote, "store_of", lambda _url: store)
    monkeypatch.setattr(remote, "LEASE_SECONDS", 0.6)
    return store


def test_a_renewal_whose_answer_is_lost_keeps_the_lease(memory, monkeypatch):
    real, lost = obstore.put, []

    def put(store, name, content, mode=None):
        result = real(store, name, content, mode=mode)
        if threading.current_thread().name == "puma-lease" and not lost:
            lost.append(name)
            raise OSError("the answer was lost")
        return result

    monkeypatch.setattr(obstore, "put", put)
    folder = RemoteFolder("s3://bucket/i")
    with folder.locked("x", 1):
        time.sleep(1.5)  # some renewals: the first one's answer is lost
        with folder.locked("x", 0) as second:
            assert not second
        with pytest.raises(StorageError, match="another process has been writing"), folder.locked("x", 1.0):
            raise AssertionError
    assert lost
    assert not list(memory.list().collect())


def test_a_writer_whose_lease_was_taken_is_told_so(memory):
    folder = RemoteFolder("s3://bucket/i")

    def write():
        with folder.locked("x", 1):
            obstore.put(memory, "x", b"of another writer")
            time.sleep(0.7)

    with pytest.raises(StorageError, match="another writer came in between; repeat"):
        write()
    assert bytes(obstore.get(memory, "x").bytes()) == b"of another writer"


def test_a_store_that_fails_while_a_writer_waits_is_named(memory, monkeypatch):
    obstore.put(memory, "x", b"held")

    def head(*_):
        raise obstore.exceptions.GenericError("connection reset")

    monkeypatch.setattr(obstore, "head", head)
    folder = RemoteFolder("s3://bucket/i")
    named = pytest.raises(StorageError, match=r"s3://bucket/i: the object store cannot be used .*reset")
    with named, folder.locked("x", 1):
        raise AssertionError


def test_an_object_is_replaced_only_where_nobody_was_faster(memory, monkeypatch):
    folder = RemoteFolder("s3://bucket/i")
    assert folder.replace("n", b"1", None)
    assert not folder.replace("n", b"2", None)
    _, tag = folder.read("n")
    assert folder.replace("n", b"3", tag)
    assert not folder.replace("n", b"4", tag)
    assert folder.read("n")[0] == b"3"
    # The store has it, and the answer was lost: obstore tries again and finds another tag.
    _, tag = folder.read("n")
    obstore.put(memory, "n", b"5")
    assert folder.replace("n", b"5", tag)
    folder.remove("n")
    folder.remove("n")
    assert folder.read("n") is None


def test_of_two_changes_of_the_model_one_counts(memory):
    one, other = (ObjectGenerations(RemoteFolder("s3://bucket/i"), None, None) for _ in range(2))
    used = one.current()
    made = one.begin("new", "new-1")
    with other.closed(used):
        with one.closed(used):
            one.switch(made)
        with pytest.raises(StorageError, match="another migration has changed the model meanwhile"):
            other.switch(Generation(2, "third", "third-1"))
    assert other.current() == made
    with pytest.raises(StorageError, match="another migration has changed"), other.closed(used):
        raise AssertionError
    with pytest.raises(StorageError, match="nothing was written"):
        GenerationFolder(RemoteFolder("s3://bucket/i"), 1).refuse_sealed("nothing was written")
    GenerationFolder(RemoteFolder("s3://bucket/i"), 2).refuse_sealed("nothing was written")


def test_a_note_that_is_damaged_is_named(memory):
    obstore.put(memory, "current.json", b"{")
    with pytest.raises(StorageError, match=r"s3://bucket/i/current.json: is not what 'puma index migrate' writes"):
        ObjectGenerations(RemoteFolder("s3://bucket/i"), None, None).current()


@pytest.mark.slow
def test_a_bucket_that_is_not_there_and_things_of_others(bucket):
    with pytest.raises(StorageError, match=r"s3://nobody/name: the object store cannot be used .*check the bucket"):
        Index("s3://nobody/name", dim=4)
    store = store_of(bucket("theirs"))
    obstore.put(store, "holiday.jpg", b"x")
    with pytest.raises(InputError, match=r"other things \(holiday.jpg\), and no index"):
        Index(bucket("theirs"), dim=4)
    assert [one["path"] for page in store.list() for one in page] == ["holiday.jpg"]


@pytest.mark.slow
def test_one_writer_at_a_time_and_a_dead_ones_lease_is_taken_over(bucket, monkeypatch):
    monkeypatch.setattr(remote, "LEASE_SECONDS", 1.0)
    folder = RemoteFolder(bucket("i"))
    order = []

    def hold():
        with locked(folder, "write"):
            order.append("first")
            time.sleep(2.5)  # longer than the lease: it is renewed
            order.append("first ends")

    first = threading.Thread(target=hold)
    first.start()
    while not order:
        time.sleep(0.01)
    with locked(folder, "write", wait=0) as mine:
        assert not mine
    with locked(folder, "write"):
        order.append("second")
    first.join()
    assert order == ["first", "first ends", "second"]
    store = store_of(folder.url)
    obstore.put(store, ".write.lock", b"of a process that was killed")
    with locked(folder, "write", wait=0) as mine:
        assert not mine
    begun = time.monotonic()
    with locked(folder, "write", wait=20) as mine:
        assert mine
    assert time.monotonic() - begun >= 1.0  # it was not renewed for so long
    obstore.put(store, ".write.lock", b"of another that lives")
    busy = pytest.raises(StorageError, match="another process has been writing this index for 0 seconds")
    with busy, locked(folder, "write", wait=0.3):
        raise AssertionError


@pytest.mark.slow
def test_a_writer_killed_in_the_middle_loses_no_acknowledged_row(bucket):
    address = bucket("i")
    code = (
        "import sys; from puma.index import remote; remote.LEASE_SECONDS = 2.0; "
        "from support import index_child; index_child.write(sys.argv[1], 'a', 0, int(sys.argv[2]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    acknowledged: list[int] = []
    for kill in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, address, "1000"], stdout=subprocess.PIPE, text=True, env=environment
        )
        acknowledged = [int(writer.stdout.readline()) for _ in range(3 + kill)]
        time.sleep(0.05 * kill)
        writer.kill()
        writer.communicate()
        index = Index(address, create=False)
        stored = {row.id for part in index.scan(vectors=False) for row in part}
        assert {name for batch in acknowledged for name in rows_of("a", batch)["ids"]} <= stored
        assert index.verify() == []
    last = acknowledged[-1] + 5
    subprocess.run([sys.executable, "-c", code, address, str(last)], env=environment, check=True, capture_output=True)
    index = Index(address)
    wanted = [name for batch in range(last) for name in rows_of("a", batch)["ids"]]
    assert [row.id for row in index.page(10_000, vectors=False)] == wanted
    assert index.stats()["thumbnails"] == len(wanted) // 2
    assert index.verify() == []


@pytest.mark.slow
def test_readers_see_a_writers_rows_and_compacting_keeps_them(bucket):
    index = Index(bucket("i"), dim=4)
    other = Index(bucket("i"))
    index.add(["a"], np.eye(4)[:1], ["text"], sources=["/a"])
    assert [hit.id for hit in other.search(np.eye(4)[0], 3)[0]] == ["a"]
    before = index.compact()
    assert 0 < before["bytes_after"] <= before["bytes_before"]
    assert other.stats()["rows"] == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_key_that_is_withdrawn_and_a_store_that_goes_away_are_said_by_an_open_index():
    """In a process of its own: clients keep their keys and endpoints."""
    code = (
        "import os; import numpy as np; from support.engines import S3_ENVIRONMENT, guarded_s3, running_s3\n"
        "from puma.index import Index\n"
        "row = (['a'], np.eye(2, dtype=np.float32)[:1], ['text'], [{}])\n"
        "def asked():\n"
        "    for ask in (lambda: index.page(9), lambda: index.search(row[1][0], 3), lambda: index.add(*row)):\n"
        "        try: print('done', ask())\n"
        "        except Exception as error: print(type(error).__name__, error)\n"
        "with running_s3() as endpoint:\n"
        "    os.environ.update(S3_ENVIRONMENT | {'AWS_ENDPOINT_URL': endpoint})\n"
        "    index = Index('s3://bucket/i', dim=2)\n"
        "    index.add(*row)\n"
        "    guarded_s3(endpoint)\n"
        "    asked()\n"
        "asked()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done
    for number, line in enumerate(lines):
        assert line.startswith("StorageError s3://bucket/i: the object store cannot be used ("), line
        assert ("InvalidAccessKeyId" if number < 3 else "error sending request") in line
        assert line.endswith(
            "check the bucket, the credentials and the endpoint (AWS_ENDPOINT_URL and so on), then repeat"
        )
